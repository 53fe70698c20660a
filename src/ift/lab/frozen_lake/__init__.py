"""Frozen Lake (paper, section 5.3), a world whose optimal policy is known. `ift frozen-lake` runs it."""

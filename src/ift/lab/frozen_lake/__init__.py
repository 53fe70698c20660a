"""Frozen Lake (paper, section 5.3): the one world where the optimal policy is known. `ift frozen-lake` runs it."""

"""Compares methods on the same rows: `ift compare` and `ift ablate` (docs/compare.md)."""

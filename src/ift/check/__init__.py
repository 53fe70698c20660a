"""Checks of the rows and the memory before a run."""

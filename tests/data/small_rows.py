"""Rows in canonical form."""

from ift.data import detect_format


def canonical(row, number=1):
    """A row as its format reads it."""
    return detect_format(row, [row]).convert(row, number)

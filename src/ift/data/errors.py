"""The error that this package raises for rows that cannot be used."""

from __future__ import annotations

from typing import Any


class DataError(ValueError):
    """Rows that cannot be used.

    The message names the place (file, line, row, column, key), what was found, what was expected, and one fix.
    """

    @classmethod
    def at(cls, row: int, place: str, found: str, expected: str, fix: str) -> DataError:
        """Builds the error for row `row` (from 1).

        `place` names column, turn and key, as in `column "messages", turn 2, key "content"`; `found` is from
        `describe`.
        """
        return cls(f"row {row}, {place}: found {found}, expected {expected}. Fix: {fix}")


def describe(value: Any) -> str:
    """Describes a value in about sixty characters: `null`, `the number 3`, `an empty list`, `the string 'abc'`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the string {value[:40]!r}{'...' if len(value) > 40 else ''}" if value else "an empty string"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)} items" if value else "an empty list"
    if isinstance(value, dict):
        keys = ", ".join(str(key) for key in list(value)[:6])
        return f"an object with keys {keys}" if value else "an empty object"
    return f"a value of type {type(value).__name__}"

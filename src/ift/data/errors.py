"""The one error of this room: something is wrong with the user's rows, said so that it can be put right."""

from __future__ import annotations

from typing import Any


class DataError(ValueError):
    """A data set that cannot be used as it is.

    The message always names the place (file, line, row, column, key), what was found, what was expected, and one
    line on how to put it right.
    """

    @classmethod
    def at(cls, row: int, place: str, found: str, expected: str, fix: str) -> DataError:
        """Builds the message of an error in one row.

        Args:
            row: Number of the row in its data set, counting from 1.
            place: Column, turn and key, as in `column "messages", turn 2, key "content"`.
            found: What stands there, as `describe` says it.
            expected: What should stand there.
            fix: One line on what the user can do.

        Returns:
            The error, to be raised by the caller.
        """
        return cls(f"row {row}, {place}: found {found}, expected {expected}. Fix: {fix}")


def describe(value: Any) -> str:
    """Says what a value is, in a user's words and in at most some sixty characters.

    Args:
        value: Anything that came out of a data set.

    Returns:
        A phrase such as `null`, `the number 3`, `an empty list`, `the string 'abc'`.
    """
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

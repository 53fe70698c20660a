"""A row as it was loaded, which tracks the columns that were read, so that unused ones can be reported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ift.data.encodings import wrong_characters
from ift.data.errors import DataError, describe
from ift.data.hints import other_name
from ift.data.known_names import COLUMNS, MEDIA, find, has_value, names, read_flag

KTO_MARKS = find(COLUMNS, "label").names


class SourceRow:
    """A row, its number, the columns read so far, and the notes about it.

    Attributes:
        number: Row number in its data set, from 1.
        notes: What to report about the row (the keys; a dict keeps their order).
        drop_reason: Why the whole row must not be trained; "" if it may be.
        untrained_mark: A key that marks a turn of the row as not trained; "" without one.
    """

    def __init__(self, row: Mapping[str, Any], number: int, features: Mapping[str, Any] | None = None):
        """Wraps a row; `features` are those of `columns_with_filled_nulls`."""
        self.number = number
        self.notes: dict[str, None] = {}
        self.drop_reason = self.untrained_mark = ""
        self._row, self._features = row, features or {}
        self._read: set[str] = set()

    def get(self, column: str) -> Any:
        """The value of a column, None for a missing column; marks the column as read."""
        self._read.add(column)
        value = self._row.get(column)
        return drop_filled_nulls(value, self._features[column]) if column in self._features else value

    def has(self, column: str) -> bool:
        """Whether the column has a value; does not mark it as read."""
        return has_value(self._row.get(column))

    def fills_nulls(self, column: str) -> bool:
        """Whether the column comes from a typed table (Arrow), in which a missing key is stored as null."""
        return column in self._features

    def first_of(self, columns: tuple[str, ...]) -> tuple[str, Any]:
        """Reads the first of some columns that has a value: its name and value, or ("", None)."""
        column = next((one for one in columns if self.has(one)), "")
        return column, self.get(column) if column else None

    def error(self, column: str, found: str, expected: str, fix: str) -> DataError:
        """Builds a `DataError` about a column of this row; names the column that it has in place of a missing one."""
        if found == describe(None) and (other := other_name(column, self.unused())):
            found, fix = (
                f'nothing there, but a column "{other}"',
                f'rename "{other}" to "{column}" in these rows',
            )
        return DataError.at(self.number, f'column "{column}"', found, expected, fix)

    def note(self, text: str) -> None:
        """Adds a note about this row."""
        self.notes[text] = None

    def refuse_media(self) -> None:
        """Raises DataError for images, audio or video, which would otherwise be left out silently."""
        for column in MEDIA:
            if self.has(column):
                fix = f"{find(COLUMNS, column).fix}, or rename the column if the text does not need it"
                raise self.error(column, describe(self._row[column]), "text alone", fix)

    def note_wrong_characters(self) -> None:
        """Notes the columns' text that a wrong encoding has damaged, of the columns that were read."""
        for what in wrong_characters({column: self._row.get(column) for column in self._read}):
            self.note(what)

    def read_marks(self, answers: bool = True) -> None:
        """Reads the columns that mark a row as trained or not, and sets `drop_reason` to the first that forbids it.

        `answers` is whether the row has an answer; without one, `label` is a class and not KTO's mark.
        """
        for column in names(COLUMNS, "mark"):
            value = self._row.get(column)
            if not has_value(value) or (column in KTO_MARKS and not answers):
                continue
            flag = read_flag(value)
            if flag is None and isinstance(value, int | float):
                raise self.error(
                    column, describe(value), "true or false",
                    f"rows cannot be weighted: drop those that are not to be trained; rename the column if it means "
                    f"something else (--dataset_columns {column}=my_{column})",
                )  # fmt: skip
            if flag is None:
                continue  # other text: reported as a column that is not used
            self._read.add(column)
            if not flag and not self.drop_reason:
                what = "a bad answer (KTO)" if column in KTO_MARKS else "not to be trained"
                self.drop_reason = f"{column} is {describe(value)}: {what}"

    def unused(self) -> list[str]:
        """Columns that have a value and were not read."""
        return [str(column) for column in self._row if column not in self._read and self.has(column)]


def columns_with_filled_nulls(dataset: Any) -> dict[str, Any]:
    """Features of the columns in which null may mean that a key is missing in this row but present in another.

    Arrow gives all objects of a column the same keys and fills in null. The JSON reader of `datasets` stores objects
    with different keys as JSON, so that every null in its rows is in the file.
    """
    if not dataset.features or dataset.info.builder_name == "json":
        return {}
    return {column: feature for column, feature in dataset.features.items() if _has_objects(feature)}


def _has_objects(feature: Any) -> bool:
    inner = getattr(feature, "feature", feature[0] if isinstance(feature, list) else None)
    return isinstance(feature, dict) or (inner is not None and _has_objects(inner))


def drop_filled_nulls(value: Any, feature: Any) -> Any:
    """Drops null entries of nested objects that Arrow may have filled in.

    JSON values are unchanged, and so are objects that have a value for every key which is not null in all rows.
    """
    if isinstance(feature, dict) and isinstance(value, dict):
        nulls = [key for key, item in value.items() if item is None]
        filled = any(getattr(feature.get(key), "dtype", "") != "null" for key in nulls)
        kept = {key: item for key, item in value.items() if item is not None or not filled}
        return {key: drop_filled_nulls(item, feature.get(key)) for key, item in kept.items()}
    inner = getattr(feature, "feature", feature[0] if isinstance(feature, list) and feature else None)
    if inner is not None and isinstance(value, list | tuple):
        return [drop_filled_nulls(item, inner) for item in value]
    return value

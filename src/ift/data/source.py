"""One row as it was loaded: it hands out columns and remembers what was read, so that the rest can be named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ift.data.errors import DataError, describe
from ift.data.known import COLUMNS, MEDIA, find, has_value, names, read_flag

KTO_MARKS = find(COLUMNS, "label").names


class SourceRow:
    """A row, its number, what was read of it, and what is to be reported about it.

    Attributes:
        number: Of the row in its data set, counting from 1.
        notes: What is to be reported, each once.
        untrained: Why the row as a whole must not be trained; empty if it may be.
        marked: A key by which a turn says that it is not to be trained; empty if there is none.
    """

    def __init__(self, row: Mapping[str, Any], number: int, features: Mapping[str, Any] | None = None):
        """Wraps a row.

        Args:
            row: Column to value; not written into.
            number: Of the row, counting from 1.
            features: Of the columns whose nested null values Arrow may have filled in, see `columns_with_filled_nulls`.
        """
        self.number = number
        self.notes: dict[str, None] = {}
        self.untrained = self.marked = ""
        self._row, self._features = row, features or {}
        self._read: set[str] = set()

    def get(self, column: str) -> Any:
        """The value of a column, None if there is no such column; it counts as read."""
        self._read.add(column)
        value = self._row.get(column)
        return drop_filled(value, self._features[column]) if column in self._features else value

    def has(self, column: str) -> bool:
        """Whether the column was filled in; it does not count as read."""
        return has_value(self._row.get(column))

    def first_of(self, columns: tuple[str, ...]) -> tuple[str, Any]:
        """Reads the first of some columns that is filled in: its name and value, or ("", None)."""
        column = next((one for one in columns if self.has(one)), "")
        return column, self.get(column) if column else None

    def error(self, column: str, found: str, expected: str, fix: str) -> DataError:
        """A `DataError` at a column of this row, to be raised."""
        return DataError.at(self.number, f'column "{column}"', found, expected, fix)

    def note(self, text: str) -> None:
        """Reports something about this row."""
        self.notes[text] = None

    def refuse_media(self) -> None:
        """Raises DataError for images, sound or video: a model of text would be trained without them."""
        for column in MEDIA:
            if self.has(column):
                fix = f"{find(COLUMNS, column).fix}, or rename the column if the text does not need it"
                raise self.error(column, describe(self._row[column]), "text alone", fix)

    def read_marks(self, answers: bool = True) -> None:
        """Reads the columns that say whether the row may be trained; `untrained` names the first that forbids it.

        Args:
            answers: Whether the row has an answer; without one, `label` is no mark of KTO but a class.
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
                continue  # some other text: named as a column that is not used
            self._read.add(column)
            if not flag and not self.untrained:
                what = "a bad answer (KTO)" if column in KTO_MARKS else "not to be trained"
                self.untrained = f"{column} is {describe(value)}: {what}"

    def unused(self) -> list[str]:
        """Columns that were filled in and that nothing has read."""
        return [str(column) for column in self._row if column not in self._read and self.has(column)]


def columns_with_filled_nulls(dataset: Any) -> dict[str, Any]:
    """Finds the columns in which null may mean "no such key here, but in another row".

    Arrow gives all objects of a column the same keys and fills in null. The JSON reader of `datasets` does not: it
    keeps objects whose keys differ as JSON, so that every null in its rows stands in the file.

    Args:
        dataset: A `datasets.Dataset` or `IterableDataset`.

    Returns:
        The features of these columns by name.
    """
    if not dataset.features or dataset.info.builder_name == "json":
        return {}
    return {column: feature for column, feature in dataset.features.items() if _has_objects(feature)}


def _has_objects(feature: Any) -> bool:
    inner = getattr(feature, "feature", feature[0] if isinstance(feature, list) else None)
    return isinstance(feature, dict) or (inner is not None and _has_objects(inner))


def drop_filled(value: Any, feature: Any) -> Any:
    """Drops the null entries of nested objects that Arrow may have filled in.

    Args:
        value: A nested value.
        feature: Its feature. What it says is JSON stays as it is, and so do the nulls of an object that has a value
            for every key that is not null in all rows: nothing was filled in there.

    Returns:
        The value without them.
    """
    if isinstance(feature, dict) and isinstance(value, dict):
        nulls = [key for key, item in value.items() if item is None]
        filled = any(getattr(feature.get(key), "dtype", "") != "null" for key in nulls)
        kept = {key: item for key, item in value.items() if item is not None or not filled}
        return {key: drop_filled(item, feature.get(key)) for key, item in kept.items()}
    inner = getattr(feature, "feature", feature[0] if isinstance(feature, list) and feature else None)
    if inner is not None and isinstance(value, list | tuple):
        return [drop_filled(item, inner) for item in value]
    return value

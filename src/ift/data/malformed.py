"""Names all rows of text files that cannot be trained, where some of them cannot even be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from ift.data.errors import DataError, RowFault
from ift.data.formats import DETECTION_ROWS, Format, detect_format, other_format
from ift.data.lengths import NO_LIMIT, LengthLimit
from ift.data.origin import CHECKED_ROWS, RowPreparation
from ift.data.review import RowReview
from ift.data.source import SourceRow
from ift.data.text_files import FAULTS_AT_MOST, UnreadableRows, numbered_rows, unreadable
from ift.text import counted

# from a format, and whether rows are pairs: what prepares each row as a run would
Preparation = Callable[[Format, bool], RowPreparation]


@contextmanager
def all_malformed_rows(
    columns: Mapping[str, str], pairs: bool, preparation: Preparation | None = None
) -> Iterator[None]:
    """While active, a refusal of unreadable rows also names the rows that can be read and not be used.

    Args:
        columns: Columns that are renamed after loading, old name to new.
        pairs: Whether the rows are read as preference pairs.
        preparation: Also finds what the chat template refuses, and rows that are too long or would be dropped; None
            reads the rows only.
    """
    try:
        yield
    except UnreadableRows as error:
        rows = [] if len(error.faults) >= FAULTS_AT_MOST else list(_rows(error, columns))
        found, remarks = _review(rows, pairs, preparation)
        if not (found or remarks):
            raise
        order = [str(file) for file in error.files]
        faults = sorted([*error.faults, *found], key=lambda one: (order.index(one.file), one.row))
        raise unreadable(faults, counted(len(rows), "row"), error.files, remarks) from error


def _rows(error: UnreadableRows, columns: Mapping[str, str]) -> Iterator[tuple[RowFault, dict[str, Any]]]:
    """The rows of the files, with a fault that has their place; {} for one that cannot be read."""
    for file in error.files:
        for number, (line, row) in enumerate(numbered_rows(Path(file)), start=1):
            values = {} if isinstance(row, RowFault) else row
            place = RowFault(number, "", "", "", "", line, file=str(file))
            yield place, {columns.get(name, name): value for name, value in values.items()}


def _review(
    rows: list[tuple[RowFault, dict[str, Any]]], pairs: bool, preparation: Preparation | None
) -> tuple[list[RowFault], list[str]]:
    """What is wrong with rows that can be read: the malformed ones, and remarks about the others or about all."""
    readable = [(place, row) for place, row in rows if row]
    columns = {name: None for _, row in readable for name in row}
    if not columns:
        return [], []
    try:
        form = detect_format(columns, [row for _, row in readable[:DETECTION_ROWS]])
        pairs = pairs and {"chosen", "rejected"} <= columns.keys()
        prepares = _ReadRow(form, pairs) if preparation is None else preparation(form, pairs)
        review = RowReview(prepares.prepare, prepares.limit)
        for place, row in islice(readable, CHECKED_ROWS):
            review.add({**dict.fromkeys(columns), **row}, place.row - 1, place)
    except DataError as error:  # of no single row
        return [], [str(error)]
    return review.faults, review.remarks()


@dataclass(frozen=True)
class _ReadRow(RowPreparation):
    """Converts rows to the canonical form, without a tokenizer."""

    form: Format
    pairs: bool
    numbers: tuple[int, ...] | None = None
    limit: LengthLimit = NO_LIMIT

    def prepare(self, row: Any, index: int) -> dict[str, Any]:
        source = SourceRow(row, self.number(index))
        try:
            if self.pairs:
                from ift.data.pairs import read_pair

                read_pair(self.form, source)
            else:
                self.form.read(source)
        except DataError as error:
            if error.fault is None or self.pairs:
                raise
            fix = error.fault.fix + other_format(self.form, row)
            raise DataError.of(replace(error.fault, fix=fix)) from error
        return {"ift_length": 0, "ift_reason": ""}

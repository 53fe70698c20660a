"""Names all rows of text files that cannot be trained, where some of them cannot even be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from ift.data.errors import DataError, RowFault
from ift.data.formats import DETECTION_ROWS, Format, detect_format, other_format
from ift.data.origin import CHECKED_ROWS
from ift.data.source import SourceRow
from ift.data.text_files import FAULTS_AT_MOST, UnreadableRows, numbered_rows, unreadable


@contextmanager
def all_malformed_rows(columns: Mapping[str, str], pairs: bool) -> Iterator[None]:
    """While active, a refusal of unreadable rows also names the rows that can be read and not be used.

    What only the tokenizer and its chat template refuse is found once all rows can be read.

    Args:
        columns: Columns that are renamed after loading, old name to new.
        pairs: Whether the rows are read as preference pairs.
    """
    try:
        yield
    except UnreadableRows as error:
        rows = [] if len(error.faults) >= FAULTS_AT_MOST else list(_rows(error, columns))
        found = _malformed(rows, pairs)
        if not found:
            raise
        order = [str(file) for file in error.files]
        faults = sorted([*error.faults, *found], key=lambda one: (order.index(one.file), one.row))
        raise unreadable(faults, f"{len(rows):,} rows", error.files) from error


def _rows(error: UnreadableRows, columns: Mapping[str, str]) -> Iterator[tuple[RowFault, dict[str, Any]]]:
    """The rows of the files, with a fault that has their place; {} for one that cannot be read."""
    for file in error.files:
        for number, (line, row) in enumerate(numbered_rows(Path(file)), start=1):
            values = {} if isinstance(row, RowFault) else row
            place = RowFault(number, "", "", "", "", line, file=str(file))
            yield place, {columns.get(name, name): value for name, value in values.items()}


def _malformed(rows: list[tuple[RowFault, dict[str, Any]]], pairs: bool) -> list[RowFault]:
    """The faults of rows that can be read; none if their format is not known."""
    readable = [(place, row) for place, row in rows if row]
    columns = {name: None for _, row in readable for name in row}
    try:
        form = detect_format(columns, [row for _, row in readable[:DETECTION_ROWS]])
    except DataError:
        return []
    pairs = pairs and {"chosen", "rejected"} <= columns.keys()
    faults = []
    for place, row in islice(readable, CHECKED_ROWS):
        source = SourceRow({**dict.fromkeys(columns), **row}, place.row)
        try:
            _read(form, source, pairs)
        except DataError as error:
            if error.fault is not None:
                fix = error.fault.fix + ("" if pairs else other_format(form, row))
                faults.append(replace(error.fault, fix=fix, file=place.file, line=place.line))
    return faults


def _read(form: Format, source: SourceRow, pairs: bool) -> None:
    if pairs:
        from ift.data.pairs import read_pair

        read_pair(form, source)
    else:
        form.read(source)

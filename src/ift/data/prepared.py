"""A data set as it was loaded, and as the trainer needs it: with the places that its rows are from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ift.data.errors import RowFault
from ift.data.loading import is_local
from ift.data.origin import Origin
from ift.data.renaming import Renaming
from ift.data.report import DataReport, RowLengths

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


SHOWN = 8  # rows whose places are named together


@dataclass(frozen=True)
class Prepared:
    """Rows ready for the trainer.

    Attributes:
        dataset: `input_ids` and `labels` (-100 at untrained tokens), truncated to `max_length`.
        report: Counts of the rows.
        lengths: Of all rows that were read; empty in a mixture and a stream.
        numbers: As in `Part`, of all rows that were read; None in a mixture.
        origin: As in `Part`; None in a mixture.
        parts: Those of a mixture, in order.
        loaded: The rows as loaded, of a stream those that are kept; None in a mixture.
        renaming: As in `Part`; not that of a mixture.
    """

    dataset: Dataset | IterableDataset
    report: DataReport
    lengths: RowLengths = field(default_factory=RowLengths)
    numbers: tuple[int, ...] | None = None
    origin: Origin | None = None
    parts: tuple[Prepared, ...] = ()
    loaded: Dataset | IterableDataset | None = None
    renaming: Renaming = field(default_factory=Renaming)

    def kept_numbers(self) -> list[int]:
        """Numbers (from 1, in the data as loaded) of the rows of `dataset`; not for a mixture or a stream."""
        dropped = {number for rows in self.report.dropped.values() for number in rows}
        return [one for one in self.numbers or range(1, self.report.rows_read + 1) if one not in dropped]

    def located(self, numbers: Sequence[int]) -> list[RowFault]:
        """The files of rows with these numbers as loaded, where known, and the rows in them; not for a mixture."""
        faults = [RowFault(number, "", "", "", "") for number in numbers]
        if self.origin is None:
            return faults
        if file := self.origin.only_file:  # need not be read again
            placed = [replace(one, file=str(file)) for one in faults]
        else:
            placed = self.origin.locate(faults)
        return placed

    def names(self, numbers: Sequence[int]) -> str:
        """The places of up to `SHOWN` rows as text: `row 3, row 7 of a.csv; row 2 of b.csv`."""
        shown = [
            ", ".join(one.number for one in rows) + (f" of {Path(file).name}" if file else "")
            for file, rows in groupby(self.located(numbers[:SHOWN]), key=lambda one: one.file)
        ]
        return "; ".join(shown) + ", ..." * (len(numbers) > SHOWN)

    def places(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Where rows of `dataset` (numbers from 1) are from: `file`, if known, and `file_row`; {} in a stream."""
        found = {}
        for row, (part, one) in self._located(rows).items():
            local = part.origin is not None and is_local(part.origin.name)
            name = Path(one.file).name if local else one.file
            found[row] = {**({"file": name} if name else {}), "file_row": one.row}
        return [found.get(row, {}) for row in rows]

    def columns(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """All columns, as loaded, of rows of `dataset` (numbers from 1); what JSON does not have (dates) is text."""
        found: dict[int, Any] = {}
        if self.report.streaming:
            kept = chain.from_iterable(part.loaded or () for part in self.parts or (self,))
            found = dict(enumerate(islice(kept, max(rows, default=0)), start=1))
        for part, numbers in self._numbered(rows):
            places = {number: index for index, number in enumerate(part.numbers or ())}
            for row, number in numbers.items():
                found[row] = part.loaded[places.get(number, number - 1)] if part.loaded is not None else {}
        return [json.loads(json.dumps(found[row], default=str)) for row in rows]

    def name_of(self, row: int) -> str:
        """A row of `dataset` (from 1) for messages: `row 3`, with its file or data set where there are several.

        In a stream it is the number among the rows that were kept.
        """
        part, one = self._located([row]).get(row, (self, RowFault(row, "", "", "", "")))
        origin = part.origin
        single = origin is None or not origin.splits or origin.only_file
        if not self.parts and single:
            return f"row {one.row}"
        place = one.file or part.report.name.removeprefix(f"{self.report.name} ")
        return f"row {one.row}" if part is self and not one.file else f"row {one.row} of {place}"

    def _located(self, rows: Sequence[int]) -> dict[int, tuple[Prepared, RowFault]]:
        """Of rows of `dataset` (from 1): the part, and the row in its file; without those of a stream."""
        found: dict[int, tuple[Prepared, RowFault]] = {}
        for part, numbers in self._numbered(rows):
            placed = part.located([*numbers.values()])
            found |= {row: (part, one) for row, one in zip(numbers, placed, strict=True)}
        return found

    def _numbered(self, rows: Sequence[int]) -> Iterator[tuple[Prepared, dict[int, int]]]:
        """Each part with those of the rows of `dataset` (from 1) that it has, and their numbers as loaded."""
        first = 0
        for part in self.parts or (self,):
            inside = [row for row in rows if first < row <= first + part.report.rows_kept]
            numbers = part.kept_numbers() if inside else []
            yield part, {row: numbers[row - first - 1] for row in inside}
            first += part.report.rows_kept


@dataclass(frozen=True)
class Part:
    """One data set of a mixture.

    Attributes:
        name: Name in reports.
        rows: The rows as loaded.
        numbers: The numbers of the rows, where others were taken out; None if they are 1, 2, 3 and so on.
        origin: Where the rows are from; None if unknown.
        renaming: The columns that were renamed.
    """

    name: str
    rows: Dataset | IterableDataset
    numbers: tuple[int, ...] | None = None
    origin: Origin | None = None
    renaming: Renaming = field(default_factory=Renaming)

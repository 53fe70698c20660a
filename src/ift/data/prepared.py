"""A data set as it was loaded, and as the trainer needs it: with the places that its rows are from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ift.data.errors import RowFault
from ift.data.loading import is_local
from ift.data.origin import Origin
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
    """

    dataset: Dataset | IterableDataset
    report: DataReport
    lengths: RowLengths = field(default_factory=RowLengths)
    numbers: tuple[int, ...] | None = None
    origin: Origin | None = None
    parts: tuple[Prepared, ...] = ()

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
        local = is_local(self.origin.name)
        return [replace(one, file=Path(one.file).name if local else one.file) for one in placed]

    def names(self, numbers: Sequence[int]) -> str:
        """The places of up to `SHOWN` rows as text: `a.csv row 3, row 7, b.csv row 2`."""
        shown, file = [], ""
        for one in self.located(numbers[:SHOWN]):
            shown.append(f"{one.file} {one.number}" if one.file != file else one.number)
            file = one.file
        return ", ".join(shown) + ", ..." * (len(numbers) > SHOWN)

    def places(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Where rows of `dataset` (numbers from 1) are from: `file`, if known, and `file_row`; {} in a stream."""
        found: dict[int, dict[str, Any]] = {}
        first = 0
        for part in self.parts or (self,):
            inside = [row for row in rows if first < row <= first + part.report.rows_kept]
            numbers = part.kept_numbers() if inside else []
            placed = part.located([numbers[row - first - 1] for row in inside])
            for row, one in zip(inside, placed, strict=True):
                found[row] = {**({"file": one.file} if one.file else {}), "file_row": one.row}
            first += part.report.rows_kept
        return [found.get(row, {}) for row in rows]


@dataclass(frozen=True)
class Part:
    """One data set of a mixture.

    Attributes:
        name: Name in reports.
        rows: The rows as loaded.
        numbers: The numbers of the rows, where others were taken out; None if they are 1, 2, 3 and so on.
        origin: Where the rows are from; None if unknown.
    """

    name: str
    rows: Dataset | IterableDataset
    numbers: tuple[int, ...] | None = None
    origin: Origin | None = None

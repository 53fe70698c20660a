"""Where rows come from: the files of a data set, which the refusal of a row names, and refusing many rows at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import version
from itertools import count, islice
from pathlib import Path
from typing import Any

from ift.data.errors import DataError, RowFault, RowsRefused, refuse_rows
from ift.data.lengths import LengthLimit
from ift.data.review import RowReview
from ift.data.text_files import numbered_rows
from ift.text import counted

CHECKED_ROWS = (
    50_000  # rows that are checked after the first malformed one, so that its refusal does not take hours
)


@dataclass(frozen=True)
class Origin:
    """The files that the rows of a data set were read from; they are read again to place a malformed row.

    Attributes:
        name: The data set as the user named it.
        splits: Name of each split -> its files; empty for a data set of the Hub or of `save_to_disk`.
        split: The split that was loaded, or slices such as `train[:100]`.
    """

    name: str
    splits: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    split: str = "train"

    @property
    def files(self) -> list[Path]:
        """The files of the split, or of all splits that slices name."""
        return [file for name, files in self.splits.items() if name in self.split for file in files]

    @property
    def only_file(self) -> Path | None:
        """The file whose rows are the data set, all of them and in order; None for several files or a part of one."""
        files = self.splits.get(self.split, ())
        return files[0] if len(files) == 1 else None

    def locate(self, faults: Sequence[RowFault]) -> list[RowFault]:
        """The faults with their file, and with row and line as they are in the file."""
        wanted, found = {fault.row for fault in faults}, {}
        try:
            for row, place in zip(count(1), self._places(), strict=False):
                if row in wanted:
                    found[row] = place
                if len(found) == len(wanted):
                    break
        except (DataError, OSError):  # a file has changed since it was loaded
            found = {}
        return [self._placed(fault, found.get(fault.row)) for fault in faults]

    def _placed(self, fault: RowFault, place: tuple[Path, int, int | None] | None) -> RowFault:
        if place is None:
            split = "" if self.split == "train" else f', split "{self.split}"'
            return replace(fault, file=f"{self.name}{split}")
        file, row, line = place
        return replace(fault, file=str(file), row=row, line=line)

    def _places(self) -> Iterator[tuple[Path, int, int | None]]:
        """File, row and line of each row of the data set, in order."""
        if self.split in self.splits:
            for file in self.splits[self.split]:
                yield from _places_in(file)
        elif self.splits:
            from datasets import ReadInstruction

            named = {name: files for name, files in self.splits.items() if name in self.split}
            places = {
                name: [one for file in files for one in _places_in(file)] for name, files in named.items()
            }
            sizes = {name: len(found) for name, found in places.items()}
            for part in ReadInstruction.from_spec(self.split).to_absolute(sizes):
                yield from places[part.splitname][part.from_ : part.to]


def _places_in(file: Path) -> Iterator[tuple[Path, int, int | None]]:
    if file.suffix.lower() == ".parquet":
        from pyarrow.parquet import read_metadata

        yield from ((file, row + 1, None) for row in range(read_metadata(file).num_rows))
        return
    for row, (line, _) in enumerate(numbered_rows(file), start=1):
        yield file, row, line


class RowPreparation:
    """A function that prepares one row, for `map_rows`; its errors name the file or the data set.

    Attributes:
        name: Of the data set.
        origin: Where its rows are from; None if unknown.
        numbers: Numbers of the rows, where others were taken out; None if they are 1, 2, 3 and so on.
        limit: The limits of a row's length.
    """

    name: str
    origin: Origin | None
    numbers: tuple[int, ...] | None
    limit: LengthLimit

    def __getstate__(self) -> dict[str, Any]:
        """The attributes and `code_of_rows`, so that `datasets` reuses no rows that other code has prepared."""
        return self.__dict__ | {"code": code_of_rows()}

    def number(self, index: int) -> int:
        """The number of the row at `index`, from 1."""
        return self.numbers[index] if self.numbers else index + 1

    def prepare(self, row: Any, index: int) -> dict[str, Any]:
        """The prepared row; raises DataError with the number of the row in the data set."""
        raise NotImplementedError

    def __call__(self, row: Any, index: int) -> dict[str, Any]:
        """As `prepare`; an error names the file and the row in it."""
        try:
            return self.prepare(row, index)
        except DataError as error:
            if error.fault is None:
                raise DataError(f"{self.name} data, {error}") from error
            (fault,) = self.origin.locate([error.fault]) if self.origin else [error.fault]
            raise DataError.of(fault, fault.file or f"{self.name} data") from error


@cache
def code_of_rows() -> str:
    """Identifies the code that prepares rows: that of `ift.data`, and the versions of what renders and splits text."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("**/*.py")):
        digest.update(file.read_bytes())
    return " ".join([digest.hexdigest(), *map(version, ("transformers", "tokenizers", "jinja2"))])


def map_rows(rows: Any, preparation: RowPreparation, **options: Any) -> Any:
    """`rows.map(preparation, **options)` for a data set that is no stream.

    Raises:
        RowsRefused: Malformed rows; the message names the first ten of the first `CHECKED_ROWS` rows.
        DataError: Another problem.
    """
    try:
        return rows.map(preparation, **options)
    except DataError as error:
        if error.fault is None:
            raise
        raise _refuse(rows, preparation, error.fault) from error


def _refuse(rows: Any, preparation: RowPreparation, first: RowFault) -> RowsRefused:
    review = RowReview(preparation.prepare, preparation.limit)
    for index, row in enumerate(islice(rows, CHECKED_ROWS)):
        review.add(row, index, RowFault(preparation.number(index), "", "", "", ""))
    if not review.faults:  # the malformed rows come later
        return refuse_rows([first], "", f"{preparation.name} data")
    locate = preparation.origin.locate if preparation.origin else list
    checked = counted(len(rows), "row") if len(rows) <= CHECKED_ROWS else f"the first {CHECKED_ROWS:,} rows"
    return refuse_rows(locate(review.faults), checked, f"{preparation.name} data", review.remarks(locate))

"""Loads text files as data sets of `datasets`, with every value as it is in the file."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ift.data.errors import DataError, RowFault
from ift.data.text_files import FAULTS_AT_MOST, numbered_rows, read_rows, unreadable
from ift.text import counted, quoted

if TYPE_CHECKING:
    from datasets import Dataset, Features, IterableDataset

VERSION = 2  # of the cached rows; a new version invalidates the cache
STREAM_ROWS = 1000  # rows of a stream that determine its columns
_PLAIN = {str: "string", int: "int64", float: "float64", bool: "bool"}


def load_text_files(files: Sequence[Path]) -> Dataset:
    """Reads .jsonl, .json, .csv and .tsv files into the cache of `datasets`; a first pass finds the column types.

    A column of strings, or of numbers of one type, has that type; every other column is stored as JSON, so that an
    object keeps exactly the keys of its row.

    Raises:
        UnreadableRows: Rows that cannot be read or stored; the message names the first ten.
        DataError: A file cannot be read, there are no rows, or the cache cannot be written.
    """
    from datasets import Dataset, config
    from datasets.exceptions import DatasetGenerationError

    features = _features(files)
    stamps = [(str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    fingerprint = hashlib.sha256(json.dumps([VERSION, stamps]).encode()).hexdigest()[:32]
    try:
        rows = Dataset.from_generator(
            _rows,
            features=features,
            gen_kwargs={"files": [str(file) for file in files], "columns": tuple(features)},
            fingerprint=fingerprint,
        )
    except (OSError, DatasetGenerationError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, DataError):
            raise _unstorable(files, features) or cause from None
        raise DataError(
            f"{_shown(files)}: the rows cannot be kept in the cache of datasets, {config.HF_DATASETS_CACHE}: "
            f"{quoted(cause)}. "
            "Fix: set HF_DATASETS_CACHE to a folder with room that can be written to"
        ) from error
    rows.info.features = (
        features  # the cache restores the Json feature of datasets, which rounds long numbers
    )
    return rows


def stream_text_files(files: Sequence[Path]) -> IterableDataset:
    """Reads .jsonl, .json, .csv and .tsv files lazily; a row that cannot be read raises DataError when it is reached.

    Columns are the keys of the first rows; a row may have further keys.
    """
    from datasets import IterableDataset

    first = itertools.islice(_all_rows(files), STREAM_ROWS)
    columns = tuple(dict.fromkeys(key for row in first for key in row))
    return IterableDataset.from_generator(
        _rows, gen_kwargs={"files": [str(file) for file in files], "columns": columns}
    )


def _rows(files: Sequence[str], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Generator of both loaders: every row has all `columns`, and its further keys."""
    empty = dict.fromkeys(columns)
    for row in _all_rows([Path(file) for file in files]):
        yield {**empty, **row}


def _all_rows(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for file in files:
        yield from read_rows(file)


def _features(files: Sequence[Path]) -> Features:
    """The type of each column, from all rows of all files; raises UnreadableRows."""
    from datasets import Features, Value

    from ift.data.json_column import JsonColumn

    kinds: dict[str, set[type]] = {}
    faults: list[RowFault] = []
    number = 0
    for _, row in itertools.chain.from_iterable(map(numbered_rows, files)):
        number += 1
        if isinstance(row, RowFault):
            faults.append(row)
            if len(faults) == FAULTS_AT_MOST:
                raise unreadable(faults, f"the first {counted(number, 'row')}", files)
            continue
        for name, value in row.items():
            found = kinds.setdefault(name, set())
            if value is not None:
                large = isinstance(value, int) and value.bit_length() > 63
                found.add(object if large else type(value))
    if faults:
        raise unreadable(faults, counted(number, "row"), files)
    if not kinds:
        raise DataError(
            f"{_shown(files)}: found no rows, expected at least one. Fix: check how it was written"
        )
    features = {}
    for name, found in kinds.items():
        only = next(iter(found or {str})) if len(found) < 2 else object
        features[name] = Value(_PLAIN[only]) if only in _PLAIN else JsonColumn()
    return Features(features)


def _shown(files: Sequence[Path]) -> str:
    return ", ".join(map(str, files[:3]))


def _unstorable(files: Sequence[Path], features: Features) -> DataError | None:
    """The error that names the rows whose values cannot be stored; None if all can."""
    from ift.data.json_column import JsonColumn

    stored = {name: column for name, column in features.items() if isinstance(column, JsonColumn)}
    faults: list[RowFault] = []
    number = 0
    for file in files:
        for row, (line, values) in enumerate(numbered_rows(file), start=1):
            number += 1
            for name, column in stored.items():
                try:
                    column.encode_example(values.get(name) if isinstance(values, dict) else None)
                except DataError as error:
                    problem, _, fix = str(error).partition(". Fix: ")
                    place = f'column "{name}"'
                    faults.append(RowFault(row, place, problem, "", fix, line, file=str(file)))
    return unreadable(faults, counted(number, "row"), files) if faults else None

"""Adds the answers of a study to its records: the values of rows, and rows to show side by side."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from ift.files import numbered_lines
from ift.lab.report.records import RunRecord, Sample

SHOWN = 20  # rows of each split where methods differ
Line = Mapping[str, Any]


def with_answers(records: Mapping[Path, RunRecord]) -> dict[Path, RunRecord]:
    """Add the answers of their runs to records; records without a file of answers stay unchanged.

    The files are in the folder `answers` next to the folder of the records. They add the values of rows to records
    without them, and samples: at most `SHOWN` rows of each split, evenly spread over the rows on which methods differ.
    """
    lines = {file: _read(file) for file in records}
    filled = {file: _with_rows(record, lines[file]) for file, record in records.items()}
    groups: dict[tuple[str, str], list[Path]] = {}
    for file, record in filled.items():
        if lines[file]:
            groups.setdefault((record.experiment, record.setting), []).append(file)
    for files in groups.values():
        trained = [lines[file] for file in files if filled[file].method != "base"]
        chosen = differing_rows(trained)
        for file in files:
            new = [sample(line) for line in lines[file] if _key(line) in chosen]
            shown = {(one.split, one.id) for one in new}
            new += [one for one in filled[file].samples if (one.split, one.id) not in shown]
            filled[file] = replace(filled[file], samples=new)
    return filled


def with_row_scores(file: Path, record: RunRecord) -> RunRecord:
    """The record of a file, with the values of its rows from its answers if it has none itself."""
    return _with_rows(record, _read(file))


def differing_rows(runs: Sequence[Sequence[Line]]) -> set[tuple[str, str]]:
    """Split and id of at most `SHOWN` rows of each split on which not all runs are equally good."""
    values: dict[tuple[str, str], set[Any]] = {}
    for lines in runs:
        for line in lines:
            values.setdefault(_key(line), set()).add(_value(line))
    splits: dict[str, list[tuple[str, str]]] = {}
    for key, found in values.items():
        if len(found) > 1:
            splits.setdefault(key[0], []).append(key)
    return {key for keys in splits.values() for key in _spread(keys)}


def sample(line: Line) -> Sample:
    """Make the sample of a record from a line of answers."""
    return Sample(
        split=line.get("split", "test"),
        id=str(line["row"]),
        **{name: line[name] for name in ("prompt", "target", "answer", "right")},
        first_wrong_step=line.get("first_wrong_step"),
        scores=line.get("scores"),
    )


def _spread(keys: list[tuple[str, str]]) -> list[tuple[str, str]]:
    count = min(SHOWN, len(keys))
    return [keys[place * len(keys) // count] for place in range(count)]


def _key(line: Line) -> tuple[str, str]:
    return line.get("split", "test"), str(line["row"])


def _value(line: Line) -> Any:
    """The value that says how good an answer is: right or wrong, otherwise its first score, otherwise its text."""
    if line["right"] is not None:
        return line["right"]
    return next(iter((line.get("scores") or {}).values()), line["answer"])


def _read(file: Path) -> list[Line]:
    answers = file.parent.parent / "answers" / f"{file.stem}.jsonl"
    if file.suffix != ".json" or not answers.is_file():
        return []
    return [json.loads(line) for _, line in numbered_lines(answers)]


def _with_rows(record: RunRecord, lines: Sequence[Line]) -> RunRecord:
    """The record with the values of its rows, for scores that are means over rows."""
    if record.row_scores or not lines:
        return record
    found: dict[str, dict[str, list[float]]] = {}
    for split, scores in record.scores.items():
        of_split = [line for line in lines if line.get("split", "test") == split]
        for name, total in scores.items():
            values = [_row_value(line, name) for line in of_split]
            kept = [value for value in values if value is not None]
            if total is None or not kept or len(kept) != scores["n"]:
                continue
            if math.isclose(fmean(kept), total, rel_tol=1e-6, abs_tol=1e-9):  # not so for BLEU of a corpus
                found.setdefault(split, {})[name] = kept
    return replace(record, row_scores=found)


def _row_value(line: Line, name: str) -> float | None:
    value = (line.get("scores") or {}).get(name)
    if value is None and name == "exact_match" and line["right"] is not None:
        value = line["right"]
    return None if value is None else float(value)

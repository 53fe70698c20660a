"""Rewrite JSON records compactly, in place: `python docs/compact_records.py [--digits 7] FILE.json ...`.

A line for every key of the file, and for every object of a list there. With `--lines ALL.jsonl` the files are left as
they are and become the lines of that one. (Run records have a verb of their own: `ift report RUNS --pack ALL.jsonl`.)
With `--study` the files are such packed studies: runs lose what a run above them says too, and values of rows their
".0".
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def rounded(value: Any, digits: int | None) -> Any:
    """The value, its fractions cut to so many significant digits; None: as they are."""
    if isinstance(value, dict):
        return {key: rounded(one, digits) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one, digits) for one in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) and digits else value


def packed(value: Any) -> str:
    """Without spaces."""
    return json.dumps(value, separators=(",", ":"))


def by_lines(record: dict[str, Any]) -> str:
    """A line a key, and a line an object of a list."""
    lines = []
    for key, value in record.items():
        shown = packed(value)
        if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
            shown = "[\n" + ",\n".join(map(packed, value)) + "\n]"
        lines.append(f"{packed(key)}:{shown}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def compact_study(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs of a study without versions, hardware and command that the last run above with one of these has too.

    The hashes of rows are only in the first run that has them. Values of rows that are whole numbers become integers.
    """
    last: dict[str, Any] = {}
    for made in (run["provenance"] for run in runs):
        said = {key: made[key] for key in ("versions", "hardware", "command") if made[key]}
        made |= {key: type(value)() for key, value in said.items() if value == last.get(key)}
        last |= said
    known: dict[str, Any] = {}  # of each setting: its splits, as the first run that has them says
    for run in runs:
        said = known.setdefault(run["setting"], {})
        run["data"] = {split: rows for split, rows in run["data"].items() if said.get(split) != rows}
        said |= run["data"] | said
    for by_score in (scores for run in runs for scores in run.get("row_scores", {}).values()):
        for name, values in by_score.items():
            by_score[name] = [int(value) if value == int(value) else value for value in values]
    return runs


def main() -> None:
    """Rewrite the files, or write the one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--digits", type=int, help="significant digits of fractions; as they are by default")
    parser.add_argument("--lines", type=Path, help="write all into this file, one a line")
    parser.add_argument("--study", action="store_true", help="the files are packed run records")
    args = parser.parse_args()
    if args.study:
        for file in args.files:
            runs = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            lines = [packed(rounded(run, args.digits)) for run in compact_study(runs)]
            file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return
    records = [rounded(json.loads(file.read_text(encoding="utf-8")), args.digits) for file in args.files]
    if args.lines:
        args.lines.write_text("".join(f"{packed(record)}\n" for record in records), encoding="utf-8")
        return
    for file, record in zip(args.files, records, strict=True):
        file.write_text(by_lines(record), encoding="utf-8")


if __name__ == "__main__":
    main()

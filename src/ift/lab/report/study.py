"""A study in one file: one run record per line, with the data that tables and figures read."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ift.lab.report.answers import with_row_scores
from ift.lab.report.comparisons import compare
from ift.lab.report.decode import ReportError, encode
from ift.lab.report.json_files import write_json_lines
from ift.lab.report.records import LINES, Sample, Setting, find
from ift.lab.report.studies import tell_apart
from ift.lab.report.wording import CURVES

POINTS = 50
_DIGITS = 7
Line = dict[str, Setting]


def pack(
    places: Iterable[str | Path], path: str | Path, points: int = POINTS, samples: int | None = None
) -> int:
    """Write run records into one file that `find` reads, and return their number.

    All scores, costs and other data of the tables are kept; values of rows, including those from a folder of answers,
    are rounded to seven significant digits. Of the curves, the metrics that figures draw are kept, with the same
    rounding. A reader sees either the whole old or the whole new file.

    Args:
        places: Files and folders, as for `find`.
        path: The file to write; its name ends in `.jsonl`.
        points: Maximum number of points per curve, evenly spread and including the first and the last; 0: no curves.
        samples: Number of problems per split whose answers are kept, starting with the first; None: all.

    Raises:
        ReportError: See `find` and `compare`; also if the file would be in one of the folders, or a number is out of
            range. Nothing is written then.
    """
    path, named = Path(path), [Path(place).expanduser() for place in places]
    if path.suffix != LINES:
        raise ReportError(f"{path}: the file's name must end in {LINES}; give it that ending")
    if points < 0 or points == 1:
        raise ReportError(
            f"points (--pack_points): found {points}; give 2 or more, or 0 to leave the curves out"
        )
    if samples is not None and samples < 0:
        raise ReportError(f"samples (--pack_samples): found {samples}; give 0 or more")
    for place in named:
        if place.is_dir() and path.resolve().is_relative_to(place.resolve()):
            raise ReportError(
                f"{path}: it would be in {place}, where its records would be found twice; write it elsewhere"
            )
    found = {file: with_row_scores(file, record) for file, record in find(named).items()}
    records = tell_apart(found).records
    compare(records)  # what no report can be made of is refused here, with the files' names
    lines = []
    for one in records.values():
        thin = replace(
            one,
            curves=thinned(one.curves, points),
            samples=first_problems(one.samples, samples),
            row_scores={
                split: {
                    name: [float(f"{value:.{_DIGITS}g}") for value in values]
                    for name, values in found.items()
                }
                for split, found in one.row_scores.items()
            },
        )
        # a missing key means the same as an empty value
        lines.append({key: value for key, value in encode(thin).items() if value not in (None, "", [], {})})
    write_json_lines(path, lines, sync=True, separators=(",", ":"))
    return len(lines)


def thinned(curves: list[Line], points: int) -> list[Line]:
    """The metrics that figures draw, rounded, with at most `points` of the lines that log the same metrics."""
    kept = [
        {name: _rounded(value) for name, value in line.items() if name in CURVES or name == "step"}
        for line in curves
    ]
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, line in enumerate(kept):
        if len(line) > 1:
            groups.setdefault(tuple(sorted(line)), []).append(index)
    chosen = {group[place] for group in groups.values() for place in _spread(len(group), points)}
    return [kept[index] for index in sorted(chosen)]


def first_problems(found: list[Sample], count: int | None) -> list[Sample]:
    """The samples of the first `count` problems of each split."""
    if count is None:
        return found
    splits: dict[str, dict[str, None]] = {}
    for one in found:
        splits.setdefault(one.split, {})[one.id] = None
    kept = {(split, name) for split, names in splits.items() for name in [*names][:count]}
    return [one for one in found if (one.split, one.id) in kept]


def _spread(length: int, points: int) -> list[int]:
    """At most `points` indices of a list, evenly spread and including its ends."""
    if length <= points:
        return [*range(length)]
    return [round(place * (length - 1) / (points - 1)) for place in range(points)]


def _rounded(value: Setting) -> Setting:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value

"""Groups records by experiment, setting, method and seed, and refuses records that cannot be compared."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ift.lab.report.decode import ReportError
from ift.lab.report.intervals import Estimate
from ift.lab.report.records import RunRecord
from ift.lab.report.studies import study_of, two_records
from ift.lab.report.variants import Variant, apart_by_row, difference, same_notes
from ift.lab.report.wording import EMPTY

FIRST_SPLITS = ("test", "validation")


@dataclass(frozen=True)
class Comparison:
    """The runs of one experiment in one setting, which can be in one table."""

    experiment: str  # of all runs
    setting: str  # of all runs
    variants: list[Variant]  # in the order to show
    # label of the method that the differences are taken to; None where it is not among them
    baseline: str | None
    notes: list[str]  # unequal seeds, seeds without a number, configurations that differ

    @property
    def title(self) -> str:
        """The experiment and the setting."""
        return f"{self.experiment}: {self.setting}"

    @property
    def splits(self) -> list[str]:
        """All scored splits, `test` first."""
        names = {split for variant in self.variants for run in variant.runs.values() for split in run.scores}
        known = [name for name in FIRST_SPLITS if name in names]
        return known + sorted(names - set(known))

    def metrics(self) -> list[str]:
        """All metrics except n, in the order of the records; the share of empty answers only if it is not 0."""
        runs = [run for variant in self.variants for run in variant.runs.values()]
        scores = [scores for run in runs for scores in run.scores.values()]
        left_out = {"n"} if any(one.get(EMPTY) for one in scores) else {"n", EMPTY}
        return [
            name for name in dict.fromkeys(name for one in scores for name in one) if name not in left_out
        ]

    @property
    def base(self) -> Variant | None:
        """The runs of the baseline; None without one."""
        return next((one for one in self.variants if one.label == self.baseline), None)

    def difference(self, variant: Variant, split: str, metric: str) -> Estimate | None:
        """The difference `variant` - baseline, see `ift.lab.report.variants.difference`.

        It is None for the baseline itself, without a baseline, and without common seeds.
        """
        base = self.base
        return None if base is None or base is variant else difference(variant, base, split, metric)

    def differing(self, variant: Variant, split: str, metric: str) -> float | None:
        """Share in 0..1 of rows whose value differs from the baseline's; None if no values of rows are stored."""
        base = self.base
        apart = [] if base is None or base is variant else apart_by_row(variant, base, split, metric)
        values = [value for rows in apart for value in rows]
        return sum(value != 0 for value in values) / len(values) if values else None


def compare(
    records: Mapping[Path, RunRecord], baseline: str | None = None, methods: Sequence[str] = ()
) -> list[Comparison]:
    """Group records by experiment and setting, then by method and variant, then by seed.

    Args:
        records: Records by file, at least one.
        baseline: The label to which differences are taken; None: `sft`, if there is one.
        methods: The labels to show in this order, or methods all of whose variants are shown; empty: all.

    Raises:
        ReportError: There are two records of one run, runs of one setting scored on different data, or runs of one
            method with different settings that were not searched; or a baseline or method does not exist.
    """
    files = {id(record): file for file, record in records.items()}
    groups: dict[tuple[str, str], list[RunRecord]] = {}
    for record in records.values():
        groups.setdefault((record.experiment, record.setting), []).append(record)
    found, base = [], baseline or "sft"
    for (experiment, setting), runs in sorted(groups.items()):
        _check_data(runs, files)
        variants = _order(_variants(runs, files), base, methods)
        if not variants:
            continue
        labels = [variant.label for variant in variants]
        notes = _notes(variants)
        if base in labels:
            notes += _pairing_notes(variants, base)
        notes += [*_row_notes(variants), *same_notes(variants, base)]
        if base not in labels and len(variants) > 1:
            notes.append(f"The runs do not include the baseline {base}, so no differences are shown.")
        found.append(Comparison(experiment, setting, variants, base if base in labels else None, notes))
    present = sorted({name for run in records.values() for name in (run.method, run.label)})
    for name, option in [*((name, "--methods") for name in methods), (baseline, "--baseline")]:
        if name is not None and name not in present:
            raise ReportError(f"{option}: found {name!r}, which no record has; known: {', '.join(present)}")
    if baseline is not None and not any(comparison.baseline for comparison in found):
        raise ReportError(f"--baseline: {baseline!r} is not among the runs shown; add it to --methods")
    return found


def sweep(comparison: Comparison, key: str) -> dict[str, list[tuple[float, Variant]]]:
    """Find variants that differ only in the number `key` of their configuration, and in settings that were searched.

    Returns:
        For each method with at least two values a list of (value, variant), in ascending order. If a method has several
        such lists, they are numbered.
    """
    rows: dict[tuple[str, str], list[tuple[float, Variant]]] = {}
    # By method: its other variants may have taken over what one of them chose.
    searched: dict[str, set[str]] = {}
    for run in (run for variant in comparison.variants for run in variant.runs.values()):
        names = {name for trial in run.search or [] for name in trial.config}
        searched.setdefault(run.method, set()).update(names)
    for variant in comparison.variants:
        value = variant.config.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        run = next(iter(variant.runs.values()))
        left_out = searched[run.method] | {key}
        rest = {name: one for name, one in run.config.items() if name not in left_out}
        rows.setdefault((run.method, json.dumps(rest, sort_keys=True)), []).append((float(value), variant))
    found: dict[str, list[tuple[float, Variant]]] = {}
    for (method, _), points in rows.items():
        if len({value for value, _ in points}) > 1:
            name, number = method, 2
            while name in found:
                name, number = f"{method} ({number})", number + 1
            found[name] = sorted(points, key=lambda point: (point[0], point[1].label))
    return found


def _variants(runs: list[RunRecord], files: dict[int, Path]) -> list[Variant]:
    groups: dict[str, dict[int, RunRecord]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        seeds = groups.setdefault(run.label, {})
        if run.seed in seeds:
            raise two_records(files[id(run)], files[id(seeds[run.seed])], run)
        seeds[run.seed] = run
    for seeds in groups.values():
        _check_configs([*seeds.values()], files)
    return [Variant(label, seeds) for label, seeds in groups.items()]


def _check_data(runs: list[RunRecord], files: dict[int, Path]) -> None:
    seen: dict[str, RunRecord] = {}
    for run in runs:
        for split in run.scores:
            if split not in run.data:
                continue
            first = seen.setdefault(split, run)
            if first.data[split] != run.data[split]:
                raise ReportError(_different_rows(files[id(first)], files[id(run)], run, split))


def _different_rows(one: Path, other: Path, run: RunRecord, split: str) -> str:
    """The message for records of one setting that were scored on different rows, with the commands to use instead."""
    message = f"{one} and {other}: data.{split}: one setting, {run.setting!r}, but scored on different rows"
    first, second = study_of(one), study_of(other)
    if first == second:
        return f"{message}; give the runs different settings or repeat the older runs"
    words = shlex.join(["ift", "report", str(first), "--output_dir", f"{first.name}-report"])
    return f"{message}, so they cannot be in one table; make a report of each study: {words}"


def _check_configs(runs: list[RunRecord], files: dict[int, Path]) -> None:
    first = runs[0]
    for run in runs[1:]:
        for key in _differing(first, run):
            if first.search is None or run.search is None:
                raise ReportError(
                    f"{files[id(first)]} and {files[id(run)]}: config.{key}: {first.config.get(key)!r} and "
                    f"{run.config.get(key)!r} in two seeds of {run.label}, and neither was searched; leave one of "
                    "them out, or set another `variant` in its record"
                )


def _differing(first: RunRecord, second: RunRecord) -> list[str]:
    keys = sorted((first.config.keys() | second.config.keys()) - {"seed"})
    return [key for key in keys if first.config.get(key) != second.config.get(key)]


def _order(variants: list[Variant], baseline: str, methods: Sequence[str]) -> list[Variant]:
    """Order variants by `methods`, which has labels or methods all of whose variants are shown.

    Without `methods`, the base model is first, then the baseline, then the others by name; numbers are ordered by size.
    """

    def natural(text: str) -> list[tuple[int, float, str]]:
        parts = re.findall(r"\d+(?:\.\d+)?|[^\d]+", text)
        return [(0, float(part), "") if part[0].isdigit() else (1, 0.0, part) for part in parts]

    def usual(variant: Variant) -> tuple[int, list[tuple[int, float, str]]]:
        return 0 if variant.untrained else 1 if variant.label == baseline else 2, natural(variant.label)

    ordered = sorted(variants, key=usual)
    if not methods:
        return ordered
    chosen: dict[str, Variant] = {}
    for name in methods:
        named = [one for one in ordered if one.label == name]
        of_method = [one for one in ordered if next(iter(one.runs.values())).method == name]
        chosen.update({one.label: one for one in named or of_method})
    return [*chosen.values()]


def _notes(variants: list[Variant]) -> list[str]:
    notes = []
    for variant in variants:
        runs = [*variant.runs.values()]
        for key in sorted({key for run in runs[1:] for key in _differing(runs[0], run)}):
            values = ", ".join(f"{run.config.get(key)} (seed {run.seed})" for run in runs)
            notes.append(f"{variant.label}: {key} was chosen for each seed: {values}.")
        if len({run.provenance.git_commit for run in runs}) > 1:
            notes.append(f"{variant.label}: its seeds ran with different commits.")
        for seed, run in variant.runs.items():
            scores = [
                (f"{split}.{name}", one) for split in run.scores for name, one in run.scores[split].items()
            ]
            if broken := ", ".join(name for name, one in scores if one is None):
                notes.append(f"{variant.label}, seed {seed}: not a finite number: {broken}.")
    return notes


def _row_notes(variants: list[Variant]) -> list[str]:
    """A note on scores whose intervals are for other seeds only."""
    runs = [run for variant in variants for run in variant.runs.values()]
    scored = dict.fromkeys(
        (split, name)
        for run in runs
        for split, scores in run.scores.items()
        for name in scores
        if name != "n"
    )
    without = [
        (split, name) for split, name in scored
        if not all(variant.rows(split, name) for variant in variants if variant.scores(split, name))
    ]  # fmt: skip
    if not without:
        return []
    which = (
        ""
        if len(without) == len(scored)
        else " of " + ", ".join(f"{split}.{name}" for split, name in without)
    )
    return [
        f"The values of rows{which} are not stored: these intervals are for other seeds, not for other rows."
    ]


def _pairing_notes(variants: list[Variant], baseline: str) -> list[str]:
    seeds = next(variant for variant in variants if variant.label == baseline).runs.keys()
    notes = []
    for variant in variants:
        if variant.runs.keys() != seeds and not variant.untrained:
            shown = ", ".join(map(str, sorted(variant.runs.keys() & seeds))) or "none"
            notes.append(
                f"{variant.label} and {baseline} have different seeds; paired over common ones: {shown}."
            )
    return notes

"""Several studies in one report.

Equal runs count once. Other runs with the same label get the folder of their study as a suffix.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ift.lab.report.decode import ReportError
from ift.lab.report.records import LINES, DataSplit, RunRecord
from ift.lab.report.wording import EMPTY
from ift.text import counted

AUXILIARY = ("n", "stopped", EMPTY, "mean_length", "target_log_likelihood")  # scores that no study is about
Records = Mapping[Path, RunRecord]


@dataclass(frozen=True)
class ToldApart:
    """Records in which runs of different studies have different labels or seeds.

    Attributes:
        records: The records by file.
        lines: Messages for the user about what was done.
        labels: The new labels of each label that several studies have.
    """

    records: dict[Path, RunRecord]
    lines: list[str]
    labels: dict[str, list[str]]

    def baseline(self, wanted: str | None) -> str | None:
        """The label to which differences are taken: `wanted`, or `sft` of the first study if several have it.

        Raises:
            ReportError: Several studies have the wanted label.
        """
        if wanted in self.labels:
            choice = " or ".join(f"--baseline '{one}'" for one in self.labels[wanted])
            raise ReportError(f"--baseline {wanted}: it is in several studies; give {choice}")
        if wanted is None and "sft" in self.labels:
            first, *others = self.labels["sft"]
            choice = " or ".join(f"--baseline '{one}'" for one in others)
            self.lines.append(f"differences are from {first}; {choice} changes that")
            return first
        return wanted


def study_of(file: Path) -> Path:
    """The folder of a record's study, or the file of a packed study."""
    name, colon, _ = file.name.rpartition(":")
    if colon and name.endswith(LINES):
        return file.with_name(name)
    return file.parent.parent if file.parent.name == "runs" else file.parent


def tell_apart(records: Records) -> ToldApart:
    """Add the folder of the study to the labels of runs that differ between studies in settings or results.

    Runs with equal settings and scores count once. Other seeds of one method with the same settings, in another folder,
    count as further seeds of it.

    Raises:
        ReportError: A study has two records of one method and seed.
    """
    groups: dict[tuple[str, str, str], list[Path]] = {}
    for file, one in records.items():
        groups.setdefault((one.experiment, one.setting, one.label), []).append(file)
    kept, double, apart = dict(records), list[Path](), list[list[Path]]()
    for files in groups.values():
        _refuse_double(files, records)
        same = _repeated(files, records)
        double += same
        files = [file for file in files if file not in same]
        if len({study_of(file) for file in files}) > 1 and not _one_method([records[file] for file in files]):
            apart.append(files)
    for file in double:
        del kept[file]
    names = _short_names({study_of(file) for files in apart for file in files})
    labels: dict[str, list[str]] = {}
    for files in apart:
        for file in files:
            one = records[file]
            kept[file] = replace(one, variant=f"{one.variant} ({names[study_of(file)]})".strip())
            found = labels.setdefault(one.label, [])
            found += [kept[file].label] if kept[file].label not in found else []
    count = f"{len(double)} run is" if len(double) == 1 else f"{len(double)} runs are"
    lines = (
        [f"{count} in another folder too, with the same settings and scores: counted once"] if double else []
    )
    lines += [f"{label} is in several studies: {', '.join(new)}" for label, new in labels.items()]
    if rows := {name: size for files in apart for name, size in _other_rows(files, records, names).items()}:
        sizes = ", ".join(f"{name} {counted(size, 'row')}" for name, size in sorted(rows.items()))
        lines.append(
            f"they trained on different rows ({sizes}): a difference between studies may come from the rows"
        )
    return ToldApart(kept, lines, labels)


def _other_rows(files: Sequence[Path], records: Records, names: Mapping[Path, str]) -> dict[str, int]:
    """The number of training rows by study, if runs of one seed were trained on different rows; otherwise empty."""
    found: dict[int, dict[str, DataSplit]] = {}
    for file in files:
        if train := records[file].data.get("train"):
            found.setdefault(records[file].seed, {})[names[study_of(file)]] = train
    for by_study in found.values():
        if len({train.sha256 for train in by_study.values()}) > 1:
            return {name: train.rows for name, train in by_study.items()}
    return {}


def default_metric(records: Records, known: Sequence[str]) -> str:
    """Exact match if a record has it, otherwise the metric of a study's plan, otherwise the records' first score."""
    if "exact_match" in known:
        return "exact_match"
    for folder in dict.fromkeys(map(study_of, records)):
        plan = folder / "plan.json"
        own = json.loads(plan.read_text()).get("own") if plan.is_file() else None
        if own and own.get("metric") in known:
            return str(own["metric"])
    return next((name for name in known if name not in AUXILIARY), known[0])


def _repeated(files: Sequence[Path], records: Records) -> list[Path]:
    """The files whose run repeats an earlier run in the folder of another study."""
    first: dict[int, Path] = {}
    found = []
    for file in files:
        one = records[file]
        other = first.setdefault(one.seed, file)
        if study_of(file) != study_of(other) and _same_run(one, records[other]):
            found.append(file)
    return found


def _refuse_double(files: Sequence[Path], records: Records) -> None:
    first: dict[tuple[Path, int], Path] = {}
    for file in files:
        other = first.setdefault((study_of(file), records[file].seed), file)
        if other != file:
            raise two_records(other, file, records[file])


def two_records(one: Path, other: Path, run: RunRecord) -> ReportError:
    """The error for two records of one method and seed in one study."""
    first, second = sorted((one, other))
    return ReportError(
        f"{first} and {second}: two records of {run.label}, seed {run.seed}, in {run.experiment}: {run.setting}; "
        "leave one of them out"
    )


def _same_run(one: RunRecord, other: RunRecord) -> bool:
    return (one.config, one.scores, one.data) == (other.config, other.scores, other.data)


def _one_method(runs: Sequence[RunRecord]) -> bool:
    """Whether the runs may be seeds of one method.

    No seed occurs twice, and all have one configuration, or each was searched for itself.
    """
    seeds = [run.seed for run in runs]
    alike = all(
        run.config == runs[0].config or (run.search is not None and runs[0].search is not None)
        for run in runs
    )
    return len({*seeds}) == len(seeds) and alike


def _short_names(studies: set[Path]) -> dict[Path, str]:
    """The last part of each path, or as many parts as distinguish them; a packed study has no file extension."""
    parts = {study: study.resolve().with_suffix("").parts if study.suffix == LINES else study.resolve().parts
             for study in studies}  # fmt: skip
    length = 1
    while len({found[-length:] for found in parts.values()}) < len(studies) and length < 99:
        length += 1
    return {study: "/".join(found[-length:]) for study, found in parts.items()}

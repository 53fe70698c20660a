"""The tables of docs/reliability.md, and the records in docs/records/reliability that they are made from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TypeVar

from ift.lab.report.decode import decode
from ift.lab.report.records import Provenance
from page_tables import RECORDS as ALL_RECORDS
from page_tables import table

RECORDS = ALL_RECORDS / "reliability"
T = TypeVar("T")


@dataclass(frozen=True)
class Case:
    """A run compared with the plain run of one process on the same global batch.

    Attributes:
        split: how the batch was split, such as "DDP, 2 processes".
        name: what else was particular.
        steps: optimiser steps compared; the differences are the largest of them.
        loss: |difference| / loss.
        gradient: max |difference| / max |gradient|, over all parameters.
    """

    split: str
    name: str
    steps: int
    loss: float
    gradient: float


@dataclass(frozen=True)
class EqualityRecord:
    """What `benchmarks/reliability.py equality` found.

    Attributes:
        tolerance: what the tests allow for `Case.gradient`.
        float32: `Case.gradient` of the plain run itself against the float64 oracle of tests/reference.py.
    """

    provenance: Provenance
    tolerance: float
    float32: float
    cases: list[Case]


@dataclass(frozen=True)
class Kill:
    """As `Kill` of tests/cli/killed_runs.py."""

    went_on_from: int
    last_step: int
    whole: int
    half_written: int


@dataclass(frozen=True)
class KillRecord:
    """What `benchmarks/reliability.py kills` found.

    Attributes:
        save_every: steps between checkpoints.
        last_step: of the run.
        equal: whether the weights are bit for bit those of a run that nobody killed.
        steps_whole: whether every step stands once in metrics.jsonl.
    """

    provenance: Provenance
    save_every: int
    last_step: int
    kills: list[Kill]
    equal: bool
    steps_whole: bool


@dataclass(frozen=True)
class EngineRecord:
    """What `benchmarks/reliability.py engines` found.

    Attributes:
        deepspeed: its version.
        outcomes: of the tests of tests/engines: function -> parameters, such as "zero3-adapter" -> "passed".
        gaps: engine and case -> the largest difference of a saved weight from one process's, over the largest weight;
            and that of a logged number, over the number (or 0.01 if it is smaller).
    """

    provenance: Provenance
    deepspeed: str
    outcomes: dict[str, dict[str, str]]
    gaps: dict[str, list[float]]


def load(kind: type[T], name: str) -> T:
    """A record, every key and type checked."""
    return decode(kind, json.loads((RECORDS / name).read_text()))


def load_equality() -> EqualityRecord:
    """The record of the splits."""
    return load(EqualityRecord, "equality.json")


def load_kills() -> KillRecord:
    """The record of the kills."""
    return load(KillRecord, "kills.json")


def load_engines() -> EngineRecord:
    """The record of the engines."""
    return load(EngineRecord, "engines.json")


ENGINES = {
    "fsdp2": "FSDP2, full state dict",
    "fsdp2-sharded": "FSDP2, sharded state dict",
    "fsdp1": "FSDP1",
    "zero1": "DeepSpeed ZeRO-1",
    "zero2": "DeepSpeed ZeRO-2",
    "zero3": "DeepSpeed ZeRO-3",
}
CASES = {
    "ift": "`ift`",
    "tied": "a tied head",
    "adapter": "LoRA",
    "accumulated": "accumulation",
    "checkpointed": "checkpointing",
    "sft": "`sft`",
    "dpo": "`dpo`",
    "tdpo": "`tdpo`",
}


def engines() -> str:
    """Every engine: what was equal and how far apart at most, and what became of stopped and killed runs."""
    record = load_engines()
    wrong = [test for test, found in record.outcomes.items() if set(found.values()) != {"passed"}]
    if wrong:
        raise ValueError(f"not passed: {wrong}")
    resumed = record.outcomes["test_a_stopped_run_resumes_to_the_same_bits"]
    killed = record.outcomes["test_a_killed_process_ends_the_others_and_the_next_run_resumes"]
    rows = []
    for engine, name in ENGINES.items():
        same = {case: gaps for case in CASES if (gaps := record.gaps.get(f"{engine}-{case}"))}
        largest = [f"{max(column):.1e}" for column in zip(*same.values(), strict=True)]
        others = ["same bits" if engine in resumed else "-", "yes" if engine in killed else "-"]
        rows.append([name, ", ".join(CASES[case] for case in same), *largest, *others])
    header = ["engine", "equal to one process", "weights", "logged numbers", "stopped and resumed"]
    return table([*header, "a process killed, then resumed"], rows)


def equality_summary() -> str:
    """What is allowed, what was found, and how far float32 itself is from the oracle."""
    record = load_equality()
    worst = max(case.gradient for case in record.cases)
    rows = [
        ["allowed by the tests of two processes", f"{record.tolerance:.0e}"],
        ["the largest in the table below", f"{worst:.1e}"],
        ["one process in float32 against the float64 oracle", f"{record.float32:.1e}"],
    ]
    return table(["difference of the gradient", ""], rows)


def equality() -> str:
    """Every split."""
    rows = [
        [case.split, case.name, str(case.steps), f"{case.loss:.1e}", f"{case.gradient:.1e}"]
        for case in load_equality().cases
    ]
    return table(["split", "case", "steps", "loss", "gradient"], rows)


def kills_summary() -> str:
    """The run, and what came of it."""
    record = load_kills()
    resumed = {kill.went_on_from for kill in record.kills} - {0}
    yes = {True: "yes", False: "NO"}
    rows = [
        ["steps of the run", str(record.last_step)],
        ["steps between checkpoints", str(record.save_every)],
        ["kills", str(len(record.kills))],
        ["checkpoints from which a run resumed", str(len(resumed))],
        ["final weights equal, bit for bit, to those of a run that was not killed", yes[record.equal]],
        ["every step stands once in `metrics.jsonl`", yes[record.steps_whole]],
    ]
    return table(["", ""], rows)


def kills() -> str:
    """The log of the kills."""
    rows = []
    for number, kill in enumerate(load_kills().kills, 1):
        resumed = str(kill.went_on_from or "the start")
        rows.append([str(number), resumed, str(kill.last_step), str(kill.whole), str(kill.half_written)])
    header = ["kill", "resumed from step", "killed after step", "newest whole checkpoint"]
    return table([*header, "half-written checkpoints"], rows)


def sources() -> str:
    """Where the records were made."""
    rows = []
    for record in (load_equality(), load_kills(), load_engines()):
        made, names = record.provenance, ("torch", "transformers", "trl", "accelerate", "peft")
        versions = ", ".join(f"{name} {made.versions[name]}" for name in names)
        machine = f"{made.hardware['cores']} cores ({made.hardware['machine']})"
        rows.append([f"`{made.command}`", made.created[:10], str(made.git_commit)[:10], machine, versions])
    return table(["command", "date", "commit", "machine", "versions"], rows)

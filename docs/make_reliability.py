"""Write docs/reliability.md from docs/records/reliability: `python docs/make_reliability.py`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ift.lab.report.decode import decode
from ift.lab.report.records import Provenance

DOCS = Path(__file__).resolve().parent
RECORDS = DOCS / "records" / "reliability"
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


def load(kind: type[T], name: str) -> T:
    """A record, every key and type checked."""
    return decode(kind, json.loads((RECORDS / name).read_text()))


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def source(provenance: Provenance) -> str:
    """Where a record was made."""
    names = ("torch", "transformers", "trl", "accelerate", "peft")
    versions = ", ".join(f"{name} {provenance.versions[name]}" for name in names)
    hardware, commit = provenance.hardware, str(provenance.git_commit)[:10]
    return (
        f"Record: `{provenance.command}`, {provenance.created[:10]}, commit {commit}, {hardware['cores']} cores "
        f"({hardware['machine']});\n{versions}."
    )


def equality_table(record: EqualityRecord) -> str:
    """Every split."""
    rows = [
        [case.split, case.name, str(case.steps), f"{case.loss:.1e}", f"{case.gradient:.1e}"]
        for case in record.cases
    ]
    return table(["split", "case", "steps", "loss", "gradient"], rows)


def kills_table(record: KillRecord) -> str:
    """The log of the kills."""
    rows = []
    for number, kill in enumerate(record.kills, 1):
        begun = str(kill.went_on_from or "the start")
        rows.append([str(number), begun, str(kill.last_step), str(kill.whole), str(kill.half_written)])
    return table(["kill", "gone on from step", "killed after step", "whole checkpoint", "half-written"], rows)


def page(equality: EqualityRecord, killed: KillRecord) -> str:
    """The page."""
    worst = f"{max(case.gradient for case in equality.cases):.1e}"
    allowed, rounding = f"{equality.tolerance:.0e}", f"{equality.float32:.1e}"
    steps, every, kills = killed.last_step, killed.save_every, len(killed.kills)
    places = len({kill.went_on_from for kill in killed.kills} - {0})
    busy = "" if places > 1 else ": on a busy machine no run came as far as its next one"
    weights = "bit for bit" if killed.equal else "NOT"
    logged = "once" if killed.steps_whole else "NOT once"
    return f"""# Reliability

Made by `python docs/make_reliability.py` from the records in `docs/records/reliability`. Each table is a test too, and
the test names what turns it red. Everything here ran on CPUs.

## However the batch is split, it is one batch

The same eight rows of 2 to 60 tokens (11 and 13 rows where the last batch is uneven), in float32, split in every way
that is offered, against one process that takes them at once. The loss is compared by |difference| / loss, the gradient
by max |difference| / max |gradient| over all parameters. The tests of two processes allow {allowed}; the largest below
is {worst}. The float32 gradient itself is {rounding} from the float64 oracle on these rows: the splits differ by
rounding alone.

{equality_table(equality)}

{source(equality.provenance)}

`tests/training/test_distributed.py` has the cases of two processes, `tests/training/test_trainer.py` those of one. They
turn red when items are counted on one rank, when DDP's average over ranks is not undone, when rows come twice in the
last batch or its fillers train, when packed documents see each other, and when the step goes around FSDP2's hooks.
`tests/mutations.py` plants these faults and sees that they are found.

FSDP2 is `fully_shard` on every block and on the root, resharded after the forward; TP is the tensor parallelism of
transformers, on a Llama. Both call `ift_loss` in a loop of their own: on a CPU accelerate turns its FSDP configurations
into plain copies, so the trainer was not run under them. Weights saved from FSDP2's shards after a step load in one
process and give the same logits, with an adapter too (a test). In bfloat16, as the configurations for GPUs have it,
gradients are also summed in bfloat16 under FSDP2 and ZeRO, and "equal" is within that rounding. Context and sequence
parallelism are refused: they cut rows into pieces, and a token's weight sums over its whole row.

## The last batch

Eleven rows on two processes in batches of 4 make one full step and three rows. accelerate alone would fill the second
step with five rows from the start of the epoch, which then train twice. Here the places that are left get fillers:
copies of rows with every label -100. They count nothing in loss, gradient and metrics, and every row trains once an
epoch, as in one process; the same at the end of an epoch with accumulation, and in evaluation. It holds for IFT, SFT,
NEFTune and DFT. Elsewhere accelerate's ways are kept:

* DPO, ORPO, SimPO and TDPO, streamed data and `dispatch_batches`: some rows of the last batch come twice.
* `--dataloader_drop_last true`: the rows of the last batch are dropped.
* A mixture of experts' balancing loss still sees the fillers.

## Twenty kills

A run of {steps} steps (sampled look-ahead, noisy lambda, a checkpoint every {every} steps) got SIGKILL {kills} times,
at random moments after the checkpoint that it had gone on from, and was started again with `--resume auto`. The table
says which checkpoint that was, the last step logged, and what lay there after the kill: the newest whole checkpoint,
and newer ones, half written, which `--resume auto` passes over. A run that ended before its kill was thrown away and
begun anew. Checkpoints that runs went on from: {places}{busy}.

{kills_table(killed)}

The weights at the end are {weights} those of the run that nobody killed; every step stands {logged} in `metrics.jsonl`.

{source(killed.provenance)}

`tests/cli/test_resume.py` has this test (`make test-slow`) and those of SIGINT and SIGTERM, in one process and in two.
It turns red when a checkpoint counts before it is whole, or when something that training depends on is not in it.

## Again

```bash
python benchmarks/reliability.py equality
python benchmarks/reliability.py kills
python docs/make_reliability.py
```
"""


def main() -> None:
    """Write the page."""
    text = page(load(EqualityRecord, "equality.json"), load(KillRecord, "kills.json"))
    (DOCS / "reliability.md").write_text(text)


if __name__ == "__main__":
    main()

"""One trial in a process of its own: `python -m ift.lab.compare.trial TASK.json` trains a method once and scores it."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

from ift.files import write_atomically
from ift.lab.compare.ground import Ground
from ift.lab.compare.plan import Entrant


def main(file: str) -> None:
    """Do what the task in `file` says and write its result beside it, in one move."""
    task = json.loads(Path(file).read_text())
    work = Path(
        f"{task['work']}-{os.getpid()}"
    )  # a process left over from a killed study may be at the same task
    work.mkdir(parents=True)
    try:
        {"pairs": make_pairs, "probe": probe, "search": search, "run": run, "base": run}[task["kind"]](
            task, work
        )
    finally:
        shutil.rmtree(work, ignore_errors=True)


def ground_of(task: dict[str, Any]) -> Ground:
    """Where the task takes place."""
    if task["own"]:
        from ift.lab.compare.own import OwnGround

        return OwnGround(task)
    from ift.lab.compare.testbed import TestbedGround

    return TestbedGround(task)


def make_pairs(task: dict[str, Any], work: Path) -> None:
    """Sample the rejected answers of one seed, once for all methods."""
    from ift.lab.testbed.pairs import cached_pairs
    from ift.lab.testbed.settings import settings

    found = cached_pairs(Path(task["pairs"]), Path(task["base"]), settings()[task["setting"]], task["seed"])
    _write(task, {"sampled": found.sampled, "corrupted": found.corrupted, "sha256": found.sha256})


def probe(task: dict[str, Any], work: Path) -> None:
    """Time some steps and some scoring, for the estimate."""
    from ift.lab.compare.own import OwnGround

    _write(task, {**OwnGround(task).probe(work / "model"), "peak_memory_bytes": peak_memory()})


def search(task: dict[str, Any], work: Path) -> None:
    """Train once and score on validation rows alone; a score that is no number is null: it diverged."""
    ground, entrant = ground_of(task), Entrant(**task["entrant"])
    trained = ground.train(task, entrant, work / "model", None)
    score, tie = (found if math.isfinite(found) else None for found in ground.choose(str(trained.folder)))
    _write(task, {"config": task["chosen"], "score": score, "tie": tie, "seconds": trained.seconds})


def run(task: dict[str, Any], work: Path) -> None:
    """Train once, score on all test splits, write the record."""
    from ift.lab.compare.flops import StepFlops
    from ift.lab.report import Cost, RunRecord, Trial, provenance, save

    ground, entrant = ground_of(task), Entrant(**task["entrant"])
    config: dict[str, Any] = {}
    cost, curves, data, folder = Cost(), [], {}, task["base"]
    if task["kind"] == "run":
        counters: list[StepFlops] = []

        def attach(trainer: Any) -> None:
            counters.append(StepFlops())
            trainer.add_callback(counters[-1])

        trained = ground.train(task, entrant, work / "model", attach)
        folder = str(trained.folder)
        config, curves, data = (
            ground.config(task, entrant),
            _curves(trained),
            {"train": ground.train_data(task, entrant)},
        )
        cost = _cost(ground, entrant, trained, sum(counter.total for counter in counters))
    scored = ground.score(folder)
    record = RunRecord(
        experiment=task["experiment"],
        setting=task["setting"],
        method=entrant.method,
        variant=entrant.variant,
        seed=task["seed"],
        config=config,
        data=data | scored.data,
        scores=scored.scores,
        cost=cost,
        search=[Trial(**one) for one in task["tried"]] if task["tried"] else None,
        error_steps=scored.error_steps,
        curves=curves,
        samples=scored.samples,
        provenance=provenance(task["command"]),
    )
    save(record, task["result"])


def peak_memory() -> int:
    """Bytes: of the accelerator's allocator where there is one, else of the process."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return kib * (1 if sys.platform == "darwin" else 1024)


def _curves(trained: Any) -> list[dict[str, Any]]:
    points, before = [], 0
    for stage in trained.stages:
        for entry in stage.history:
            numbers = {name: value for name, value in entry.items() if isinstance(value, (int, float))}
            if "loss" in numbers or "train_loss" not in numbers:
                points.append(numbers | {"step": before + entry["step"]})
        before += stage.steps
    return points


def _cost(ground: Ground, entrant: Entrant, trained: Any, flops: float) -> Any:
    from ift.lab.report import Cost
    from ift.methods.table import parse_methods

    return Cost(
        seconds=trained.seconds,
        flops=flops,
        peak_memory_bytes=peak_memory(),
        models_held=max(stage.models_held for stage in parse_methods(entrant.method)),
        answers_seen=ground.answers_seen(trained),
        labels=trained.stages[-1].report.rows_read if entrant.needs_pairs else 0,
    )


def _write(task: dict[str, Any], result: dict[str, Any]) -> None:
    write_atomically(Path(task["result"]), json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])

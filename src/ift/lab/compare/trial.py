"""One trial in its own process: `python -m ift.lab.compare.trial TASK.json` trains a method once and scores it."""

import json
import math
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ift.lab.compare.backend import PROBE_STEPS, SAMPLES, Scored, TrialBackend, task_entrant
from ift.lab.compare.flops import StepFlops
from ift.lab.compare.own_weights import check_unchanged, recorded
from ift.lab.compare.testbed import TestbedBackend
from ift.lab.compare.user_data import UserDataBackend
from ift.lab.report import Cost, RunRecord, Trial, provenance, save
from ift.lab.report.answers import sample
from ift.lab.report.json_files import write_json, write_json_lines
from ift.lab.testbed.pairs import cached_pairs
from ift.lab.testbed.settings import settings
from ift.methods.table import parse_methods
from ift.runs.parent_process import stop_with_parent
from ift.training.timing import StepClock


def main(file: str) -> None:
    """Run the task in `file`, and write its result atomically to the path that the task names."""
    task = json.loads(Path(file).read_text())
    # a folder of its own: a process left over from a killed study or a lost node may be at work on the same task
    planned = Path(task["work"])
    planned.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f"{planned.name}-", dir=planned.parent))
    kinds = {"pairs": make_pairs, "probe": probe, "search": search, "run": run, "base": run}
    try:
        kinds[task["kind"]](task, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def backend_of(task: dict[str, Any]) -> TrialBackend:
    """The backend that trains and scores a task.

    Raises:
        ValueError: The file of the user's own token weights has changed since the study began.
    """
    check_unchanged(task_entrant(task))
    return UserDataBackend(task) if task["user_data"] else TestbedBackend(task)


def make_pairs(task: dict[str, Any], work: Path) -> None:
    """Sample the rejected answers of one seed, once for all methods."""
    found = cached_pairs(Path(task["pairs"]), Path(task["base"]), settings()[task["setting"]], task["seed"])
    counts = {"sampled": found.sampled, "corrupted": found.corrupted, "sha256": found.sha256}
    write_json(Path(task["result"]), counts)


def probe(task: dict[str, Any], work: Path) -> None:
    """Time some steps and some scoring for the estimate, and steps of methods whose time others must take."""
    measured = backend_of(task).probe(work / "model")
    for name in task["timed"]:
        clock, other, began = (
            StepClock(),
            backend_of({**task, "entrant": {"method": name}}),
            time.perf_counter(),
        )
        add_clock = partial(_add, clock)
        other.train(work / name, add_clock, max_steps=PROBE_STEPS)
        measured[f"{name}_step_seconds"] = clock.seconds
        measured["timed_seconds"] += time.perf_counter() - began
    write_json(Path(task["result"]), {**measured, "peak_memory_bytes": peak_memory()})


def _add(callback: Any, trainer: Any) -> None:
    trainer.add_callback(callback)


def search(task: dict[str, Any], work: Path) -> None:
    """Train once and score on validation rows only.

    A score that is not finite is written as null: the training has diverged.
    """
    backend = backend_of(task)
    trained = backend.train(work / "model", None)
    score, tie = (one if math.isfinite(one) else None for one in backend.choose(str(trained.folder)))
    result = {"config": task["chosen"], "score": score, "tie": tie, "seconds": trained.seconds}
    write_json(Path(task["result"]), result)


def run(task: dict[str, Any], work: Path) -> None:
    """Train once (except for the base model), score on all test splits, and write the record."""
    backend = backend_of(task)
    if task["kind"] == "base":
        folder, training = task["base"], dict[str, Any]()
    elif backend.entrant.rate_factors:
        folder, training = _train_best(task, backend.entrant.rate_factors, work)
    else:
        folder, training = _train(backend, work / "model")
    scored = backend.score(folder)
    record = RunRecord(
        experiment=task["experiment"],
        setting=task["setting"],
        method=backend.entrant.method,
        variant=backend.entrant.variant,
        seed=task["seed"],
        data=training.pop("data", {}) | scored.data,
        scores=scored.scores,
        row_scores=_finite(scored),
        search=training.pop("search", None) or [Trial(**one) for one in task["tried"]] or None,
        error_steps=scored.error_steps,
        samples=[
            sample(line)
            for split in scored.scores
            for line in [one for one in scored.answers if one["split"] == split][:SAMPLES]
        ],
        provenance=provenance(task["command"]),
        **training,
    )
    result = Path(task["result"])
    if scored.answers:
        write_json_lines(
            result.parent.parent / "answers" / f"{result.stem}.jsonl", scored.answers, ensure_ascii=False
        )
    save(record, result)


def _finite(scored: Scored) -> dict[str, dict[str, list[float]]]:
    """The values of rows, without scores that are not finite."""
    return {
        split: {name: values for name, values in found.items() if all(map(math.isfinite, values))}
        for split, found in scored.row_scores.items()
    }


def _train_best(task: dict[str, Any], factors: Sequence[float], work: Path) -> tuple[str, dict[str, Any]]:
    """Train with several learning rates and keep the best by validation score; the costs of all trainings count."""
    trials, found = [], []
    for number, factor in enumerate(factors):
        chosen = {**task["chosen"], "learning_rate": factor * task["chosen"]["learning_rate"]}
        backend = backend_of({**task, "chosen": chosen})
        found.append(_train(backend, work / f"model-{number}"))
        score = backend.choose(found[-1][0])[0]
        trials.append(Trial(chosen, score if math.isfinite(score) else None))
    scores = [-math.inf if one.score is None else one.score for one in trials]
    folder, fields = found[scores.index(max(scores))]
    costs = [one["cost"] for _, one in found]
    total = {
        name: sum(getattr(cost, name) for cost in costs) for name in ("seconds", "flops", "answers_seen")
    }
    return folder, {**fields, "cost": replace(costs[-1], **total), "search": trials}


def _train(backend: TrialBackend, folder: Path) -> tuple[str, dict[str, Any]]:
    """Train, and return the folder of the model and the fields of its `RunRecord` about the training."""
    counters: list[StepFlops] = []

    def attach(trainer: Any) -> None:
        counters.append(StepFlops())
        trainer.add_callback(counters[-1])

    trained = backend.train(folder, attach)
    stages = parse_methods(backend.entrant.method)
    cost = Cost(
        seconds=trained.seconds,
        flops=sum(counter.total for counter in counters),
        peak_memory_bytes=peak_memory(),
        models_held=max(stage.models_held for stage in stages),
        answers_seen=backend.answers_seen(trained),
        labels=trained.stages[-1].report.rows_read if backend.entrant.needs_pairs else 0,
    )
    fields = {"config": recorded(backend.config(), backend.entrant), "data": {"train": backend.train_data()}}
    return str(trained.folder), {**fields, "cost": cost, "curves": _curves(trained)}


def peak_memory() -> int:
    """The peak memory in bytes: of the accelerator's allocator if there is an accelerator, else of the process."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return kib * (1 if sys.platform == "darwin" else 1024)


def _curves(trained: Any) -> list[dict[str, Any]]:
    """The numbers logged at each step; in a sequence, the steps of later stages are counted on."""
    points, before = [], 0
    for stage in trained.stages:
        for entry in stage.history:
            numbers = {name: value for name, value in entry.items() if isinstance(value, (int, float))}
            if "loss" in numbers or "train_loss" not in numbers:
                points.append(numbers | {"step": before + entry["step"]})
        before += stage.steps
    return points


if __name__ == "__main__":
    stop_with_parent()
    main(sys.argv[1])

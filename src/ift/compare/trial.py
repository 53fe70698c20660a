"""One trial in a process of its own: `python -m ift.compare.trial TASK.json` trains one method once and scores it."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

from ift.compare.plan import Entrant, stage_settings

SAMPLES = 12  # answers kept in a record


def main(file: str) -> None:
    """Do what the task in `file` says and write its result beside it, in one move."""
    task = json.loads(Path(file).read_text())
    work = Path(
        f"{task['work']}-{os.getpid()}"
    )  # a process left over from a killed study may be at the same task
    work.mkdir(parents=True)
    try:
        {"pairs": make_pairs, "search": search, "run": run, "base": run}[task["kind"]](task, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def make_pairs(task: dict[str, Any], work: Path) -> None:
    """Sample the rejected answers of one seed, once for all methods."""
    from ift.testbed.pairs import cached_pairs
    from ift.testbed.settings import settings

    found = cached_pairs(Path(task["pairs"]), Path(task["base"]), settings()[task["setting"]], task["seed"])
    _write(task, {"sampled": found.sampled, "corrupted": found.corrupted, "sha256": found.sha256})


def search(task: dict[str, Any], work: Path) -> None:
    """Train once and score on validation problems alone."""
    from ift.testbed.families import family_problems
    from ift.testbed.scoring import score
    from ift.testbed.settings import settings

    trained, _ = _train(task, work)
    family = settings()[task["setting"]].family
    model, tokenizer = _loaded(str(trained.folder))
    problems = family_problems(family, "validation", task["validation_rows"])
    found = score(model, tokenizer, problems)
    _write(task, {"config": task["chosen"], "score": found.exact_match, "seconds": trained.seconds})


def run(task: dict[str, Any], work: Path) -> None:
    """Train once, score on all test splits, write the record."""
    from ift.report import Cost, RunRecord, Trial, provenance, save

    entrant = _entrant(task)
    config: dict[str, Any] = {}
    cost, curves, data, folder = Cost(), [], {}, task["base"]
    if task["kind"] == "run":
        trained, flops = _train(task, work)
        folder = str(trained.folder)
        config, curves, data = _config(task, entrant), _curves(trained), _train_data(task, entrant)
        cost = _cost(entrant, trained, flops)
    scores, errors, samples, scored = _scores(task, folder)
    record = RunRecord(
        experiment=task["experiment"],
        setting=task["setting"],
        method=entrant.method,
        variant=entrant.variant,
        seed=task["seed"],
        config=config,
        data=data | scored,
        scores=scores,
        cost=cost,
        search=[Trial(**one) for one in task["tried"]] if task["tried"] else None,
        error_steps=errors,
        curves=curves,
        samples=samples,
        provenance=provenance(task["command"]),
    )
    save(record, task["result"])


def _entrant(task: dict[str, Any]) -> Entrant:
    return Entrant(**task["entrant"])


def _rows(task: dict[str, Any], entrant: Entrant) -> list[dict[str, Any]]:
    from ift.testbed.pairs import cached_pairs
    from ift.testbed.settings import setting_problems, settings

    setting = settings()[task["setting"]]
    if entrant.needs_pairs:
        return cached_pairs(Path(task["pairs"]), Path(task["base"]), setting, task["seed"]).rows
    return [problem.row for problem in setting_problems(setting, task["seed"])]


def _train(task: dict[str, Any], work: Path) -> tuple[Any, float]:
    from ift.baselines import train_method
    from ift.compare.flops import StepFlops

    entrant = _entrant(task)
    counters: list[StepFlops] = []

    def attach(trainer: Any) -> None:
        counters.append(StepFlops())
        trainer.add_callback(counters[-1])

    settings = stage_settings(entrant, task["chosen"], task["first"]) | {"seed": task["seed"]}
    trained = train_method(
        entrant.method, task["base"], _rows(task, entrant), work / "model", settings, attach=attach
    )
    return trained, sum(counter.total for counter in counters)


def _loaded(folder: str) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32"), AutoTokenizer.from_pretrained(
        folder
    )


def _config(task: dict[str, Any], entrant: Entrant) -> dict[str, Any]:
    """Hyper-parameters as trained, with the method's own defaults, and IFT's lambda and gamma always."""
    from ift.baselines.methods import parse_methods

    own: dict[str, Any] = {}
    for stage in parse_methods(entrant.method):
        own |= {"residual_lambda": 0.2, "propagation_gamma": 0.95} if stage.name == "ift" else {}
        own |= {name: value for name, value in stage.defaults.items() if isinstance(value, (int, float, str))}
    return own | stage_settings(entrant, task["chosen"], task["first"])


def _curves(trained: Any) -> list[dict[str, Any]]:
    points, before = [], 0
    for stage in trained.stages:
        for entry in stage.history:
            numbers = {name: value for name, value in entry.items() if isinstance(value, (int, float))}
            if "loss" in numbers or "train_loss" not in numbers:
                points.append(numbers | {"step": before + entry["step"]})
        before += stage.steps
    return points


def _train_data(task: dict[str, Any], entrant: Entrant) -> dict[str, Any]:
    from ift.report import DataSplit
    from ift.testbed.settings import rows_hash

    rows = _rows(task, entrant)
    return {"train": DataSplit(len(rows), rows_hash(rows))}


def _cost(entrant: Entrant, trained: Any, flops: float) -> Any:
    from ift.baselines.methods import parse_methods
    from ift.compare.plan import ROWS_PER_STEP
    from ift.report import Cost

    stages = parse_methods(entrant.method)
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return Cost(
        seconds=trained.seconds,
        flops=flops,
        peak_memory_bytes=kib * (1 if sys.platform == "darwin" else 1024),
        models_held=max(stage.models_held for stage in stages),
        answers_seen=sum(stage.steps for stage in trained.stages) * ROWS_PER_STEP,
        labels=trained.stages[-1].report.rows_read if entrant.needs_pairs else 0,
    )


def _scores(task: dict[str, Any], folder: str) -> tuple[Any, Any, Any, Any]:
    """Scores, first wrong steps, samples and data of the splits `test` and `longer`."""
    from ift.report import DataSplit, Sample
    from ift.testbed.families import family_problems
    from ift.testbed.likelihood import mean_likelihood, multiple_choice
    from ift.testbed.scoring import final_answer, score
    from ift.testbed.settings import rows_hash, settings
    from ift.testbed.wrong_steps import first_wrong_step

    model, tokenizer = _loaded(folder)
    scores: dict[str, Any] = {}
    errors: dict[str, list[int]] = {}
    samples: list[Any] = []
    data: dict[str, Any] = {}
    for split in ("test", "longer"):
        problems = family_problems(settings()[task["setting"]].family, split, task["test_rows"])
        found = score(model, tokenizer, problems)
        likelihood, choice = (
            mean_likelihood(model, tokenizer, problems),
            multiple_choice(model, tokenizer, problems),
        )
        scores[split] = {
            "n": found.n,
            "exact_match": found.exact_match,
            "stopped": found.stopped,
            "mean_length": found.mean_length,
            "target_log_likelihood": likelihood["log_prob"],
            "target_log_likelihood_per_token": likelihood["per_token"],
            "choice_accuracy": choice.by_sum,
            "choice_accuracy_per_token": choice.by_mean,
        }
        wrong = [first_wrong_step(one, text) for one, text in zip(problems, found.answers, strict=True)]
        places = [place for place in wrong if place is not None]
        errors[split] = [places.count(place) for place in range(max(places, default=-1) + 1)]
        data[split] = DataSplit(len(problems), rows_hash([problem.row for problem in problems]))
        for index, problem in enumerate(problems[:SAMPLES]):
            answer, place = found.answers[index], wrong[index]
            right = final_answer(answer) == problem.answer
            step = None if place is None else place + 1
            samples.append(Sample(split, str(index), problem.question, problem.solution, answer, right, step))
    return scores, errors, samples, data


def _write(task: dict[str, Any], result: dict[str, Any]) -> None:
    file = Path(task["result"])
    aside = file.with_suffix(".part")
    aside.write_text(json.dumps(result, indent=1) + "\n")
    aside.replace(file)


if __name__ == "__main__":
    main(sys.argv[1])

"""A study on the user's own model and rows: from the words of `ift train` to a plan, its split and its estimate."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from ift.lab.compare.from_flags import MOST_JOBS, methods_of, plan_of
from ift.methods.table import CONTROLS
from ift.runs.argv import UsageError, value_of

LORA_FACTOR = 10  # adapters learn at rates about ten times higher (trl's own advice)
ROOM = 0.85  # of the memory that is free
ANSWER_GROWTH = 1.25  # a generated answer may be so much longer than the longest target
FORWARDS = dict.fromkeys(("ift", *CONTROLS, "dpo", "tdpo1", "tdpo2"), 4)  # what a step costs; all others: 3


def own_study(verb: str, told: argparse.Namespace, words: list[str], console: Console) -> Any:
    """Read words and rows, check the rows as `ift train` does, split them, open the study's folder.

    Raises:
        UsageError: words that cannot be read, or do not belong here; methods that the rows cannot train.
        DataError: rows that cannot be read, trained or split.
        StudyError: the folder holds another study.
    """
    from ift.data.training_sets import load_splits
    from ift.lab.compare.own import OwnStudy
    from ift.lab.compare.own_rows import has_pairs, split_rows
    from ift.lab.compare.own_scores import PER_TOKEN
    from ift.lab.compare.plan import Rates
    from ift.lab.compare.study import Study
    from ift.methods.stage import prepare_stage
    from ift.runs.check_run import check_model, refuse_or_warn
    from ift.training.trainer import preparation

    console.print(*_left_out(words), sep="\n", end="")
    drafted = plan_of(verb, told, "unnamed", None)
    methods = [entrant.method for entrant in drafted.entrants]
    own = OwnStudy(words, list(dict.fromkeys(methods)), {}, told.metric or "", None, 0)
    _check(own, drafted)
    (sft,) = own.stages("sft", {}, "unused")
    check_model(sft)
    loaded = load_splits(sft.script, sft.mixture, evaluation=True, columns=sft.columns)
    named = None if has_pairs(loaded.train) else _without_pairs(told, drafted, loaded.train, console)
    prepared = prepare_stage(sft, replace(loaded, evaluation=None))
    refuse_or_warn(sft, prepared)
    tokenizer = prepared.tokenizer
    how = preparation(sft.config)
    split = split_rows(
        loaded.train,
        loaded.evaluation,
        tokenizer,
        max_length=how["max_length"],
        train_on=how["train_on"],
        train_rows=_positive(told, "train_rows"),
        validation_rows=_positive(told, "validation_rows"),
        test_rows=_positive(told, "test_rows"),
    )
    for note in [*loaded.notes, *split.notes]:
        console.print(note, markup=False)
    own = _scored(own, told, split, tokenizer)
    by = {"exact_match": "exact match", PER_TOKEN: "log-likelihood per token of the target answers"}
    console.print(
        f"settings are chosen by {by.get(own.metric, own.metric)} on the validation rows", markup=False
    )
    rates = Rates.around(_usual_rate(words, sft))
    answers, pairs = _rates(told, "learning_rates"), _rates(told, "pair_learning_rates")
    more = {"trials": len(answers)} if answers else {}
    rates = Rates(answers or rates.answers, pairs or rates.pairs)
    data = Path(sft.script.dataset_name).name if sft.script.dataset_name else "a mixture"
    setting = f"{data} on {Path(sft.model.model_name_or_path).name}"
    sizes = {"validation_rows": len(split.validation), "test_rows": len(split.test)}
    plan = plan_of(verb, told, setting, named, rates=rates, **sizes, **more)
    own = replace(own, methods=list(dict.fromkeys(entrant.method for entrant in plan.entrants)))
    plan = replace(plan, own=asdict(own))
    study = Study(plan, Path(told.output_dir), sft.model.model_name_or_path, 1, sys.argv[1:])
    study.open()
    split.save(study.rows)
    return study


def _without_pairs(told: argparse.Namespace, plan: Any, train: Any, console: Console) -> list[str] | None:
    """The budget's methods that rows without pairs can train; None for all. UsageError for one the user named."""
    in_need = list(dict.fromkeys(entrant.method for entrant in plan.entrants if entrant.needs_pairs))
    if not in_need:
        return None
    if told.methods:
        columns = ", ".join(train[0].rows.column_names or [])
        raise UsageError(
            f"{', '.join(in_need)}: learns from pairs, and the rows have none (columns: {columns}). "
            "Leave it out, or give rows with chosen and rejected"
        )
    console.print(f"no pairs in the rows: {', '.join(in_need)} left out", markup=False)
    return [name for name in methods_of(told) if name not in in_need]


def _left_out(words: list[str]) -> list[str]:
    """Notes on what the YAML file says and the study decides; UsageError where the command line says it."""
    from ift.lab.compare.own import DECIDED
    from ift.runs.arguments import top_level

    hints = {
        "hub_token": " and would be written to its plan; set HF_TOKEN instead",
        "method": "; say --methods",
        "seed": "; say --seeds",
        "eval_strategy": "; rows are held out anyway",
    }
    for word in words:
        name = word.removeprefix("--").rpartition(".")[2] if word.startswith("--") else ""
        if name in DECIDED:
            raise UsageError(f"{word} is decided by the study itself{hints.get(name, '')}; leave it out")
    file = value_of(words, "--config")
    keys = [key for key in (top_level(Path(file)) if file else {}) if key in DECIDED]
    if "resume_from_checkpoint" in keys:
        raise UsageError(f"{file}: resume_from_checkpoint belongs to one training; take it out")
    return [f"{file}: {', '.join(keys)} left out: the study decides it\n"] if keys else []


def _check(own: Any, plan: Any) -> None:
    """Parse the words for every entrant, so that a wrong one is refused before anything is trained."""
    for entrant in plan.entrants:
        for stage in own.stages(entrant.method, entrant.settings, "unused"):
            if stage.launch:
                raise UsageError(
                    f"{stage.launch[0]}: each training runs in one process; say --jobs for several side by side"
                )


def _scored(own: Any, told: argparse.Namespace, split: Any, tokenizer: Any) -> Any:
    """The study with its metric, pattern and token limit, from the held-out target answers."""
    from ift.generation.final_answer import final_answer_of, last_answer
    from ift.lab.compare.own import METRICS
    from ift.lab.compare.own_scores import PER_TOKEN

    asked = [
        last_answer(row["input_ids"], row["labels"])
        for rows in (split.validation, split.test)
        for row in rows
    ]
    targets = [tokenizer.decode(target, skip_special_tokens=True) for _, target in asked]
    pattern = told.answer_pattern if all(prompt for prompt, _ in asked) else "none"
    try:
        final = final_answer_of(targets, pattern)
    except ValueError as problem:
        raise UsageError(str(problem)) from problem
    metric = told.metric or ("exact_match" if final else PER_TOKEN)
    reasons = {
        f"choose from {', '.join(METRICS)}": metric not in METRICS,
        "the target answers have no final answer in common; give --answer_pattern": metric == "exact_match"
        and final is None,
        "the rows are no pairs": metric == "choice_accuracy" and not split.pairs,
    }
    for reason, wrong in reasons.items():
        if wrong:
            raise UsageError(f"--metric {metric}: {reason}")
    longest = max(len(target) for _, target in asked)
    return replace(
        own,
        sha256=split.sha256,
        metric=metric,
        pattern=final.pattern if final else None,
        max_new_tokens=_positive(told, "max_new_tokens") or math.ceil(longest * ANSWER_GROWTH),
    )


def _usual_rate(words: list[str], sft: Any) -> float:
    """The user's learning rate, else trl's default, for adapters ten times that."""
    from ift.runs.arguments import top_level

    file = value_of(words, "--config")
    said = "--learning_rate" in words or (file is not None and "learning_rate" in top_level(Path(file)))
    factor = LORA_FACTOR if sft.model.use_peft and not said else 1
    return float(sft.config.learning_rate * factor)


def _rates(told: argparse.Namespace, name: str) -> tuple[float, ...]:
    text = getattr(told, name)
    try:
        rates = tuple(float(rate) for rate in (text or "").split(",") if rate.strip())
    except ValueError:
        rates = ()
    if text is not None and not (rates and all(0 < rate < math.inf for rate in rates)):
        raise UsageError(f"--{name} {text}: give numbers above 0, such as 1e-5,3e-5")
    return tuple(dict.fromkeys(rates))


def _positive(told: argparse.Namespace, name: str) -> int | None:
    value: int | None = getattr(told, name)
    if value is not None and value < 1:
        raise UsageError(f"--{name} {value}: give 1 or more")
    return value


# --- what it will take ------------------------------------------------------------------------------------------------


def fitting_jobs(study: Any) -> int:
    """Processes that fit: one per CUDA device; else as many as cores and free memory allow, one at least."""
    import torch

    if torch.accelerator.is_available():
        return max(1, torch.cuda.device_count())
    import psutil

    fit = int(ROOM * psutil.virtual_memory().available / memory_needed(study))
    return max(1, min(os.cpu_count() or 1, fit, MOST_JOBS))


def memory_needed(study: Any) -> float:
    """Bytes of one process: the measured peak of SFT, and a second model where a method compares with one."""
    from ift.methods.table import parse_methods

    found = _measured(study)
    methods = [one for entrant in study.plan.entrants for one in parse_methods(entrant.method)]
    reference = found["weight_bytes"] if any(one.needs_reference for one in methods) else 0
    return float(found["peak_memory_bytes"] + reference)


def estimate(study: Any) -> str:
    """Words for the time and memory that the study takes, from the first measurement."""
    import torch

    seconds = seconds_needed(study)
    spread = seconds / study.jobs if torch.accelerator.is_available() else seconds  # CPU jobs share the cores
    span = f"{spread / 3600:.1f} hours" if spread > 5400 else f"{max(spread / 60, 1):.0f} minutes"
    memory = memory_needed(study) / 2**30
    return f"at most about {span} and {memory:.1f} GiB for each process, by a first measurement"


def seconds_needed(study: Any) -> float:
    """Seconds of everything, one after the other, from the first measurement; done work counts too."""
    from ift.methods.table import parse_methods

    found, plan = _measured(study), study.plan

    def training(entrant: Any) -> float:
        stages = parse_methods(entrant.method)
        forwards = sum(FORWARDS.get(stage.name, 3) for stage in stages) / 3
        steps = found["steps"] * found["step_seconds"] * entrant.more_steps
        return float(len(stages) * found["start_seconds"] + forwards * steps)

    passes = 3 if (study.rows / "test-pairs").exists() else 1  # the target, and both sides of the pair
    answers = found["answer_seconds"] if plan.own["pattern"] else 0.0
    choosing = plan.validation_rows * (
        answers
        if plan.own["metric"] == "exact_match"
        else found["score_seconds"] * (2 if plan.own["metric"] == "choice_accuracy" else 1)
    )
    scoring = plan.test_rows * (passes * found["score_seconds"] + answers)
    searched = sum(len(plan.candidates(one)) * (training(one) + choosing) for one in plan.searched())
    return float(searched + scoring + plan.seeds * sum(training(one) + scoring for one in plan.entrants))


def _measured(study: Any) -> dict[str, float]:
    (task,) = study.probe()
    found: dict[str, float] = json.loads(task.result.read_text())
    return found

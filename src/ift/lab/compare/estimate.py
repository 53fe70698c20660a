"""Time and memory that a study takes, and the processes that fit side by side."""

import json
import math
import os
from typing import Any

from ift.lab.compare.scoring import PER_TOKEN
from ift.lab.compare.study import Study
from ift.lab.compare.testbed import TRIAL_SECONDS
from ift.methods.table import parse_methods

MOST_JOBS = 8
GIB_PER_TESTBED_JOB = 2
FREE_MEMORY_SHARE = 0.85
# cost of a step, in forward passes; of all others 3
FORWARDS = dict.fromkeys(("ift", "random-residual", "position-weights", "dpo", "tdpo1", "tdpo2"), 4)


def fitting_jobs(study: Study) -> int:
    """Processes that fit: one per CUDA device; else as many as cores and free memory allow, at least one."""
    import psutil
    import torch

    if study.plan.user_data is None:
        memory, needed = psutil.virtual_memory().total, float(GIB_PER_TESTBED_JOB * 2**30)
    elif torch.accelerator.is_available():
        return max(1, torch.cuda.device_count())
    else:
        memory, needed = FREE_MEMORY_SHARE * psutil.virtual_memory().available, _memory_needed(study)
    return max(1, min(os.cpu_count() or 1, int(memory / needed), MOST_JOBS))


def estimate(study: Study) -> str:
    """The time that the whole study takes and, on the user's data, the memory, as a text."""
    import torch

    if study.plan.user_data is None:
        return f"about {_testbed_seconds(study) / study.jobs / 60:.0f} minutes on CPU cores like ours"
    seconds = _seconds_needed(study)
    if torch.accelerator.is_available():  # processes on a CPU share its cores
        seconds /= study.jobs
    span = f"{seconds / 3600:.1f} hours" if seconds > 5400 else f"{max(math.ceil(seconds / 60), 2)} minutes"
    memory = _memory_needed(study) / 2**30
    return f"at most about {span} and {memory:.1f} GiB for each process, by a first measurement"


def _testbed_seconds(study: Study) -> float:
    plan = study.plan
    trials = sum(len(plan.candidates(entrant)) for entrant in plan.searched())
    counts = {"pairs": len(study.pairs()), "search": trials, "run": 1 + len(plan.entrants) * plan.seeds}
    return float(sum(TRIAL_SECONDS[kind] * count for kind, count in counts.items()))


def _memory_needed(study: Study) -> float:
    """Bytes of one process: the measured peak of SFT, and a second model where a method compares with one."""
    found = _measured(study)
    methods = [one for entrant in study.plan.entrants for one in parse_methods(entrant.method)]
    reference = found["weight_bytes"] if any(one.needs_reference for one in methods) else 0
    return float(found["peak_memory_bytes"] + reference)


def _seconds_needed(study: Study) -> float:
    """Seconds of all tasks, one after the other, finished ones included."""
    found, plan, user_data = _measured(study), study.plan, study.plan.user_data or {}

    def training(entrant: Any) -> float:
        stages = parse_methods(entrant.method)
        forwards = sum(FORWARDS.get(stage.name, 3) for stage in stages) / 3
        steps = found["steps"] * found["step_seconds"] * entrant.more_steps
        return float(len(stages) * found["start_seconds"] + forwards * steps)

    passes = 3 if (study.rows / "test-pairs").exists() else 1  # the target, and both sides of the pair
    scored = bool(user_data["pattern"] or user_data.get("scoring"))
    answers = found["answer_seconds"] if scored else 0.0
    choices = found["score_seconds"] * (2 if user_data["metric"] == "choice_accuracy" else 1)
    by_likelihood = user_data["metric"] in ("choice_accuracy", PER_TOKEN)
    choosing = plan.validation_rows * (choices if by_likelihood else answers)
    scoring = plan.test_rows * (passes * found["score_seconds"] + answers)
    searched = sum(len(plan.candidates(one)) * (training(one) + choosing) for one in plan.searched())
    return float(searched + scoring + plan.seeds * sum(training(one) + scoring for one in plan.entrants))


def _measured(study: Study) -> dict[str, float]:
    (task,) = study.probe()
    return dict(json.loads(task.result.read_text()))

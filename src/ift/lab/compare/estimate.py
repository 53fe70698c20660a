"""Estimates the time and memory of a study, and the number of processes that fit at the same time."""

import math
import os
from functools import partial

from ift.lab.compare.plan import Entrant, Plan
from ift.lab.compare.study import Study
from ift.lab.report.cautions import ADVISED_ROWS, FEW_ROWS
from ift.lab.report.intervals import joint_confidence, smallest_difference
from ift.lab.report.verdict import FEWEST_SEEDS
from ift.lab.report.wording import SHARES
from ift.methods.table import parse_methods
from ift.text import counted

MOST_JOBS = 8
PAIR_SECONDS = 15  # of sampling the pairs of a seed on the testbed, about
FREE_MEMORY_SHARE = 0.85
ROWS_THAT_DIFFER, SEED_DEVIATION = (0.1, 0.3), 0.01  # assumed, of a difference of shares
# words for a mean difference of up to so many standard deviations over the rows, after Cohen
SIZES = ((0.2, "a small"), (0.5, "a medium"), (0.8, "only a large"), (math.inf, "only a very large"))
FEW_STEPS = 20
# cost of a step, in forward passes; of all others 3
FORWARDS = dict.fromkeys(("ift", "random-residual", "position-weights", "dpo", "tdpo1", "tdpo2"), 4)


def fitting_jobs(study: Study) -> int:
    """The number of processes that fit: one per CUDA device, else as cores and free memory allow; at least 1."""
    import psutil
    import torch

    if on_devices(study):
        return max(1, torch.cuda.device_count())
    free = FREE_MEMORY_SHARE * psutil.virtual_memory().available
    return max(1, min(os.cpu_count() or 1, int(free / _memory_needed(study)), MOST_JOBS))


def on_devices(study: Study) -> bool:
    """Whether each process has its own accelerator."""
    import torch

    return study.plan.user_data is not None and torch.accelerator.is_available()


def estimate(study: Study) -> str:
    """Describe the estimated time of all remaining work and the memory of one process."""
    memory = _memory_needed(study) / 2**30
    return (
        f"about {span(seconds_needed(study))} and {memory:.1f} GiB for each process, by a first measurement"
    )


def span(seconds: float) -> str:
    """A duration in words, rounded up: in seconds up to 90 seconds, in minutes up to 90 minutes, then in hours."""
    if seconds <= 90:
        return f"{max(math.ceil(seconds / 10), 1) * 10} seconds"
    return f"{seconds / 3600:.1f} hours" if seconds > 5400 else f"{math.ceil(seconds / 60)} minutes"


def prospect(plan: Plan) -> list[str]:
    """Lines to print before the first training: the smallest detectable difference, or a warning.

    The warning says that the study is too small. If a time budget decides the numbers of seeds and rows, it is the only
    line, and is given only if even all rows are too few.
    """
    warning = too_small(plan)
    return [*([foresight(plan)] if plan.time_budget is None else []), *([warning] if warning else [])]


def foresight(plan: Plan) -> str:
    """One sentence with the smallest difference that the study is likely to detect, and the assumptions behind it."""
    size = f"{counted(plan.test_rows, 'test row')} and {counted(plan.seeds, 'seed')}"
    if plan.seeds < FEWEST_SEEDS:
        return f"{size}: no verdict with fewer than {FEWEST_SEEDS} seeds; give --seeds {FEWEST_SEEDS} or more for one."
    methods = max(2, len(plan.entrants))  # the verdict compares all of them with each other
    two = "two methods" if methods == 2 else f"two of the {methods} methods"
    find = partial(smallest_difference, plan.seeds, plan.test_rows, confidence=joint_confidence(methods))
    if plan.metric not in SHARES:
        least = find(1.0, 0.0)
        word = next(word for limit, word in SIZES if least <= limit)
        return (
            f"With {size}, {word} difference between {two} is likely to be detected: its mean over the rows must "
            f"be at least {least:.2f} of its standard deviation."
        )
    found = {share: 100 * find(math.sqrt(share), SEED_DEVIATION) for share in ROWS_THAT_DIFFER}
    # a difference cannot be larger than the share of rows that differ
    shown = [
        f"{least:.1f} points if their results differ on {100 * share:.0f} % of the rows"
        for share, least in found.items()
        if least < 100 * share
    ]
    if not shown:
        return f"With {size}, even {100 * max(found):.0f} points between {two} are likely to be missed."
    smallest = f"the smallest difference between {two} that is likely to be detected"
    return f"With {size}, {smallest} is {', and '.join(shown)}."


def too_small(plan: Plan, steps: int | None = None) -> str:
    """Return a warning if the study is too small to compare methods, with advisable numbers; "" if it is not.

    Args:
        plan: The plan of the study.
        steps: The number of steps of one training; None if it has not been measured yet.
    """
    rows = plan.test_rows
    few = []
    if rows < FEW_ROWS:
        few.append(f"{counted(rows, 'test row')} (at least {FEW_ROWS}; {ADVISED_ROWS} are advisable)")
    if steps is not None and steps < FEW_STEPS:
        few.append(f"{counted(steps, 'step')} of a training (at least {FEW_STEPS})")
    if not few:
        return ""
    too_small = "this study is too small to compare methods and shows only that everything runs"
    return f"warning: {too_small}: {' and '.join(few)}."


def _memory_needed(study: Study) -> float:
    """Bytes of one process: the measured peak of SFT, plus a second model if a method needs a reference model."""
    found = _measured(study)
    methods = [one for entrant in study.plan.entrants for one in parse_methods(entrant.method)]
    reference = found["weight_bytes"] if any(one.needs_reference for one in methods) else 0
    return float(found["peak_memory_bytes"] + reference)


def seconds_needed(study: Study) -> float:
    """Estimate the seconds of all tasks without a result, run by the executor of the study."""
    entrants = study.plan.entrants
    seconds = sum(study.trials_left(one) * task_seconds(study, "search", one) for one in entrants)
    seconds += sum(
        len(study.seeds_left(one)) * task_seconds(study, "run", one) for one in (Entrant("base"), *entrants)
    )
    seconds += sum(task_seconds(study, "pairs") for task in study.pairs() if not task.result.exists())
    return seconds / _speed(study)


def starting_seconds(study: Study) -> float:
    """Estimate the part of `seconds_needed` that is spent on starting processes.

    A process that starts imports torch and loads the model and the rows.
    """
    entrants = (Entrant("base"), *study.plan.entrants)
    tasks = sum(study.trials_left(one) for one in study.plan.entrants)
    tasks += sum(len(study.seeds_left(one)) for one in entrants)
    return float(tasks * _measured(study).get("process_seconds", 0.0) / _speed(study))


def task_seconds(study: Study, kind: str, entrant: Entrant | None = None) -> float:
    """Estimate the seconds of one process from launch to exit, with as many processes at a time as were measured.

    Args:
        study: A study with its measurement.
        kind: "pairs", "search" or "run", as in the content of a task; the base model counts as "run".
        entrant: The entrant that the process trains; None for the base model, which is not trained.
    """
    found, plan = _measured(study), study.plan
    process = found.get("process_seconds", 0.0)  # earlier versions did not measure it
    if entrant is None:
        return process + PAIR_SECONDS
    name = "validation" if kind == "search" else "test"
    scoring = getattr(plan, f"{name}_rows") * found[f"{name}_row_seconds"]
    if entrant.method == "base":
        return process + scoring
    stages = parse_methods(entrant.method)
    forwards = sum(FORWARDS.get(stage.name, 3) for stage in stages) / 3
    steps = found["steps"] * plan.training_share * found["step_seconds"] * entrant.more_steps
    times = len(entrant.rate_factors) or 1
    training = times * (len(stages) * found["start_seconds"] + forwards * steps)
    return process + training + scoring


def seconds_at_once(study: Study, kind: str, entrant: Entrant | None = None) -> float:
    """Estimate the same as `task_seconds`, with as many processes at a time as the study runs."""
    return task_seconds(study, kind, entrant) * study.executor.at_once(study.jobs) / _speed(study)


def _speed(study: Study) -> float:
    """The number of measured processes that finish in the time of one.

    If the processes shared the cores while they were measured, this is the number of those processes; otherwise it is
    the number that run in their place.
    """
    if (measured := _measured(study).get("at_once", 1)) > 1:
        return measured
    return study.executor.speed(study.jobs, on_devices(study))


def full_steps(study: Study) -> int:
    """The number of steps of one training that no time budget shortens, from the first measurement."""
    return round(_measured(study)["steps"])


def training_steps(study: Study) -> int:
    """The number of steps of one training of the plan."""
    return math.ceil(full_steps(study) * study.plan.training_share)


def _measured(study: Study) -> dict[str, float]:
    return study.measured()

"""Fits a study into a given time: a first measurement decides its seeds, learning rates, rows and steps."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ift.lab.compare.estimate import (
    FEW_STEPS,
    fitting_jobs,
    full_steps,
    seconds_needed,
    span,
    starting_seconds,
    training_steps,
)
from ift.lab.compare.measurement import shares_cores
from ift.lab.compare.plan import Plan
from ift.lab.compare.study import Study
from ift.lab.compare.study_args import time_flag
from ift.lab.report.json_files import write_json
from ift.runs.argv import UsageError
from ift.text import counted

SHARE_USED = 0.9  # of the time: an estimate is no promise
REPORT_SECONDS = 15  # of tables and figures at the end, about
FEWEST_ROWS = 50  # scored, of each split, where there are as many
# seeds, settings tried for each method, share of the held-out rows that are scored; the last one that fits is taken
LADDER = (
    (3, 1, 0.25), (3, 2, 0.25), (3, 2, 0.5), (3, 3, 0.5), (3, 3, 1.0), (5, 3, 1.0), (5, 4, 1.0), (5, 6, 1.0),
    (8, 6, 1.0), (10, 6, 1.0),
)  # fmt: skip


def fit_to_budget(study: Study, jobs: int | None, say: Callable[[str], object], spent: float = 0.0) -> Study:
    """Choose the largest plan of `LADDER` that fits into the study's time, and the number of processes.

    If not even the smallest plan fits, the training on the user's rows is shortened, to `FEW_STEPS` steps at least,
    unless the user has named its length. The decision is stored in the study's folder, and a resumed study keeps it.
    Only a number of seeds that the user gives now replaces the stored one.

    Args:
        study: A study whose first measurement has been made.
        jobs: The number of processes; None: as many as fit, or the measured number (one) if the processes share the
            cores.
        say: Called with one line that describes the decision.
        spent: Seconds of the time that have already passed.

    Returns:
        The study with the chosen plan and the number of processes.

    Raises:
        UsageError: Not even the smallest plan fits.
    """
    budget = study.plan.time_budget
    as_measured = 1 if budget is not None and shares_cores(study) else None
    study = replace(_timed(study), jobs=jobs or as_measured or fitting_jobs(study))
    if budget is None:
        return study
    file = study.folder / "budget.json"
    if resumed := file.exists():
        decided = json.loads(file.read_text()) | ({"seeds": budget["seeds"]} if budget["seeds"] else {})
        named = f"{counted(budget['seeds'], 'seed')} (--seeds), the rest " if budget["seeds"] else ""
        within = f"{named}as decided when this study began"
    else:
        within = f"within {time_flag(budget['seconds'])}"
        decided = _largest(study, spent)
        write_json(file, decided)
    held_out = study.plan.validation_rows
    study = replace(study, plan=replace(study.plan, **decided))
    seeds = study.plan.seeds
    named = "" if within.startswith(counted(seeds, "seed")) else f"{counted(seeds, 'seed')}, "
    say(f"{within}: {named}{_rates(study.plan.trials)}, {_scored(study.plan)}")
    for line in (_shortened(study, None if resumed else spent), _unused_rows(study.plan, held_out)):
        if line:
            say(line)
    return study


def _largest(study: Study, spent: float) -> dict[str, Any]:
    """The fields of the last plan of `LADDER` that fits; if none does, of the first one with a shorter training.

    Raises:
        UsageError: Not even the first plan fits, with a training as short as the budget may make it.
    """
    limit = (study.plan.time_budget or {})["seconds"]
    plans = [_planned(study.plan, *rung) for rung in LADDER]
    fitting = [one for one in plans if _whole(study, one, spent) <= limit]
    if fitting:
        return fitting[-1]
    shortest = plans[0] | {"training_share": _shortest_share(study)}
    least, longest = (_whole(study, one, spent) for one in (shortest, plans[0]))
    if least > limit:
        raise UsageError(_too_small(replace(study, plan=replace(study.plan, **shortest)), least, longest))
    steps = full_steps(study)
    more = (limit - least) / (longest - least) * (steps - FEW_STEPS)  # the time grows linearly with the steps
    return plans[0] | {"training_share": _share(FEW_STEPS + math.floor(more), steps)}


def _whole(study: Study, fields: dict[str, Any], spent: float) -> float:
    """The seconds that the study takes with these fields of its plan, with those that have passed and the report."""
    planned = replace(study, plan=replace(study.plan, **fields))
    return spent + seconds_needed(planned) / SHARE_USED + REPORT_SECONDS


def _shortest_share(study: Study) -> float:
    """The least share of the training; 1 if the user has named the steps or epochs, or trains on the testbed."""
    kept = study.plan.user_data is None or (study.plan.time_budget or {}).get("training", True)
    return 1.0 if kept or full_steps(study) <= FEW_STEPS else _share(FEW_STEPS, full_steps(study))


def _share(part: int, steps: int) -> float:
    """The share of `steps` with which a trainer, which rounds epochs up to whole steps, makes `part` of them."""
    return (part - 0.001) / steps


def _scored(plan: Plan) -> str:
    """The numbers of rows that the study scores, as text."""
    rows = counted(plan.test_rows, "test row")
    if plan.validation_rows and _chooses(plan):
        rows += f" and {counted(plan.validation_rows, 'validation row')}"
    return rows


def _chooses(plan: Plan) -> bool:
    return bool(plan.searched() or any(one.rate_factors for one in plan.entrants))


def _shortened(study: Study, spent: float | None) -> str:
    """A line that says how much the time shortens every training; "" if it does not.

    `spent` are the seconds that have passed, from which the time of the whole training follows; None: part of the study
    is done, and the time is not named.
    """
    if study.plan.training_share == 1:
        return ""
    steps, full, fix = training_steps(study), full_steps(study), ""
    if spent is not None:
        enough = _flag(_whole(study, {"training_share": 1.0}, spent))
        fix = f"; for the whole training give --budget {enough} and another --output_dir"
    return (
        f"each training is shortened to {steps} of its {counted(full, 'step')} ({100 * steps / full:.0f} %), so this "
        f"study compares the methods early in training{fix}"
    )


def _unused_rows(plan: Plan, held_out: int) -> str:
    """A line on validation rows that are held out and not used; "" if there are none."""
    if plan.user_data is None or not held_out or _chooses(plan):
        return ""
    unused = counted(held_out, "validation row is", "validation rows are")
    return (
        f"{unused} not used, because there is no search; to train on them too, give one rate "
        "(--learning_rates) and another --output_dir"
    )


def _timed(study: Study) -> Study:
    """The study, with the number of steps set for entrants that must take as long as another method."""
    entrants = []
    for one in study.plan.entrants:
        if one.time_of:
            measured = study.measured(one.time_of)
            ratio = measured[f"{one.time_of}_step_seconds"] / measured["step_seconds"]
            one = replace(one, more_steps=ratio)
        entrants.append(one)
    return replace(study, plan=replace(study.plan, entrants=tuple(entrants)))


def _rates(trials: int) -> str:
    return "no search" if trials == 1 else f"{trials} settings tried for each method"


def _planned(plan: Plan, seeds: int, trials: int, share: float) -> dict[str, Any]:
    """The fields of a plan on one rung of the ladder; values that the user has named are kept."""
    given = plan.time_budget or {}

    def rows(name: str) -> int:
        whole = int(getattr(plan, name))
        return whole if given[name] else min(whole, max(FEWEST_ROWS, round(share * whole)))

    return {
        "seeds": given["seeds"] or seeds,
        "trials": given["trials"] or trials,
        "validation_rows": rows("validation_rows"),
        "test_rows": rows("test_rows"),
    }


def _flag(seconds: float) -> str:
    """A time of at least so many seconds, as --budget takes it."""
    return f"{math.ceil(seconds / 60)}m" if seconds <= 5400 else f"{math.ceil(seconds / 360) / 10:g}h"


def _too_small(study: Study, seconds: float, longest: float) -> str:
    """The message of a study that does not fit.

    Args:
        study: The smallest study, whose training may be shortened.
        seconds: The time that it needs.
        longest: The time that it needs with the whole training.
    """
    plan = study.plan
    methods = ", ".join(entrant.label for entrant in plan.entrants)
    starting = starting_seconds(study)
    mostly = starting > seconds / 2
    part = f", of which the processes take {span(starting)} to start" if mostly else ""
    less, size = (
        "",
        f"{counted(plan.seeds, 'seed')}, {_rates(plan.trials)}, {counted(plan.test_rows, 'test row')}",
    )
    if plan.training_share < 1:
        size += f", {training_steps(study)} of the {counted(full_steps(study), 'step')} of each training"
        less = f" (--budget {_flag(longest)} for the whole training)"
    elif plan.user_data is not None and not mostly:
        shorten = (plan.time_budget or {}).get("training") and full_steps(study) > FEW_STEPS
        decides = (
            "; without --max_steps and --num_train_epochs the budget shortens the training" if shorten else ""
        )
        less = f", train less (--max_steps, --train_rows{decides})"
    return (
        f"--budget {time_flag((plan.time_budget or {})['seconds'])} is too short. The smallest study of {methods} "
        f"({size}) needs about {span(seconds)} with the measurement and the report{part}; give --budget "
        f"{_flag(seconds)}{less} or name fewer --methods"
    )

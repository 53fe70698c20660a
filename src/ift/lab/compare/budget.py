"""Fits a study into a given time: a first measurement decides its numbers of seeds, learning rates and scored rows."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ift.lab.compare.estimate import fitting_jobs, seconds_needed, span, starting_seconds
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

    The decision is stored in the study's folder, and a resumed study keeps it. Only a number of seeds that the user
    gives now replaces the stored one.

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
    if file.exists():
        decided = json.loads(file.read_text()) | ({"seeds": budget["seeds"]} if budget["seeds"] else {})
        named = f"{counted(budget['seeds'], 'seed')} (--seeds), the rest " if budget["seeds"] else ""
        within = f"{named}as decided when this study began"
    else:
        within = f"within {time_flag(budget['seconds'])}"
        plans = [_planned(study.plan, *rung) for rung in LADDER]
        seconds = [seconds_needed(replace(study, plan=replace(study.plan, **one))) for one in plans]
        wholes = [spent + needed / SHARE_USED + REPORT_SECONDS for needed in seconds]
        fitting = [one for one, whole in zip(plans, wholes, strict=True) if whole <= budget["seconds"]]
        if not fitting:
            smallest = replace(study, plan=replace(study.plan, **plans[0]))
            raise UsageError(_too_small(smallest, wholes[0]))
        decided = fitting[-1]
        write_json(file, decided)
    held_out = study.plan.validation_rows
    study = replace(study, plan=replace(study.plan, **decided))
    plan = study.plan
    chooses = plan.searched() or any(one.rate_factors for one in plan.entrants)
    rows = counted(plan.test_rows, "test row")
    if plan.validation_rows and chooses:
        rows += f" and {counted(plan.validation_rows, 'validation row')}"
    seeds = "" if within.startswith(counted(plan.seeds, "seed")) else f"{counted(plan.seeds, 'seed')}, "
    say(f"{within}: {seeds}{_rates(plan.trials)}, {rows}")
    if plan.user_data is not None and held_out and not chooses:
        unused = counted(held_out, "validation row is", "validation rows are")
        say(
            f"{unused} not used, because there is no search; to train on them too, give one rate "
            "(--learning_rates) and another --output_dir"
        )
    return study


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


def _too_small(study: Study, seconds: float) -> str:
    plan = study.plan
    methods = ", ".join(entrant.label for entrant in plan.entrants)
    given = time_flag((plan.time_budget or {})["seconds"])
    enough = f"{math.ceil(seconds / 60)}m" if seconds <= 5400 else f"{math.ceil(seconds / 360) / 10:g}h"
    starting = starting_seconds(study)
    mostly = starting > seconds / 2
    part = f", of which the processes take {span(starting)} to start" if mostly else ""
    less = ", train less (--max_steps, --train_rows)" if plan.user_data is not None and not mostly else ""
    return (
        f"--budget {given} is too short. The smallest study of {methods} ({counted(plan.seeds, 'seed')}, "
        f"{_rates(plan.trials)}, {counted(plan.test_rows, 'test row')}) needs about {span(seconds)} with the "
        f"measurement and the report{part}; give --budget {enough}{less} or name fewer --methods"
    )

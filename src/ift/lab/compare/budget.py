"""A study that fits a time: how many seeds, learning rates and scored rows, from the first measurement."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ift.lab.compare.estimate import fitting_jobs, seconds_needed, span
from ift.lab.compare.plan import Plan
from ift.lab.compare.study import Study
from ift.lab.report.json_files import write_json
from ift.runs.argv import UsageError
from ift.text import counted

SHARE_USED = 0.9  # of the time: an estimate is no promise
FEWEST_ROWS = 50  # scored, of each split, where there are as many
# seeds, settings tried for each method, share of the held-out rows that are scored; the last one that fits is taken
LADDER = (
    (3, 1, 0.25), (3, 2, 0.25), (3, 2, 0.5), (3, 3, 0.5), (3, 3, 1.0), (5, 3, 1.0), (5, 4, 1.0), (5, 6, 1.0),
    (8, 6, 1.0), (10, 6, 1.0),
)  # fmt: skip


def fit_to_budget(study: Study, jobs: int | None, say: Callable[[str], object]) -> Study:
    """The study with the plan that fits its time, and with its number of processes; see `LADDER`.

    What is decided is stored in the study's folder, and a resumed study keeps it; only seeds that are named now replace
    those decided.

    Args:
        study: Its first measurement is there.
        jobs: Processes; None: as many as fit.
        say: Called with the decision, in a line.

    Raises:
        UsageError: Not even the smallest plan fits.
    """
    study = replace(_timed(study), jobs=jobs or fitting_jobs(study))
    budget = study.plan.time_budget
    if budget is None:
        return study
    file = study.folder / "budget.json"
    if file.exists():
        decided = json.loads(file.read_text()) | ({"seeds": budget["seeds"]} if budget["seeds"] else {})
        within = "as decided when this study began"
    else:
        within = f"within {span(budget['seconds'])}"
        plans = [_planned(study.plan, *rung) for rung in LADDER]
        seconds = [seconds_needed(replace(study, plan=replace(study.plan, **one))) for one in plans]
        fitting = [
            one
            for one, needed in zip(plans, seconds, strict=True)
            if needed <= SHARE_USED * budget["seconds"]
        ]
        if not fitting:
            raise UsageError(_too_small(study.plan, plans[0], seconds[0]))
        decided = fitting[-1]
        write_json(file, decided)
    study = replace(study, plan=replace(study.plan, **decided))
    plan = study.plan
    say(
        f"{within}: {counted(plan.seeds, 'seed')}, {_rates(plan.trials)}, {plan.test_rows:,} test and "
        f"{counted(plan.validation_rows, 'validation row')}"
    )
    return study


def _timed(study: Study) -> Study:
    """The study with the steps of entrants that are to take as long as another method."""
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
    """The fields of a plan on a rung; what the user has named stays."""
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


def _too_small(plan: Plan, smallest: dict[str, Any], seconds: float) -> str:
    methods = ", ".join(entrant.label for entrant in plan.entrants)
    needed = seconds / SHARE_USED
    less = ", train less (--max_steps, --train_rows)" if plan.user_data is not None else ""
    return (
        f"--budget: {span((plan.time_budget or {})['seconds'])} are too short. The smallest study of {methods} "
        f"({smallest['seeds']} seeds, {_rates(smallest['trials'])}, {counted(smallest['test_rows'], 'test row')}) "
        f"needs about {span(needed)}; give that much{less} or name fewer --methods"
    )

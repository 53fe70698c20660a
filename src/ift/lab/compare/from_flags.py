"""A study's plan from the flags of `ift compare` and `ift ablate`."""

from __future__ import annotations

import argparse
from typing import Any

from ift.runs.argv import UsageError, named

MOST_JOBS = 8


def plan_of(verb: str, told: argparse.Namespace, setting: str, methods: list[str] | None, **more: Any) -> Any:
    """The plan of the budget, with the methods and seeds that the user gave; `more` are further fields of `Plan`.

    Raises:
        UsageError: an unknown budget or method.
    """
    from ift.lab.compare.plan import VARIANTS, ablate_plan, compare_plan

    budget = budget_of(told)
    seeds, trials = told.seeds or budget["seeds"], more.pop("trials", budget["trials"])
    try:
        if verb == "ablate":
            variants = named(told.variants or "", VARIANTS)
            return ablate_plan(setting, seeds, trials, told.budget == "quick", variants, **more)
        return compare_plan(
            setting, methods or methods_of(told), seeds, trials, fairer=told.budget == "full", **more
        )
    except ValueError as problem:
        raise UsageError(str(problem)) from problem


def budget_of(told: argparse.Namespace) -> Any:
    """Methods, seeds and trials of the budget."""
    from ift.lab.compare.plan import BUDGETS

    if told.budget not in BUDGETS:
        raise UsageError(f"--budget {told.budget}: choose from {', '.join(BUDGETS)}")
    return BUDGETS[told.budget]


def methods_of(told: argparse.Namespace) -> list[str]:
    """The methods that the user named, or the budget's."""
    return [name.strip() for name in (told.methods or budget_of(told)["methods"]).split(",") if name.strip()]

"""The arguments of `ift compare` and `ift ablate`, checked, and the plan that follows from them."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ift.lab.compare.plan import BUDGETS, VARIANTS, Plan, ablate_plan, compare_plan
from ift.runs.argv import UsageError, named

FIRST_SETTING = "arithmetic-small-clean"  # of the testbed, unless another is named


@dataclass(frozen=True)
class StudyArgs:
    """What the user asked for; None: the default applies.

    Attributes:
        verb: `compare` or `ablate`.
        command: The command line after `ift`, for the records.
        output_dir: Folder of the study.
        budget: A key of `BUDGETS`.
        methods: Methods of `ift compare`, separated by commas.
        variants: Labels of `VARIANTS` for `ift ablate`, separated by commas.
        seeds: Runs of each method, 2 or more.
        jobs: Processes at the same time.
        setting: Name of a setting of the testbed.
        train_rows: At most so many rows are trained on.
        validation_rows: Rows held out to choose settings on.
        test_rows: Rows held out to score on.
        learning_rates: Learning rates to choose from.
        pair_learning_rates: The same for methods that learn from pairs.
        metric: The score that settings are chosen by.
        answer_pattern: See `ift.generation.final_answer`.
        max_new_tokens: Longest generated answer.
    """

    verb: str
    command: list[str]
    output_dir: Path
    budget: str = "quick"
    methods: str | None = None
    variants: str | None = None
    seeds: int | None = None
    jobs: int | None = None
    setting: str | None = None
    train_rows: int | None = None
    validation_rows: int | None = None
    test_rows: int | None = None
    learning_rates: tuple[float, ...] = ()
    pair_learning_rates: tuple[float, ...] = ()
    metric: str | None = None
    answer_pattern: str | None = None
    max_new_tokens: int | None = None

    @classmethod
    def from_namespace(cls, verb: str, command: Sequence[str], parsed: argparse.Namespace) -> StudyArgs:
        """Check the values that argparse does not check.

        Raises:
            UsageError: an unknown budget, a number out of range, or learning rates that are no numbers.
        """
        if parsed.budget not in BUDGETS:
            raise UsageError(f"--budget {parsed.budget}: choose from {', '.join(BUDGETS)}")
        if parsed.seeds is not None and parsed.seeds < 2:
            raise UsageError(f"--seeds {parsed.seeds}: an interval needs at least 2")
        for name in ("jobs", "train_rows", "validation_rows", "test_rows", "max_new_tokens"):
            if (value := getattr(parsed, name)) is not None and value < 1:
                raise UsageError(f"--{name} {value}: give 1 or more")
        values = {field.name: getattr(parsed, field.name, None) for field in fields(cls)}
        rates = {name: _rates(name, values[name]) for name in ("learning_rates", "pair_learning_rates")}
        own = {"verb": verb, "command": [*command], "output_dir": Path(parsed.output_dir)}
        return cls(**{**values, **rates, **own})

    @property
    def method_names(self) -> list[str]:
        """The methods that the user named, or those of the budget."""
        names = self.methods or BUDGETS[self.budget]["methods"]
        return [name.strip() for name in names.split(",") if name.strip()]

    def plan(self, setting: str, methods: Sequence[str] | None = None, **more: Any) -> Plan:
        """The plan of the study.

        Args:
            setting: See `Plan`.
            methods: In place of `method_names`.
            more: Further fields of `Plan`.

        Raises:
            UsageError: an unknown method or variant.
        """
        budget: Mapping[str, Any] = BUDGETS[self.budget]
        seeds = self.seeds or budget["seeds"]
        trials = len(self.learning_rates) or budget["trials"]
        try:
            if self.verb == "ablate":
                variants = named(self.variants or "", VARIANTS)
                return ablate_plan(setting, seeds, trials, self.budget == "quick", variants, **more)
            full = self.budget == "full"
            return compare_plan(setting, methods or self.method_names, seeds, trials, full, **more)
        except ValueError as problem:
            raise UsageError(str(problem)) from problem


def _rates(name: str, text: str | None) -> tuple[float, ...]:
    """Learning rates separated by commas, each once; none where the flag is not given."""
    try:
        rates = tuple(float(rate) for rate in (text or "").split(",") if rate.strip())
    except ValueError:
        rates = ()
    if text is not None and not (rates and all(0 < rate < math.inf for rate in rates)):
        raise UsageError(f"--{name} {text}: give numbers above 0, such as 1e-5,3e-5")
    return tuple(dict.fromkeys(rates))

"""The checked arguments of `ift compare` and `ift ablate`, and the plan that follows from them."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ift.lab.compare.own_weights import try_own_weights
from ift.lab.compare.plan import BUDGETS, CONTENDERS, VARIANTS, Plan, ablate_plan, compare_plan
from ift.lab.ray_tasks import HELP, OWN, check_ray
from ift.runs.argv import UsageError, UsageParser, named
from ift.runs.yaml_file import flags_in_file, parse_yaml_file

_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(h|m|min|s)")
_SECONDS = {"h": 3600, "m": 60, "min": 60, "s": 1}
FIRST_SETTING = "arithmetic-small-clean"  # of the testbed, unless another is named


def _flag(help_text: str, default: Any = None, **metadata: Any) -> Any:
    """A field with the help text of its flag; None means that the default applies."""
    return field(default=default, metadata={"help": help_text, **metadata})


def _jobs(text: str) -> int | None:
    """The value of --jobs; None, the default, for auto."""
    try:
        return None if text.strip() == "auto" else int(text)
    except ValueError:
        problem = f"invalid value: {text!r}. Fix: give auto, or a whole number, such as 1"
        raise argparse.ArgumentTypeError(problem) from None


def _user_flag(help_text: str, default: Any = None) -> Any:
    """A field as of `_flag`, for a flag that needs the user's model and data."""
    return _flag(help_text, default, user_data=True)


@dataclass(frozen=True)
class StudyArgs:
    """The arguments of a study; a field with a help text is a flag of the same name.

    Attributes:
        verb: `compare` or `ablate`.
        command: The command line after `ift`, for the records.
        output_dir: Folder of the study.
    """

    verb: str
    command: list[str]
    output_dir: Path
    methods: str | None = _flag(
        "Methods to compare, such as sft,ift,sft+ift, 'sft time of ift', 'ift residual only' or 'ift FILE.py:function' "
        "(token weights of your own) [set by --budget].",
        verb="compare",
    )
    variants: str | None = _flag(
        f"Variants to train: {', '.join(VARIANTS)}, and 'ift FILE.py:function' [set by --budget].",
        verb="ablate",
    )
    budget: str = _flag(
        "A time, such as 45m or 2h, which sets the numbers of seeds, settings tried and scored rows, and shortens the "
        "training if nothing fits; or quick (minutes on the testbed) or full (hours) [quick].",
        "quick",
    )
    seeds: int | None = _flag(
        "Number of seeds, which is the number of runs of each method [set by --budget]; a higher one extends a study."
    )
    jobs: int | None = _flag(
        "Number of parallel processes, or auto: as many as cores and memory allow, one on a CPU if --budget is a time "
        "[auto].",
        kind=_jobs,
    )
    ray: str | None = _flag(f"{HELP} --jobs then is the largest number of parallel tasks.", optional=OWN)
    setting: str | None = _flag(
        f"Setting of the testbed: family, size and noise of its rows [{FIRST_SETTING}]."
    )
    train_rows: int | None = _user_flag("Largest number of training rows [all rows that are not held out].")
    validation_rows: int | None = _user_flag(
        "Number of rows on which settings are chosen [a tenth, at most 200; none without a search]."
    )
    test_rows: int | None = _user_flag("Number of test rows [a fifth or the test split, at most 500].")
    learning_rates: tuple[float, ...] = _user_flag(
        "Learning rates to choose from, such as 1e-5,3e-5; with a single one there is no search "
        "[around --learning_rate].",
        (),
    )
    pair_learning_rates: tuple[float, ...] = _user_flag(
        "Learning rates for preference methods [around a tenth of --learning_rate].", ()
    )
    score: str | None = _user_flag(
        "How generated answers are scored: final-answer, text, contains, json, sql, bleu, chrf, rouge, f1, "
        "judge, FILE.py:function, or several with commas; the first one chooses the settings [final-answer if the "
        "targets have final answers]."
    )
    score_db: str | None = _user_flag("SQLite file on which --score sql runs the queries, read-only.")
    judge: str | None = _user_flag(
        "Model that --score judge asks, at the endpoint of ift judge; it costs money."
    )
    prices: str | None = _user_flag(
        "The judge's prices per million tokens in and out, such as 2.5,10, to show the cost."
    )
    yes: bool | None = _user_flag("Agree to the judge's cost beforehand.")
    metric: str | None = _user_flag(
        "Score that chooses the settings: exact_match, target_log_likelihood_per_token or choice_accuracy "
        "[exact_match if the targets have final answers]."
    )
    answer_pattern: str | None = _user_flag(
        "How a final answer is found: ####, boxed, a regular expression, or none [#### or boxed]."
    )
    max_new_tokens: int | None = _user_flag(
        "Longest generated answer [a quarter more than the longest target]."
    )

    @classmethod
    def flags(cls, verb: str, *, user_data: bool) -> list[tuple[str, dict[str, Any]]]:
        """Names and argparse options of the flags of a command, either those for the user's data or the others."""
        found = []
        for one in fields(cls):
            about = one.metadata
            if about and about.get("verb", verb) == verb and about.get("user_data", False) == user_data:
                kind = about.get("kind", int if str(one.type).startswith("int") else str)
                default = one.default or None  # rates are parsed from a text
                on = str(one.type).startswith("bool")
                options: dict[str, Any] = {"action": "store_true"} if on else {"type": kind}
                if "optional" in about:  # a flag whose value may be left out
                    options |= {"nargs": "?", "const": about["optional"], "metavar": "ADDRESS"}
                found.append((one.name, {**options, "default": default, "help": about["help"]}))
        return found

    @classmethod
    def keys(cls) -> frozenset[str]:
        """Names of the flags of both commands, which are also keys of a YAML file; output_dir is not included."""
        return frozenset(one.name for one in fields(cls) if one.metadata)

    @classmethod
    def in_file(cls, verb: str, file: str | None, parser: UsageParser) -> tuple[list[str], bool]:
        """Read the study's flags from the YAML file of --config.

        Returns:
            The flags as words, and whether the file also has keys of `ift train`.

        Raises:
            UsageError: The file cannot be parsed, a value is refused, or a key is a flag of the other command.
        """
        if file is None:
            return [], True
        own = {name for user_data in (False, True) for name, _ in cls.flags(verb, user_data=user_data)}
        keys = parse_yaml_file(Path(file))
        for key in (key for key in keys if key in cls.keys() - own):
            line = keys[key].start_mark.line + 1
            raise UsageError(f"{file}, line {line}: {key} is no flag of ift {verb}; leave it out")
        return flags_in_file(file, own, parser), bool(keys.keys() - own)

    @classmethod
    def from_namespace(cls, verb: str, command: Sequence[str], parsed: argparse.Namespace) -> StudyArgs:
        """Check the values that argparse does not check.

        Raises:
            UsageError: An unknown budget, a number out of range, or learning rates that are not numbers.
        """
        if parsed.budget not in BUDGETS and parse_time(parsed.budget) is None:
            raise UsageError(
                f"--budget {parsed.budget}: choose from {', '.join(BUDGETS)}, or give a time such as 45m or 2h"
            )
        if parsed.seeds is not None and parsed.seeds < 2:
            raise UsageError(f"--seeds {parsed.seeds}: an interval needs at least 2")
        for name in ("jobs", "train_rows", "validation_rows", "test_rows", "max_new_tokens"):
            if (value := getattr(parsed, name)) is not None and value < 1:
                raise UsageError(f"--{name} {value}: give 1 or more")
        check_ray(parsed.ray)
        values: dict[str, Any] = {one.name: getattr(parsed, one.name, None) for one in fields(cls)}
        for name in ("learning_rates", "pair_learning_rates"):
            values[name] = _rates(name, values[name])
        values |= {"verb": verb, "command": [*command], "output_dir": Path(parsed.output_dir).expanduser()}
        return cls(**values)

    @property
    def method_names(self) -> list[str]:
        """The methods that the user has named, otherwise those of the budget."""
        names = self.methods or self._budget["methods"]
        return named(names, CONTENDERS)

    def plan(self, setting: str, methods: Sequence[str] | None = None, **more: Any) -> Plan:
        """Make the plan of the study; `methods` replaces `method_names`, and `more` are further fields of `Plan`.

        Raises:
            UsageError: An unknown method or variant.
        """
        budget = self._budget
        more |= self._time_budget()
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

    @property
    def _budget(self) -> Mapping[str, Any]:
        """The budget of the given name; for a time budget, the methods of the quick one."""
        return BUDGETS.get(self.budget, BUDGETS["quick"])

    def _time_budget(self) -> dict[str, Any]:
        """The field `time_budget` of `Plan` as keyword arguments; empty without a time."""
        seconds = parse_time(self.budget)
        if seconds is None:
            return {}
        named = {"seeds": self.seeds, "trials": len(self.learning_rates) or None}
        rows = {name: getattr(self, name) for name in ("validation_rows", "test_rows")}
        return {"time_budget": {"seconds": seconds, **named, **rows}}


def try_contenders(plan: Plan) -> None:
    """Call each function of the user's own that returns token weights once.

    Raises:
        UsageError: A function fails or does not return weights.
    """
    try:
        try_own_weights(plan.entrants, "--variants" if plan.experiment == "ablate" else "--methods")
    except ValueError as problem:
        raise UsageError(str(problem)) from problem


def parse_time(text: str) -> float | None:
    """The seconds of a duration such as `2h`, `45m` or `90s`; None if the text is no duration."""
    found = _TIME.fullmatch(text.strip().lower())
    return float(found[1]) * _SECONDS[found[2]] if found and float(found[1]) else None


def time_flag(seconds: float) -> str:
    """A duration in the form that --budget takes, such as 2h, 45m or 90s."""
    for unit, size in (("h", 3600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"


def _rates(name: str, text: str | None) -> tuple[float, ...]:
    """Learning rates from a list separated by commas, without duplicates; empty if the flag is not given."""
    try:
        rates = tuple(float(rate) for rate in (text or "").split(",") if rate.strip())
    except ValueError:
        rates = ()
    if text is not None and not (rates and all(0 < rate < math.inf for rate in rates)):
        raise UsageError(f"--{name} {text}: give numbers above 0, such as 1e-5,3e-5")
    return tuple(dict.fromkeys(rates))

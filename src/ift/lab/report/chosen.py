"""Describes the settings that a search chose: whether they are at the edge of those tried, and what decided."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from ift.lab.report.comparisons import Comparison
from ift.lab.report.records import RunRecord, Trial
from ift.lab.report.variants import Variant
from ift.methods.table import parse_methods

RATE = "learning_rate"
_OF_STAGE = re.compile(r"^\d+\.")
STEP = 3.0  # factor to the rate that is proposed beyond the edge, as between those tried


def best(tried: Sequence[Trial]) -> Trial:
    """The trial with the highest score; at equal scores that with the highest `tie`, then the first. None is lowest."""

    def rank(one: Trial) -> tuple[float, float]:
        return tuple(-math.inf if value is None else value for value in (one.score, one.tie))  # type: ignore[return-value]

    return max(tried, key=rank)


def chosen_lines(comparison: Comparison) -> list[str]:
    """One line for each method with a search, in the order of the tables."""
    found = [_line_of(variant) for variant in comparison.variants]
    return [line for line in found if line]


def chosen_line(label: str, tried: Sequence[Trial], flag: str | None) -> str:
    """Describe the choice of one search in a line.

    Args:
        label: The label of the method.
        tried: The trials of its search, at least two.
        flag: The flag that sets other learning rates, such as --learning_rates; None if there is none.
    """
    chosen = best(tried)
    line = f"{label}: {_shown(chosen)} was chosen from {len(tried)} settings"
    rates = sorted({rate for one in tried if (rate := _rate(one)) is not None})
    rate = _rate(chosen)
    if rate is not None and len(rates) > 1 and rate in (rates[0], rates[-1]):
        higher = rate == rates[-1]
        line += f", with the {'largest' if higher else 'smallest'} learning rate tried: "
        line += f"a {'higher' if higher else 'lower'} one may be better"
        if flag is not None:
            beyond = rate * STEP if higher else rate / STEP
            line += f"; try {flag} {rate:g},{float(f'{beyond:.1g}'):g} with another --output_dir"
    return f"{line}. {_why(tried, chosen)}".strip()


def _why(tried: Sequence[Trial], chosen: Trial) -> str:
    """A sentence on what decided if scores are equal or missing; otherwise ""."""
    if chosen.score is None:
        return "No trial has a finite validation score, so the first one was chosen."
    level = [one for one in tried if one.score == chosen.score]
    if len(level) == 1:
        return ""
    count = f"all {len(tried)}" if len(level) == len(tried) else f"{len(level)} of {len(tried)}"
    by_tie = any(one.tie != chosen.tie for one in level)
    decided = (
        "the one with the highest log-likelihood of the targets per token"
        if by_tie
        else "the one tried first"
    )
    return (
        f"The validation score is the same, {chosen.score:.3g}, for {count}; of these {decided} was chosen."
    )


def _line_of(variant: Variant) -> str:
    runs = [run for run in variant.runs.values() if run.search and len(run.search) > 1]
    if not runs:
        return ""
    shown = {_shown(best(run.search or [])): run for run in runs}
    if len(shown) > 1:  # such as the better one of two rates
        return f"{variant.label}: chosen by seed: {'; '.join(shown)}."
    (run,) = shown.values()
    return chosen_line(variant.label, run.search or [], _flag(run))


def _flag(run: RunRecord) -> str | None:
    """The flag of the learning rates that were tried, for studies on the user's own rows."""
    command = run.provenance.command or ""
    if not any(f"--{name}" in command for name in ("dataset_name", "config")):
        return None
    try:
        return rates_flag(run.method)
    except ValueError:  # a record that ift has not made
        return None


def rates_flag(method: str) -> str:
    """The flag of the learning rates that a method's search tries: those of its last stage."""
    return "--pair_learning_rates" if parse_methods(method)[-1].needs_pairs else "--learning_rates"


def _rate(trial: Trial) -> float | None:
    found = next((value for name, value in trial.config.items() if _OF_STAGE.sub("", name) == RATE), None)
    return float(found) if isinstance(found, float | int) else None


def _shown(trial: Trial) -> str:
    """The settings of a trial as text, such as "learning rate 0.003, beta 0.1"."""
    return ", ".join(
        f"{_OF_STAGE.sub('', name).replace('_', ' ')} {value:g}"
        if isinstance(value, float | int)
        else f"{name} {value}"
        for name, value in trial.config.items()
    )

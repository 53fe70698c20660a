"""Sentences on what limits a comparison: few rows, answers without text, a training that a time budget shortened."""

from __future__ import annotations

from statistics import fmean

from ift.lab.report.variants import Variant
from ift.lab.report.wording import EMPTY, number

# scored rows: the intervals were simulated from 50 on, and with 200 three seeds find a small difference
FEW_ROWS, ADVISED_ROWS = 50, 200


def empty_answers(variants: list[Variant], split: str) -> list[str]:
    """A warning if a method has answers without text, of which those that stop count like good answers."""
    shares = {one.label: fmean(found.values()) for one in variants if (found := one.scores(split, EMPTY))}
    shown = ", ".join(f"{label} {number(share, EMPTY)}" for label, share in shares.items())
    if not any(shares.values()):
        return []
    stopped = any(_empty_may_have_stopped(one, split) for one in variants)
    count = (
        "Those that end with their end token count as stopped"
        if stopped
        else "No answer without text stopped with its end token"
    )
    return [f"Answers without text: {shown}. {count}: read some before you compare."]


def _empty_may_have_stopped(variant: Variant, split: str) -> bool:
    """Whether an answer without text stopped with its end token; without values of the rows, whether one can have."""
    empty, stopped = (variant.rows(split, name) for name in (EMPTY, "stopped"))
    if empty and empty.keys() == stopped.keys():
        both = (pair for seed in empty for pair in zip(empty[seed], stopped[seed], strict=True))
        return any(all(pair) for pair in both)
    return all(any(variant.scores(split, name).values()) for name in (EMPTY, "stopped"))


def scored_rows(variants: list[Variant], split: str) -> int:
    """The least number of rows that any run has scored."""
    return min(int(run.scores[split]["n"] or 0) for one in variants for run in one.runs.values())


def few_rows(variants: list[Variant], split: str) -> list[str]:
    """A warning if too few rows were scored."""
    if (rows := scored_rows(variants, split)) >= FEW_ROWS:
        return []
    return [
        f"Too few rows to compare methods: {rows} were scored, {FEW_ROWS} are the least and {ADVISED_ROWS} advisable. "
        "It shows only that everything runs."
    ]


def shortened(variants: list[Variant]) -> list[str]:
    """A sentence on a training that a time budget has shortened; an empty list if none was."""
    found = [one.config.get("training_share") for one in variants]
    shares = [share for share in found if isinstance(share, float)]
    if not shares:
        return []
    return [
        f"Each training was shortened to {100 * min(shares):.0f} % of its steps by the time budget, so this compares "
        "the methods early in training; with the whole training the result may be another."
    ]

"""An answer, a score, and the scores of many answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

REFERENCE_COLUMNS = ("references", "reference")


class ScoreError(ValueError):
    """A row, a reference or a score's function that cannot be scored; the message names the row and the remedy."""


@dataclass(frozen=True)
class Answer:
    """A model's answer, and what it is scored against.

    Attributes:
        id: Names the row in messages.
        prompt: Text that the model was given.
        text: Text that the model wrote.
        target: Target answer of the row.
        row: Columns of the row as loaded.
        column: Column of the right answers; None: `references` or `reference` where the row has one, else the target.
    """

    id: str
    prompt: str
    text: str
    target: str | None
    row: Mapping[str, Any] = field(default_factory=dict)
    column: str | None = None

    @property
    def references(self) -> list[str]:
        """Right answers, at least one.

        Raises:
            ScoreError: There is none, or it is no text.
        """
        columns = [self.column] if self.column else REFERENCE_COLUMNS
        found = next((self.row[name] for name in columns if self.row.get(name) is not None), None)
        if found is None and self.column is None:
            found = self.target
        texts: list[Any] = found if isinstance(found, list) else [found]
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            hint = ""
            if found is None and self.row:
                name = "" if self.column else "; ift score takes another column with --reference NAME"
                hint = f". Columns of the row: {', '.join(self.row)}{name}"
            raise ScoreError(
                f"row {self.id}: the right answer is {found!r:.80}; give a text or a list of texts in "
                f"{' or '.join(columns)}, none of them empty{hint}"
            )
        return texts


@dataclass(frozen=True)
class Score:
    """One way to score answers; greater is better.

    Attributes:
        name: In records and tables.
        of_row: The value of an answer, or several values by name.
        corpus: The value of all answers together where that is not the mean over rows, and that without each of them.
        check: Raises `ScoreError` where the row of an answer cannot be scored.
        binary: Whether the values are 0 and 1, wrong and right.
        prepare: Called with all answers before `of_row`.
        costs: Whether each answer costs money: such a score is not tried on the right answers.
    """

    name: str
    of_row: Callable[[Answer], float | Mapping[str, float]]
    corpus: Callable[[Sequence[Answer]], tuple[float, list[float]]] | None = None
    check: Callable[[Answer], object] = lambda answer: answer.references
    binary: bool = False
    prepare: Callable[[Sequence[Answer]], object] = lambda answers: None
    costs: bool = False


@dataclass(frozen=True)
class Result:
    """Scores of some answers.

    Attributes:
        totals: Of all answers together, by name; the values of `scores` in their order.
        rows: The values of each answer, by name.
        parts: By name what each answer adds: values whose mean is the total. Those of a mean are the answers' values;
            those of a corpus its pseudo-values (jackknife), what the total says less without the answer.
    """

    totals: dict[str, float]
    rows: list[dict[str, float]]
    parts: dict[str, list[float]]


def best_reference(match: Callable[[str, str], float]) -> Callable[[Answer], float]:
    """The greatest `match(answer, reference)` over the references of a row."""
    return lambda answer: max(match(answer.text, reference) for reference in answer.references)


def score_answers(scores: Sequence[Score], answers: Sequence[Answer]) -> Result:
    """Score answers.

    Args:
        scores: The scores.
        answers: At least one.

    Raises:
        ScoreError: An answer that cannot be scored.
    """
    rows: list[dict[str, float]] = [{} for _ in answers]
    totals, parts = dict[str, float](), dict[str, list[float]]()
    for score in scores:
        score.prepare(answers)
        values = [_named(score.name, score.of_row(answer)) for answer in answers]
        for row, answer, found in zip(rows, answers, values, strict=True):
            if found.keys() != values[0].keys():
                raise ScoreError(
                    f"{score.name}: row {answer.id}: found the values {', '.join(found) or 'none'}, and "
                    f"{', '.join(values[0]) or 'none'} for the first row; give every row the same ones"
                )
            if twice := row.keys() & found.keys():
                raise ScoreError(f"two scores are called {min(twice)}; rename one")
            row |= found
        for name in values[0]:
            parts[name] = [one[name] for one in values]
            if score.corpus:
                totals[name], without = score.corpus(answers)
                parts[name] = _pseudo_values(totals[name], without)
            else:
                totals[name] = fmean(parts[name])
    return Result(totals, rows, parts)


def _pseudo_values(total: float, without: Sequence[float]) -> list[float]:
    """From a statistic of n answers, and that without each of them: values with the statistic as their mean."""
    mean = fmean(without)
    return [total + (len(without) - 1) * (mean - one) for one in without]


def _named(name: str, found: float | Mapping[str, float]) -> dict[str, float]:
    if isinstance(found, Mapping):
        return {f"{name}.{key}": value for key, value in found.items()}
    return {name: found}


def target_scores(scores: Sequence[Score], rows: Sequence[Answer]) -> dict[str, float]:
    """Check that rows can be scored, before there are answers.

    Args:
        scores: The scores.
        rows: Held-out rows; their `text` is not read.

    Returns:
        What the first right answers themselves score, by name; without scores that cost money.

    Raises:
        ScoreError: A row that cannot be scored, or a score that is not finite.
    """
    for score in scores:
        for row in rows:
            score.check(row)
    rights = [
        replace(row, text=row.target if row.target and not row.column else row.references[0]) for row in rows
    ]
    totals = score_answers([score for score in scores if not score.costs], rights).totals
    if broken := [name for name, value in totals.items() if not math.isfinite(value)]:
        raise ScoreError(f"{broken[0]}: not a finite number for the right answers themselves")
    return totals

"""A score of the user's own: `FILE.py:function` with `function(prompt, answer, row) -> float | dict[str, float]`.

`row` has the row's columns, and the target answer as `target` where no column has that name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ift.lab.scores.answer import Answer, Score, ScoreError
from ift.text import quoted
from ift.user_code import load_function


def user_score(spec: str) -> Score:
    """The score of a function in a Python file, which is imported: only name files that you trust.

    Args:
        spec: `FILE.py:function`.

    Raises:
        ScoreError: The file is missing or fails, or has no such function.
    """
    try:
        function = load_function(spec, "--score")
    except ValueError as error:
        raise ScoreError(str(error)) from error

    def of_row(answer: Answer) -> float | Mapping[str, float]:
        try:
            found = function(answer.prompt, answer.text, {"target": answer.target, **answer.row})
        except Exception as error:
            columns = {"target", *answer.row}
            hints = {
                f"the row has the columns {', '.join(sorted(columns))}": isinstance(error, KeyError),
                "the row has no right answer, so row['target'] is None; name its column (--reference of ift score)": (
                    answer.target is None and "target" not in answer.row
                ),
            }
            raise ScoreError(
                f"{spec}: row {answer.id}: {type(error).__name__}: {quoted(error)}; the answer was "
                f"{answer.text!r:.200}" + "".join(f"; {hint}" for hint, holds in hints.items() if holds)
            ) from error
        if isinstance(found, Mapping):
            return {
                str(key): _number(value, f"{spec}: row {answer.id}, {key}") for key, value in found.items()
            }
        return _number(found, f"{spec}: row {answer.id}")

    def check(answer: Answer) -> None:
        empty, target = (_keys(of_row(replace(answer, text=text))) for text in ("", answer.target or ""))
        if empty != target:
            raise ScoreError(
                f"{spec}: row {answer.id}: found {empty} for an empty answer, and {target} for the right one; return "
                "the same keys for every answer"
            )

    return Score(spec.rpartition(":")[2], of_row, check=check)


def _keys(found: float | Mapping[str, float]) -> str:
    """The names of a function's values, for comparison and for messages."""
    return f"the keys {', '.join(sorted(found))}" if isinstance(found, Mapping) else "a number"


def _number(value: Any, place: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, str) or not math.isfinite(number):
        raise ScoreError(f"{place}: returned {value!r:.80}; return a finite number, or a dictionary of them")
    return number

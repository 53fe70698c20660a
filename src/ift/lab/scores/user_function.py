"""A score of the user's own: `FILE.py:function` with `function(prompt, answer, row) -> float | dict[str, float]`."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ift.lab.scores.answer import Answer, Score, ScoreError
from ift.text import did_you_mean


def user_score(spec: str) -> Score:
    """The score of a function in a Python file, which is imported: only name files that you trust.

    Args:
        spec: `FILE.py:function`.

    Raises:
        ScoreError: The file is missing or fails, or has no such function.
    """
    file, _, name = spec.rpartition(":")
    function = _load(Path(file).expanduser(), name, spec)

    def of_row(answer: Answer) -> float | Mapping[str, float]:
        try:
            found = function(answer.prompt, answer.text, dict(answer.row))
        except Exception as error:
            raise ScoreError(
                f"{spec}: row {answer.id}: {type(error).__name__}: {error}; the answer was {answer.text!r:.200}"
            ) from error
        if isinstance(found, Mapping):
            return {
                str(key): _number(value, f"{spec}: row {answer.id}, {key}") for key, value in found.items()
            }
        return _number(found, f"{spec}: row {answer.id}")

    return Score(name, of_row, check=lambda answer: of_row(replace(answer, text="")))


def _load(file: Path, name: str, spec: str) -> Callable[..., Any]:
    if not file.is_file():
        raise ScoreError(f"--score {spec}: {file}: no such file")
    found = importlib.util.spec_from_file_location(f"ift_score_{file.stem}", file)
    if found is None or found.loader is None:
        raise ScoreError(f"--score {spec}: {file}: no Python file; its name must end in .py")
    module = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except Exception as error:
        raise ScoreError(
            f"--score {spec}: importing the file failed: {type(error).__name__}: {error}"
        ) from error
    function: Callable[..., Any] | None = getattr(module, name, None)
    if not callable(function):
        names = [one for one, value in vars(module).items() if callable(value)]
        raise ScoreError(f"--score {spec}: the file has no function {name!r}{did_you_mean(name, names)}")
    return function


def _number(value: Any, place: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, str) or not math.isfinite(number):
        raise ScoreError(f"{place}: returned {value!r:.80}; return a finite number, or a dictionary of them")
    return number

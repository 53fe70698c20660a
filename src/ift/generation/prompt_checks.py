"""Prompts that a model cannot be asked, or only in part: named and counted, while the others are answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ift.data import DataError
from ift.data.errors import RowFault, refuse_rows
from ift.data.omissions import extra_keys, find_omissions
from ift.data.report import row_numbers, rows_by_text
from ift.data.templates import renderer
from ift.generation.errors import EvaluationError
from ift.generation.prompts import Prompt, prompt_ids
from ift.models.loading import PLAIN_TEXT
from ift.text import counted


def leave_out(
    prompts: Sequence[Prompt], problem_of: Callable[[Prompt], tuple[str, str] | None]
) -> tuple[list[Prompt], str]:
    """The prompts that can be asked, and a message that names the others ("" without any).

    Args:
        prompts: All prompts.
        problem_of: Problem and fix of a prompt with text that cannot be asked; None for the others.

    Raises:
        EvaluationError: No prompt can be asked.
    """
    fit: list[Prompt] = []
    faults: list[RowFault] = []
    for one in prompts:
        found = one.problem or problem_of(one)
        if found is None:
            fit.append(one)
        else:
            faults.append(replace(one.place, problem=found[0], fix=found[1]))
    if not faults:
        return fit, ""
    text = str(refuse_rows(faults, counted(len(prompts), "row"), "the prompts"))
    if not fit:
        raise EvaluationError(text)
    others = "The other one is" if len(fit) == 1 else f"The other {len(fit):,} are"
    return fit, f"{text}\n{others} answered."


def refused_by_template(tokenizer: Any, style: str) -> Callable[[Prompt], tuple[str, str] | None]:
    """For `leave_out`: whether the chat template refuses a prompt; `style` as in `prompt_ids`."""

    def problem_of(prompt: Prompt) -> tuple[str, str] | None:
        try:
            prompt_ids(tokenizer, prompt.messages, style, prompt.template)
        except DataError as error:
            problem, _, fix = str(error).partition(". Fix: ")
            return problem, fix
        return None

    return problem_of


def unused_content(prompts: Sequence[Prompt]) -> list[str]:
    """Lines about what rows have and their prompts do not: notes with their rows, and the columns that are not read."""
    notes = rows_by_text((one.notes for one in prompts), [one.place.row for one in prompts])
    lines = [_noted(note, rows) for note, rows in notes.items()]
    counts = Counter(column for one in prompts for column in one.unused)
    if counts:
        named = ", ".join(f"{column} ({counted(rows, 'row')})" for column, rows in counts.items())
        lines.append(f"not part of the prompts: column{'s' * (len(counts) > 1)} {named}")
    return lines


def omissions(tokenizer: Any, style: str, prompts: Sequence[Prompt]) -> list[str]:
    """A line for each kind of content that the chat template does not render, such as tool calls, with its rows."""
    if style == PLAIN_TEXT:
        return []
    found: dict[str, list[int]] = {}
    for one in prompts:
        plain = all(
            turn["role"] in ("system", "user", "assistant") and not extra_keys(turn) for turn in one.messages
        )
        if plain and not one.template:
            continue
        render = renderer(tokenizer, one.template)
        row = {"messages": one.messages, **one.template}
        for note in find_omissions(render, row, render(one.messages), str(tokenizer.chat_template)):
            found.setdefault(note, []).append(one.place.row)
    return [_noted(note, rows) for note, rows in found.items()]


def _noted(note: str, rows: Sequence[int]) -> str:
    return f"{counted(len(rows), 'row')}: {note} ({row_numbers(rows)})"


def not_sent(prompt: Prompt) -> tuple[str, str] | None:
    """For `leave_out`: what a row has and a server is not sent."""
    if not prompt.template:
        return None
    problem = f"found {' and '.join(prompt.template)}, which are not sent to a server"
    return problem, "leave --endpoint out, or take them out of the row"

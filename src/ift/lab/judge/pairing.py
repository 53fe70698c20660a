"""Answers to the same prompt paired: of two files, or of one file and a column of its prompts' rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ift.lab.judge.answers import Answered
from ift.lab.judge.contents import content_text
from ift.lab.judge.errors import JudgeError


@dataclass(frozen=True)
class Pair:
    """One prompt with an answer of each side, to be compared: `first` is the side whose wins are counted."""

    id: str
    asked: str
    first: str
    second: str


def paired(first: Sequence[Answered], second: Sequence[Answered]) -> tuple[list[Pair], int]:
    """Pairs the answers to the same prompts.

    Args:
        first: The side whose wins are counted.
        second: The other.

    Returns:
        The pairs, in the order of `first`, and how many prompts only one side has. The n-th answer to a prompt that
        occurs several times is paired with the n-th.

    Raises:
        JudgeError: No prompt is common.
    """
    others = dict(zip(_keys(second), second, strict=True))
    pairs = []
    for key, one in zip(_keys(first), first, strict=True):
        if key in others:
            other = others.pop(key)
            pairs.append(Pair(one.id, "\n\n".join(one.turns), _all_turns(one), _all_turns(other)))
    if not pairs:
        raise JudgeError("no prompt is in both files; answer the same prompts with both models")
    return pairs, len(first) - len(pairs) + len(others)


def against_references(answered: Sequence[Answered], column: str) -> tuple[list[Pair], int]:
    """Pairs each answer with the text, or the first of the texts, that its row has in `column`.

    Returns:
        The pairs, and how many rows have no text there.

    Raises:
        JudgeError: No row has a text there, or a prompt has several turns.
    """
    pairs = []
    for one in answered:
        if len(one.turns) > 1:
            raise JudgeError(f"--reference {column}: prompt {one.id} has several turns; give single turns")
        found = one.row.get(column)
        reference = content_text(found[0] if isinstance(found, list) and found else found)
        if reference is not None and reference.strip():
            pairs.append(Pair(one.id, one.turns[0], one.answers[0], reference.strip()))
    if not pairs:
        raise JudgeError(
            f"--reference {column}: no row has a text in that column; `ift generate` keeps the columns of its prompts"
        )
    return pairs, len(answered) - len(pairs)


def _keys(answered: Sequence[Answered]) -> list[tuple[tuple[str, ...], int]]:
    """The prompt of each, and how often it occurred before."""
    seen: Counter[tuple[str, ...]] = Counter()
    keys = []
    for one in answered:
        keys.append((one.turns, seen[one.turns]))
        seen[one.turns] += 1
    return keys


def _all_turns(one: Answered) -> str:
    if len(one.answers) == 1:
        return one.answers[0]
    return "\n\n".join(f"(turn {number}) {text}" for number, text in enumerate(one.answers, start=1))

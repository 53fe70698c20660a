"""Answers to judge: files of `ift generate`, AlpacaEval's and MT-Bench's, brought to one form and paired."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ift.generation.prompts import read_rows
from ift.lab.judge.errors import JudgeError


@dataclass(frozen=True)
class Answered:
    """A prompt with a model's answers.

    Attributes:
        id: Names it for people: the row's id, else its number.
        turns: What the user said, one text per turn; a conversation before the first answer is one text.
        answers: Of the model, as many.
        category: Of the question; empty where it has none.
        references: A right answer per turn, as far as they are known.
        row: As read.
    """

    id: str
    turns: tuple[str, ...]
    answers: tuple[str, ...]
    category: str
    references: tuple[str, ...]
    row: dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """One prompt with an answer of each side, to be compared: `first` is the side whose wins are counted."""

    id: str
    asked: str
    first: str
    second: str


def read_answers(path: Path, questions: Path | None = None) -> list[Answered]:
    """Reads an answer file.

    Args:
        path: AlpacaEval's (`instruction`, `output`), MT-Bench's (`question_id`, `choices`) or `ift generate`'s jsonl
            (`messages`, `output`).
        questions: MT-Bench's questions (`question_id`, `turns`, `category`, `reference`), which its answer files need.

    Returns:
        Per row, in order.

    Raises:
        JudgeError: A row is of no such form, or its question is missing.
        EvaluationError: A file cannot be read.
    """
    asked = {str(row.get("question_id")): row for row in read_rows(questions)} if questions else {}
    found = []
    for number, row in enumerate(read_rows(path), start=1):
        place = f"{path}, row {number}"
        if "choices" in row:
            found.append(_of_mt_bench(row, asked, place))
        elif "output" in row and ("messages" in row or "instruction" in row):
            found.append(_of_one(row, number, place))
        else:
            raise JudgeError(
                f"{place}: no answer in the columns {', '.join(row)}; give a file of `ift generate`, AlpacaEval's "
                "model outputs (instruction, output) or MT-Bench's answers (question_id, choices)"
            )
    return found


def _of_one(row: dict[str, Any], number: int, place: str) -> Answered:
    if "messages" in row:
        before = [f"{turn['role']}: {turn['content']}" for turn in row["messages"][:-1]]
        last = str(row["messages"][-1]["content"])
        first = "\n\n".join([*before, f"user: {last}"]) if before else last
        turns = (first, *row.get("further", ()))
    else:
        turns = (row["instruction"] + (f"\n\n{row['input']}" if row.get("input") else ""),)
    answers = (row["output"],) if isinstance(row["output"], str) else tuple(row["output"])
    if len(answers) != len(turns):
        raise JudgeError(
            f"{place}: found {len(answers)} answers to {len(turns)} turns; answer the prompts again"
        )
    origin = row.get("row") or {}
    return Answered(
        id=str(row.get("id", number)),
        turns=turns,
        answers=answers,
        category=str(origin.get("category", "")),
        references=_references(origin),
        row=origin,
    )


def _of_mt_bench(row: dict[str, Any], asked: dict[str, dict[str, Any]], place: str) -> Answered:
    name = str(row.get("question_id"))
    if name not in asked:
        raise JudgeError(
            f"{place}: question {name} is not known; give MT-Bench's question file with --questions"
        )
    answers = tuple(row["choices"][0]["turns"])
    turns = tuple(asked[name]["turns"][: len(answers)])
    return Answered(
        name, turns, answers, str(asked[name].get("category", "")), _references(asked[name]), asked[name]
    )


def _references(row: dict[str, Any]) -> tuple[str, ...]:
    found = row.get("reference") or ()
    return (found,) if isinstance(found, str) else tuple(found)


def paired(first: Sequence[Answered], second: Sequence[Answered]) -> tuple[list[Pair], int]:
    """Pairs the answers to the same prompts.

    Args:
        first: The side whose wins are counted.
        second: The other.

    Returns:
        The pairs, in the order of `first`, and how many prompts only one side has. The n-th answer to a prompt that
        stands several times meets the n-th.

    Raises:
        JudgeError: No prompt is common.
    """
    others = dict(zip(_keys(second), second, strict=True))
    pairs = []
    for key, one in zip(_keys(first), first, strict=True):
        if key in others:
            other = others.pop(key)
            pairs.append(Pair(one.id, "\n\n".join(one.turns), _whole(one), _whole(other)))
    if not pairs:
        raise JudgeError("no prompt is in both files; answer the same prompts with both models")
    return pairs, len(first) - len(pairs) + len(others)


def against_references(answered: Sequence[Answered], column: str) -> tuple[list[Pair], int]:
    """Pairs each answer with what its row has in `column`; returns the pairs and how many rows have nothing there.

    Raises:
        JudgeError: No row has the column.
    """
    pairs = []
    for one in answered:
        reference = one.row.get(column)
        reference = reference[0] if isinstance(reference, list) and reference else reference
        if isinstance(reference, str) and reference.strip():
            pairs.append(Pair(one.id, one.turns[0], one.answers[0], reference.strip()))
    if not pairs:
        raise JudgeError(
            f"--reference {column}: no row has that column; `ift generate` keeps the columns of its prompts"
        )
    return pairs, len(answered) - len(pairs)


def _keys(answered: Sequence[Answered]) -> list[tuple[tuple[str, ...], int]]:
    seen: Counter[tuple[str, ...]] = Counter()
    keys = []
    for one in answered:
        keys.append((one.turns, seen[one.turns]))
        seen[one.turns] += 1
    return keys


def _whole(one: Answered) -> str:
    if len(one.answers) == 1:
        return one.answers[0]
    return "\n\n".join(f"(turn {number}) {text}" for number, text in enumerate(one.answers, start=1))

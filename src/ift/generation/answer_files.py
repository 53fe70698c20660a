"""Writes answers in the formats of other tools: AlpacaEval's model outputs, MT-Bench's answers, JSON Lines."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ift.files import write_atomically
from ift.generation.answers import Turn
from ift.generation.errors import EvaluationError
from ift.generation.prompts import Prompt

FORMATS = ("jsonl", "alpaca-eval", "mt-bench")


def choose_format(prompts: Sequence[Prompt]) -> str:
    """The format that fits the prompts.

    It is mt-bench if all have two turns and a question_id, alpaca-eval if all have an instruction and a dataset, else
    jsonl.
    """
    if all(len(one.further) == 1 and "question_id" in one.row for one in prompts):
        return "mt-bench"
    if all({"instruction", "dataset"} <= one.row.keys() for one in prompts):
        return "alpaca-eval"
    return "jsonl"


def check_format(form: str, prompts: Sequence[Prompt]) -> None:
    """Raises EvaluationError for prompts of several turns in AlpacaEval's format, which holds single turns."""
    if form == "alpaca-eval" and any(one.further for one in prompts):
        raise EvaluationError("--format alpaca-eval: some prompts have several turns; use jsonl")


def write_answers(
    path: Path, form: str, name: str, prompts: Sequence[Prompt], answers: Sequence[Sequence[Turn]]
) -> None:
    """Writes all answers atomically in one of `FORMATS`, in the order of the prompts; `name` is that of the model."""
    if form == "alpaca-eval":
        rows = [_alpaca_eval(name, one, turns[0]) for one, turns in zip(prompts, answers, strict=True)]
        text = json.dumps(rows, ensure_ascii=False, indent=2) + "\n"
    else:
        one_line = _mt_bench if form == "mt-bench" else _plain
        rows = [one_line(name, one, turns) for one, turns in zip(prompts, answers, strict=True)]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)


def _alpaca_eval(name: str, prompt: Prompt, answer: Turn) -> dict[str, Any]:
    instruction = prompt.row.get("instruction", prompt.messages[-1]["content"])
    known: dict[str, Any] = {key: prompt.row[key] for key in ("dataset", "datasplit") if key in prompt.row}
    return {**known, "instruction": instruction, "output": answer.text, "generator": name}


def _mt_bench(name: str, prompt: Prompt, turns: Sequence[Turn]) -> dict[str, Any]:
    number = prompt.row.get("question_id", prompt.id)
    return {
        "question_id": number,
        "answer_id": f"{name}-{prompt.key[:16]}",
        "model_id": name,
        "choices": [{"index": 0, "turns": [turn.text for turn in turns]}],
        "tstamp": time.time(),
    }


def _plain(name: str, prompt: Prompt, turns: Sequence[Turn]) -> dict[str, Any]:
    """The prompt, the answer, the number of the row in its file, and the row as it was read."""
    return {
        "id": prompt.id,
        "file_row": prompt.place.row,
        "model": name,
        "messages": prompt.messages,
        **({"further": list(prompt.further)} if prompt.further else {}),
        "output": turns[0].text if len(turns) == 1 else [turn.text for turn in turns],
        "stopped": [turn.stopped for turn in turns],
        "tokens": [turn.tokens for turn in turns],
        "row": prompt.row,
    }

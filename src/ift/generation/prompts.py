"""Prompts to answer: rows of a file, in any of the forms that benchmarks and training data have."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ift.data import DataError
from ift.data.masks import plain_prompt_ids
from ift.data.templates import renderer
from ift.data.text_files import read_rows as rows_of_file
from ift.generation.errors import EvaluationError
from ift.models.loading import PLAIN_TEXT

_FORMS = "turns, messages, prompt, instruction or question"


@dataclass(frozen=True)
class Prompt:
    """What is asked, in one turn or several.

    Attributes:
        id: Names it in the file: the row's own `id` or `question_id`, else its number from 1.
        messages: What stands before the first answer: `role` and `content` each, the last of the user.
        further: What the user says after each answer; of MT-Bench the second turn.
        row: As read.
    """

    id: str
    messages: list[dict[str, str]]
    further: tuple[str, ...]
    row: dict[str, Any]

    @property
    def key(self) -> str:
        """A hash of all that is asked."""
        asked = [self.messages, self.further]
        return hashlib.sha256(json.dumps(asked, ensure_ascii=False).encode()).hexdigest()


def prompt_ids(tokenizer: Any, messages: Sequence[dict[str, Any]], prompts: str) -> list[int]:
    """The token ids that ask for an answer, as prompts were written in the model's training.

    Args:
        tokenizer: With a chat template, unless plain text is asked.
        messages: The conversation; for plain text the last turn alone is the prompt.
        prompts: `PLAIN_TEXT` or `CHAT_TEMPLATE` of `ift.models.loading`.
    """
    if prompts == PLAIN_TEXT:
        return plain_prompt_ids(tokenizer, messages[-1]["content"])
    text = renderer(tokenizer)(messages, prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a .json file (a list), a .jsonl file (an object a line) or a .csv file.

    Args:
        path: The file.

    Returns:
        The rows, at least one.

    Raises:
        EvaluationError: It is absent, empty or neither; the message says where.
    """
    try:
        rows = list(rows_of_file(path.expanduser()))
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read ({error}); give a .json or .jsonl file") from error
    except DataError as error:
        raise EvaluationError(str(error)) from error
    if not rows:
        raise EvaluationError(f"{path}: no rows; give at least one")
    return rows


def read_prompts(path: Path, system: str | None = None) -> list[Prompt]:
    """The prompts of a file.

    Args:
        path: Rows with one of: `turns` (texts of the user), `messages` (an answer at the end is left out), `prompt` (a
            text or messages), `instruction` (with `input`), `question`.
        system: Said before each, where the row has no system turn of its own.

    Returns:
        Per row, in order.

    Raises:
        EvaluationError: The file cannot be read, a row has no prompt, or two rows have one id.
    """
    prompts = []
    for number, row in enumerate(read_rows(path), start=1):
        try:
            messages, further = _asked(row)
        except EvaluationError as error:
            raise EvaluationError(f"{path}, row {number}: {error}") from error
        if system is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": system}, *messages]
        name = next((row[key] for key in ("question_id", "id") if row.get(key) is not None), number)
        prompts.append(Prompt(str(name), messages, further, row))
    ids = [one.id for one in prompts]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise EvaluationError(f"{path}: two rows have the id {twice}; give each its own, or none")
    return prompts


def _asked(row: dict[str, Any]) -> tuple[list[dict[str, str]], tuple[str, ...]]:
    if isinstance(row.get("turns"), list) and row["turns"]:
        first, *further = [_text(turn, "turns") for turn in row["turns"]]
        return [{"role": "user", "content": first}], tuple(further)
    for column in ("messages", "prompt"):
        if isinstance(row.get(column), list) and row[column]:
            return _conversation(row[column], column), ()
    for column in ("prompt", "instruction", "question"):
        if row.get(column) is not None:
            text = _text(row[column], column)
            if column == "instruction" and row.get("input"):
                text = f"{text}\n\n{_text(row['input'], 'input')}"
            return [{"role": "user", "content": text}], ()
    raise EvaluationError(
        f"no prompt in the columns {', '.join(row) or 'of an empty row'}; give one of {_FORMS}"
    )


def _conversation(turns: Sequence[Any], column: str) -> list[dict[str, str]]:
    messages = []
    for turn in turns:
        if not isinstance(turn, dict) or not isinstance(turn.get("role"), str):
            raise EvaluationError(f"{column}: found {turn!r:.60}; give objects with role and content")
        messages.append({"role": turn["role"], "content": _text(turn.get("content"), column)})
    if messages[-1]["role"] == "assistant":
        messages.pop()
    if not messages or messages[-1]["role"] != "user":
        raise EvaluationError(f"{column}: the last turn before the answer is not the user's")
    return messages


def _text(value: Any, column: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise EvaluationError(f"{column}: found {value!r:.60}; give a text")
    return value

"""Reads prompts from files, in the formats of benchmarks and of training data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ift.data import DataError
from ift.data.masks import plain_prompt_ids
from ift.data.templates import renderer
from ift.data.text_files import read_rows as read_file_rows
from ift.generation.errors import EvaluationError
from ift.models.loading import PLAIN_TEXT

_FORMS = "turns, messages, prompt, instruction or question"


@dataclass(frozen=True)
class Prompt:
    """A prompt of one or several turns.

    Attributes:
        id: The row's `id` or `question_id`, else its number from 1.
        messages: The messages before the first answer, each with `role` and `content`; the last is the user's.
        further: User messages after each answer, such as MT-Bench's second turn.
        row: The row as read.
        template: `tools` and `chat_template_kwargs` of the row, for the chat template.
    """

    id: str
    messages: list[dict[str, str]]
    further: tuple[str, ...]
    row: dict[str, Any]
    template: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """A hash of all messages, and of what the row has for the chat template."""
        asked = [self.messages, self.further, *([self.template] if self.template else [])]
        return hashlib.sha256(json.dumps(asked, ensure_ascii=False).encode()).hexdigest()


def prompt_ids(
    tokenizer: Any, messages: Sequence[dict[str, Any]], prompts: str, template: dict[str, Any] | None = None
) -> list[int]:
    """Token ids of a prompt, written as in the model's training.

    Args:
        tokenizer: With a chat template, unless `prompts` is plain text.
        messages: The conversation; for plain text, only the last turn is used.
        prompts: `PLAIN_TEXT` or `CHAT_TEMPLATE` of `ift.models.loading`.
        template: `Prompt.template`.

    Raises:
        EvaluationError: Tools for a model that was trained on plain text.
    """
    if prompts == PLAIN_TEXT:
        if template:
            raise EvaluationError(
                f"a row has {' and '.join(template)}, and the model was trained on plain text, without a chat "
                "template; leave them out"
            )
        return plain_prompt_ids(tokenizer, messages[-1]["content"])
    text = renderer(tokenizer, template)(messages, prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def read_rows(path: Path, *, lone_surrogates: bool = False) -> list[dict[str, Any]]:
    """The rows of a .json, .jsonl or .csv file; raises EvaluationError if it cannot be read or has none."""
    try:
        rows = list(read_file_rows(path.expanduser(), lone_surrogates=lone_surrogates))
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read ({error}); give a .json or .jsonl file") from error
    except DataError as error:
        raise EvaluationError(str(error)) from error
    if not rows:
        raise EvaluationError(f"{path}: no rows; give at least one")
    return rows


def read_prompts(path: Path, system: str | None = None) -> list[Prompt]:
    """Reads the prompts of a file; `system` is the system prompt for rows without one.

    Each row has one of: `turns` (texts of the user), `messages` (an answer at the end is ignored), `prompt` (text or
    messages), `instruction` (with `input`), `question`.

    Raises:
        EvaluationError: The file cannot be read, a row has no prompt or tools of another kind, or an id occurs twice.
    """
    prompts = []
    for number, row in enumerate(read_rows(path), start=1):
        try:
            messages, further = _parse_row(row)
            template = _for_the_template(row)
        except EvaluationError as error:
            raise EvaluationError(f"{path}, row {number}: {error}") from error
        if system is not None and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": system}, *messages]
        name = next((row[key] for key in ("question_id", "id") if row.get(key) is not None), number)
        prompts.append(Prompt(str(name), messages, further, row, template))
    ids = [one.id for one in prompts]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise EvaluationError(f"{path}: two rows have the id {twice}; give each its own, or none")
    return prompts


def _for_the_template(row: dict[str, Any]) -> dict[str, Any]:
    """`tools` (also as JSON text, or as `functions`) and `chat_template_kwargs` of a row, where it has them."""
    tools = row.get("tools") or row.get("functions")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError as error:
            raise EvaluationError(f"tools: not JSON ({error})") from error
    options = row.get("chat_template_kwargs")
    for name, found, kind in (("tools", tools, list), ("chat_template_kwargs", options, dict)):
        if found is not None and not isinstance(found, kind):
            raise EvaluationError(
                f"{name}: found {found!r:.80}; give a JSON {'list' if kind is list else 'object'}"
            )
    return {name: found for name, found in (("tools", tools), ("chat_template_kwargs", options)) if found}


def _parse_row(row: dict[str, Any]) -> tuple[list[dict[str, str]], tuple[str, ...]]:
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

"""Reads prompts from files, in the formats of benchmarks and of training data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ift.data import DataError
from ift.data.errors import RowFault, describe, refuse_rows
from ift.data.formats import check_renaming
from ift.data.known_names import OTHER_ROLES
from ift.data.masks import SILENT, plain_prompt_ids
from ift.data.renaming import Renaming
from ift.data.report import row_numbers
from ift.data.source import SourceRow
from ift.data.templates import renderer
from ift.data.text_files import numbered_rows, read_all_rows
from ift.data.turns import TurnReader, tools_of, with_columns
from ift.generation.errors import EvaluationError
from ift.models.loading import PLAIN_TEXT
from ift.text import counted

_FORMS = "turns, messages, conversations, prompt, instruction or question"

_EMPTY = ("the question is empty", "write a question, or take the row out")
_TEXTS = ("prompt", "instruction", "question")

_IN_OUTPUT = ("id", "question_id", "dataset", "datasplit")  # columns that name a row, or its benchmark
Numbered = tuple[int | None, dict[str, Any] | RowFault]  # of `numbered_rows`
UNPLACED = RowFault(0, "", "", "", "")


@dataclass(frozen=True)
class Prompt:
    """A prompt of one or several turns.

    Attributes:
        id: The row's `id` or `question_id`, else its number from 1.
        messages: The messages before the first answer, each with `role`, `content` and its further keys, such as
            `tool_calls`; the last is the user's, or a tool's result.
        further: User messages after each answer, such as MT-Bench's second turn.
        row: The row as read.
        template: `tools` and `chat_template_kwargs` of the row, for the chat template.
        place: File, number and line of the row, as a fault without a problem.
        unused: Columns with a value that are not part of the prompt.
        notes: Remarks about the row, such as a system column that its conversation takes the place of.
        problem: Problem and fix of a prompt without text, which is not asked; None for the others.
    """

    id: str
    messages: list[dict[str, Any]]
    further: tuple[str, ...]
    row: dict[str, Any]
    template: dict[str, Any] = field(default_factory=dict)
    place: RowFault = UNPLACED
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    problem: tuple[str, str] | None = None

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
        DataError: The chat template refuses the prompt, or it has tools and the model was trained on plain text.
    """
    if prompts == PLAIN_TEXT:
        if template:
            raise DataError(
                f"found {' and '.join(template)}, and the model was trained on plain text, without a chat template. "
                "Fix: leave them out"
            )
        return plain_prompt_ids(tokenizer, messages[-1]["content"])
    text = renderer(tokenizer, template)(messages, prompt=True)
    return list(tokenizer(text, add_special_tokens=False, **SILENT)["input_ids"])


def read_rows(path: Path, *, lone_surrogates: bool = False) -> list[dict[str, Any]]:
    """The rows of a .json, .jsonl, .csv or .tsv file; raises EvaluationError if it cannot be read or has none."""
    try:
        rows = read_all_rows(path.expanduser(), lone_surrogates=lone_surrogates)
    except OSError as error:
        raise EvaluationError(
            f"{path}: cannot be read ({error}); give a .jsonl, .json, .csv or .tsv file"
        ) from error
    except DataError as error:
        raise EvaluationError(str(error)) from error
    if not rows:
        raise EvaluationError(f"{path}: no rows; give at least one")
    return rows


def read_prompts(
    path: Path, system: str | None = None, columns: Mapping[str, str] | None = None
) -> list[Prompt]:
    """Reads the prompts of a file; `system` is the system prompt for rows without one.

    `columns` are columns to rename, old name to new.

    Each row has one of: `turns` (texts of the user), `messages` or `conversations` (an answer at the end is ignored),
    `prompt` (text or messages), `instruction` (with `input`), `question`. Turns, and the columns `system`, `history`
    and `tools`, are read as in training; media are refused. A prompt without text has a `problem`.

    Raises:
        EvaluationError: The file cannot be read, rows are malformed (the message names the first ten), or an id occurs
            twice.
    """
    prompts, faults = [], []
    try:
        rows = _renamed([*numbered_rows(path.expanduser())], columns or {})
        for number, (line, row) in enumerate(rows, start=1):
            place = RowFault(number, "", "", "", "", line, file=str(path))
            try:
                prompts.append(_prompt(row, place, system))
            except DataError as error:
                fault = error.fault or replace(place, problem=str(error))
                faults.append(replace(fault, line=line, file=str(path)))
    except OSError as error:
        raise EvaluationError(
            f"{path}: cannot be read ({error}); give a .jsonl, .json, .csv or .tsv file"
        ) from error
    except DataError as error:
        raise EvaluationError(str(error)) from error
    if faults:
        empty = [one.place.row for one in prompts if one.problem]
        remarks = (
            [f"{counted(len(empty), 'row')} would be left out: {_EMPTY[0]} ({row_numbers(empty)})"]
            if empty
            else []
        )
        refused = str(refuse_rows(faults, counted(len(rows), "row"), str(path), remarks))
        raise EvaluationError(Renaming(columns or {}).advice(refused))
    if not prompts:
        raise EvaluationError(f"{path}: no rows; give at least one")
    ids = [one.id for one in prompts]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise EvaluationError(f"{path}: two rows have the id {twice}; give each its own, or none")
    return prompts


def _renamed(rows: list[Numbered], columns: Mapping[str, str]) -> list[Numbered]:
    """Rows with other names of their columns; raises DataError for names that do not fit the columns of all rows."""
    names = dict.fromkeys(name for _, row in rows if isinstance(row, dict) for name in row)
    check_renaming([*names], columns)
    return [
        (
            line,
            {columns.get(name, name): value for name, value in row.items()} if isinstance(row, dict) else row,
        )
        for line, row in rows
    ]


def _prompt(row: dict[str, Any] | RowFault, place: RowFault, system: str | None) -> Prompt:
    """The prompt of one row; raises DataError, with its fault."""
    if isinstance(row, RowFault):
        raise DataError.of(row)
    source = SourceRow(row, place.row)
    source.refuse_media()
    asked, further = _parse_row(source, row)
    messages = [
        {key: value for key, value in turn.items() if key != "train"} for turn in with_columns(asked, source)
    ]
    if system is not None and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    name = next((row[key] for key in ("question_id", "id") if row.get(key) not in (None, "")), place.row)
    template = _for_the_template(source)
    source.note_wrong_characters()
    unused = tuple(column for column in source.unused() if column not in _IN_OUTPUT)
    empty = messages[-1]["role"] == "user" and not messages[-1]["content"].strip()
    problem = _EMPTY if empty or not all(text.strip() for text in further) else None
    return Prompt(str(name), messages, further, row, template, place, unused, tuple(source.notes), problem)


def _for_the_template(source: SourceRow) -> dict[str, Any]:
    """`tools` (also as JSON text, or as `functions`) and `chat_template_kwargs` of a row, where it has them."""
    tools, options = tools_of(source), source.get("chat_template_kwargs")
    if options is not None and not isinstance(options, dict):
        raise source.error("chat_template_kwargs", describe(options), "an object", "give an object")
    return {name: found for name, found in (("tools", tools), ("chat_template_kwargs", options)) if found}


def _parse_row(source: SourceRow, row: dict[str, Any]) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    if isinstance(row.get("turns"), list) and row["turns"]:
        first, *further = [_text(source, "turns", turn) for turn in source.get("turns")]
        return [{"role": "user", "content": first}], tuple(further)
    for column in ("messages", "conversations", "prompt"):
        if row.get(column) and not (column == "prompt" and isinstance(row[column], str)):
            return _conversation(source, column), ()
    texts = [column for column in _TEXTS if column in row]
    if not texts:
        problem = f"found no prompt in the columns {', '.join(row) or 'of an empty row'}"
        name = next(iter(row), "Question")
        fix = f"give one of {_FORMS}; a column is renamed with --dataset_columns '{name}=instruction'"
        raise DataError.of(RowFault(source.number, "", problem, "", fix))
    # the first with text; an empty cell of a table is "", and null may be a column of other rows
    column = max(texts, key=lambda one: (_has_text(row, one), row[one] is not None))
    text = _text(source, column, source.get(column))
    if column == "instruction" and not _is_blank(row.get("input")):
        text = f"{text}\n\n{_text(source, 'input', source.get('input'))}"
    return [{"role": "user", "content": text}], ()


def _has_text(row: Mapping[str, Any], column: str) -> bool:
    """Whether a column of a question, or the input to an instruction, has more than spaces."""
    return not _is_blank(row[column]) or (column == "instruction" and not _is_blank(row.get("input")))


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _conversation(source: SourceRow, column: str) -> list[dict[str, Any]]:
    """The turns before the answer, as training reads them; an answer at the end is not read."""
    given = source.get(column)
    answered = isinstance(given, list) and _is_answer(given[-1])
    turns = TurnReader(source, column).read(given[:-1] if answered else given)
    last = turns[-1]["role"] if turns else "none"
    if last not in ("user", "tool"):
        found, expected = (
            f"{last} as the last turn before the answer",
            "a turn of the user, or a tool's result",
        )
        raise source.error(column, found, expected, "end the row there, or drop it")
    return [{key: value for key, value in turn.items() if key != "train"} for turn in turns]


def _is_answer(turn: Any) -> bool:
    """Whether a turn is the assistant's, by any of its names."""
    role = (turn.get("role") or turn.get("from")) if isinstance(turn, dict) else None
    name = role.strip().lower() if isinstance(role, str) else ""
    return OTHER_ROLES.get(name, name) == "assistant"


def _text(source: SourceRow, column: str, value: Any) -> str:
    if not isinstance(value, str):
        raise source.error(column, describe(value), "a text", "fill it in or drop the row")
    return value

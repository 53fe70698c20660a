"""Reads files of answers of `ift generate`, AlpacaEval and MT-Bench into one form."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ift.generation.prompts import read_rows
from ift.lab.judge.errors import JudgeError
from ift.lab.judge.replies import LONE_SURROGATE, content_text
from ift.text import counted

Row = dict[str, Any]
SURROGATES = "with half a character (a lone surrogate): U+FFFD is shown to the judge in its place"
EMPTY = "with an empty question: the judge is shown the answer to it all the same"
CHOICES = "with several choices: the first is judged"


@dataclass(frozen=True)
class Answered:
    """A prompt with a model's answers."""

    id: str  # the row's id, otherwise its number from 1
    # what the user said, one text per turn; a conversation before the first answer is one text
    turns: tuple[str, ...]
    answers: tuple[str, ...]  # of the model, one per turn
    category: str  # of the question; empty where it has none
    references: tuple[str, ...]  # a right answer per turn, as far as they are known
    row: Row  # the prompt's row: of the question file, or as `ift generate` read it


@dataclass(frozen=True)
class AnswerFile:
    """The answers of one file in its order; remarks on its rows with their counts; how many rows are MT-Bench's."""

    path: Path
    answers: list[Answered]
    remarks: Counter[str]
    of_mt_bench: int


def read_answers(path: Path, questions: Mapping[str, Row] | None = None) -> AnswerFile:
    """The answers of a file of `ift generate`, AlpacaEval, or MT-Bench, which needs `read_by_question`'s questions.

    Raises:
        JudgeError: A row has another form, a content that is not text, or an unknown question; the message says where.
        EvaluationError: The file cannot be read.
    """
    found, remarks, of_mt_bench = [], Counter[str](), 0
    for number, row in enumerate(read_rows(path, lone_surrogates=True), start=1):
        where = f"{path}, row {number}"
        if "choices" in row:
            answered = _from_mt_bench(row, questions or {}, where)
            remarks[CHOICES] += len(row["choices"]) > 1
            of_mt_bench += 1
        elif "output" in row and ("messages" in row or "instruction" in row):
            answered = _from_single_file(row, number, where)
        else:
            raise JudgeError(
                f"{where}: no answer in the columns {', '.join(row)}; give a file of `ift generate`, AlpacaEval's "
                "model outputs (instruction, output) or MT-Bench's answers (question_id, choices)"
            )
        if len(answered.answers) != len(answered.turns):
            raise JudgeError(
                f"{where}: found {counted(len(answered.answers), 'answer')} to {counted(len(answered.turns), 'turn')}; "
                "answer the prompts again"
            )
        found.append(answered)
        if not all(text.strip() for text in answered.turns):
            remarks[EMPTY] += 1
        remarks[SURROGATES] += bool(LONE_SURROGATE.search(json.dumps(row, ensure_ascii=False)))
    return AnswerFile(path, found, remarks, of_mt_bench)


def read_by_question(path: Path) -> dict[str, Row]:
    """The rows of a file of MT-Bench or FastChat by their `question_id`.

    Raises:
        JudgeError: A row has no id, or that of another row.
        EvaluationError: The file cannot be read.
    """
    rows: dict[str, Row] = {}
    for number, row in enumerate(read_rows(path, lone_surrogates=True), start=1):
        if row.get("question_id") is None:
            raise JudgeError(f"{path}, row {number}: no question_id; give one of MT-Bench's files")
        name = str(row["question_id"])
        if name in rows:
            raise JudgeError(f"{path}, row {number}: question {name} is there twice; leave one out")
        rows[name] = row
    return rows


def read_references(path: Path) -> dict[str, tuple[str, ...]]:
    """Reference answers by `question_id`, one text per turn, from a file of FastChat's `reference_answer` folder.

    Raises:
        JudgeError: As `read_by_question`, or a row holds no answers.
        EvaluationError: The file cannot be read.
    """
    rows = read_by_question(path)
    return {name: _first_choice(row, f"{path}, question {name}") for name, row in rows.items()}


def _from_single_file(row: Row, number: int, where: str) -> Answered:
    if "messages" in row:
        further = row.get("further") or []
        turns = (_conversation(row["messages"], where), *(_text(one, f"{where}, further") for one in further))
    else:
        asked = [row["instruction"], *([row["input"]] if row.get("input") else [])]
        turns = ("\n\n".join(_text(one, f"{where}, instruction or input") for one in asked),)
    output = row["output"]
    several = isinstance(output, list) and bool(output) and all(isinstance(one, str) for one in output)
    answers = tuple(_text(one, f"{where}, output") for one in (output if several else [output]))
    origin = row["row"] if isinstance(row.get("row"), dict) else {}
    name = _text(str(row.get("id", number)), where)
    return Answered(name, turns, answers, _category(origin), (), origin)


def _from_mt_bench(row: Row, questions: Mapping[str, Row], where: str) -> Answered:
    name = str(row.get("question_id"))
    question = questions.get(name)
    if question is None:
        raise JudgeError(
            f"{where}: question {name} is not known; give MT-Bench's question file with --questions"
        )
    asked = question.get("turns")
    if not isinstance(asked, list):
        raise JudgeError(f"{where}: question {name} has no list of turns; give MT-Bench's question file")
    turns = tuple(_text(one, f"question {name}, turns") for one in asked)
    return Answered(name, turns, _first_choice(row, where), _category(question), (), question)


def _first_choice(row: Row, where: str) -> tuple[str, ...]:
    """The turns of a row's first choice, one text each."""
    try:
        turns = row["choices"][0]["turns"]
    except (LookupError, TypeError):
        turns = None
    if not isinstance(turns, list) or not turns:
        raise JudgeError(f"{where}: no answers in choices; give a list with an object that has turns")
    return tuple(_text(turn, f"{where}, turns") for turn in turns)


def _conversation(messages: Any, where: str) -> str:
    """The messages as one text; the last message alone where it is the only one."""
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        raise JudgeError(f"{where}, messages: found {messages!r:.60}; give objects with role and content")
    *before, last = [(str(one.get("role")), _content(one, f"{where}, messages")) for one in messages]
    if not before:
        return last[1]
    return "\n\n".join(f"{role}: {content}" for role, content in [*before, last])


def _content(message: Row, where: str) -> str:
    """The content of a message; its tool calls as JSON follow it, and may stand alone."""
    calls = message.get("tool_calls") or message.get("function_call")
    if not calls:
        return _text(message.get("content"), where)
    text = message.get("content")
    shown = [_text(text, where)] if text else []
    return "\n".join([*shown, _text(json.dumps(calls, ensure_ascii=False), where)])


def _category(row: Row) -> str:
    return LONE_SURROGATE.sub("\ufffd", str(row.get("category") or ""))


def _text(value: Any, where: str) -> str:
    text = content_text(value)
    if text is None:
        raise JudgeError(f"{where}: found {value!r:.60}; give a text")
    return text


def with_references(
    answered: Sequence[Answered], known: Mapping[str, tuple[str, ...]] | None, path: Path
) -> list[Answered]:
    """The answers with the references for grades: those of `known` by question, else the rows' own `reference`.

    `path` is for messages.

    Raises:
        JudgeError: A reference is not text, or `known` has references to none of the prompts.
    """
    found, used = [], 0
    for one in answered:
        references = (known or {}).get(str(one.row.get("question_id", one.id)))
        used += references is not None
        if references is None:
            value = one.row.get("reference")
            values = value if isinstance(value, list) else [value] if value else []
            references = tuple(_text(text, f"{path}, prompt {one.id}, reference") for text in values)
        found.append(replace(one, references=references))
    if known is not None and not used:
        raise JudgeError("--reference_answers: the file has none of the questions that were answered")
    return found

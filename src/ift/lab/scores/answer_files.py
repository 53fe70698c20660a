"""Files of answers, scored: those of `ift generate`, and the answers of a study of `ift compare`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ift.data import DataError
from ift.data.formats import detect_format
from ift.generation.prompts import read_rows
from ift.lab.scores.answer import REFERENCE_COLUMNS, Answer, Result, ScoreError

ANSWER_COLUMNS = ("output", "answer")  # of ift generate, of ift compare
Row = Mapping[str, Any]


def read_answers(path: Path, rows: Path | None = None, column: str | None = None) -> list[Answer]:
    """The answers of a file, each with its row.

    Args:
        path: A line has `output` (`ift generate`; AlpacaEval) or `answer` (`ift compare`).
        rows: File with the rows, found by their `question_id` or `id`, otherwise by their number. None: the `row` of
            each line, or the line itself.
        column: Column of the right answers; see `Answer`.

    Raises:
        ScoreError: A line without an answer, or an answer whose row is missing.
        EvaluationError: A file cannot be read.
    """
    known = None if rows is None else {_name(row, number): row for number, row in _numbered(rows)}
    answers = []
    for number, line in _numbered(path):
        name = _name(line, number)
        if known is not None and name not in known:
            raise ScoreError(
                f"{path}, line {number}: {rows} has no row {name}; give the rows that were answered"
            )
        row = _row(line) if known is None else known[name]
        target = line.get("target") or _target(row, number, column)
        answers.append(
            Answer(name, _prompt(line), _text(line, f"{path}, line {number}"), target, row, column)
        )
    return answers


def _numbered(path: Path) -> list[tuple[int, dict[str, Any]]]:
    return [*enumerate(read_rows(path), start=1)]


def _name(row: Row, number: int) -> str:
    """The id of a row or of an answer to it; `row` is a number in the answers of a study."""
    found = (row.get(key) for key in ("question_id", "id", "row"))
    return str(next((one for one in found if isinstance(one, str | int) and one != ""), number))


def _row(line: Row) -> Row:
    """The row that a line holds; the line itself without the answer, which must not be taken for the right one."""
    found = line.get("row")
    return (
        found
        if isinstance(found, dict)
        else {key: value for key, value in line.items() if key not in ANSWER_COLUMNS}
    )


def _text(line: Row, place: str) -> str:
    found = next((line[name] for name in ANSWER_COLUMNS if name in line), None)
    if not isinstance(found, str):
        several = "several turns" if isinstance(found, list) else f"{found!r:.60}"
        raise ScoreError(
            f"{place}: found {several} in output or answer (columns: {', '.join(line)}); give one text, as "
            "ift generate writes it for prompts of one turn"
        )
    return found


def _prompt(line: Row) -> str:
    messages = line.get("messages")
    if isinstance(messages, list) and messages:
        return str(messages[-1].get("content", ""))
    return str(line.get("prompt", line.get("instruction", "")))


def _target(row: Row, number: int, column: str | None) -> str | None:
    """The first right answer of a row: its references', else the one that training on it would teach; or None."""
    for name in [column] if column else REFERENCE_COLUMNS:
        if (found := row.get(name)) is not None:
            first = found[0] if isinstance(found, list) and found else found
            return first if isinstance(first, str) else None
    try:
        found = detect_format(row, [row]).convert(dict(row), number)
    except DataError:
        return None
    if "completion" in found:
        return str(found["completion"])
    last = (found.get("messages") or [{}])[-1]
    return str(last["content"]) if last.get("role") == "assistant" else None


def score_lines(answers: list[Answer], result: Result) -> list[dict[str, Any]]:
    """A line for each answer: its id and its values by name."""
    return [{"id": one.id, "scores": row} for one, row in zip(answers, result.rows, strict=True)]

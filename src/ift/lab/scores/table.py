"""The names of scores, and the scores behind them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ift.generation.final_answer import FinalAnswer
from ift.lab.scores import overlap, texts
from ift.lab.scores.answer import Answer, Score, ScoreError, best_reference
from ift.lab.scores.judged import JUDGE, Grader, JudgeOptions
from ift.lab.scores.sql import Database
from ift.lab.scores.user_function import user_score
from ift.runs.argv import UsageError
from ift.text import did_you_mean
from ift.user_code import code_sha256, file_sha256

FINAL_ANSWER, SQL = "final-answer", "sql"
_PLAIN: Mapping[str, Callable[[], Score]] = {
    "text": lambda: Score("text", best_reference(texts.same_text), binary=True),
    "contains": lambda: Score("contains", best_reference(texts.contains), binary=True),
    "json": lambda: Score("json", best_reference(texts.same_json), check=_check_json, binary=True),
    "f1": lambda: Score("f1", best_reference(texts.token_f1)),
    "bleu": overlap.bleu,
    "chrf": overlap.chrf,
    "rouge": overlap.rouge,
}
NAMES = (FINAL_ANSWER, *_PLAIN, SQL, JUDGE)
_TAKEN = ("n", "stopped", "empty", "mean_length")  # other keys of a record's scores


def parse_names(text: str, database: str | None, judge: str | None = None) -> list[str]:
    """The names in `--score`, each once.

    Args:
        text: Names of `NAMES` and `FILE.py:function`, separated by commas.
        database: `--score_db`.
        judge: `--judge`.

    Raises:
        UsageError: An unknown name, one that stands twice, or `sql` and `--score_db`, or `judge` and `--judge`, without
            each other.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in NAMES and ".py:" not in name:
            hint = did_you_mean(name, NAMES) or ";"
            raise UsageError(
                f"--score {name}: unknown{hint} choose from {', '.join(NAMES)}, FILE.py:function"
            )
        if names.count(name) > 1 or name.rpartition(":")[2] in _TAKEN:
            raise UsageError(f"--score {name}: the name is taken; give each score its own")
    if not names:
        raise UsageError(f"--score: no name; choose from {', '.join(NAMES)}, FILE.py:function")
    if (SQL in names) != (database is not None):
        raise UsageError("--score sql and --score_db FILE.sqlite need each other: give both, or neither")
    if (JUDGE in names) != (judge is not None):
        raise UsageError("--score judge and --judge MODEL need each other: give both, or neither")
    return names


def load_scores(
    names: Sequence[str],
    database: str | None = None,
    pattern: str | None = None,
    judge: JudgeOptions | None = None,
) -> list[Score]:
    """The scores of names.

    Args:
        names: From `parse_names`.
        database: SQLite file of `sql`.
        pattern: How `final-answer` finds a final answer; see `FinalAnswer`.
        judge: Of `judge`.

    Raises:
        ScoreError: A database or a function's file that cannot be opened.
        MissingExtra: A package of the extra `scores` or `judge` is not installed.
        JudgeError: The environment names no endpoint for the judge.
    """
    return [_load(name, database, pattern, judge) for name in names]


def _load(name: str, database: str | None, pattern: str | None, judge: JudgeOptions | None) -> Score:
    if name == JUDGE:
        assert judge is not None  # nosec B101 # see parse_names
        return Grader(judge).score()
    if name == FINAL_ANSWER:
        assert pattern is not None  # nosec B101 # the caller has found it
        return exact_match(FinalAnswer(pattern))
    if name == SQL:
        assert database is not None  # nosec B101 # see parse_names
        opened = Database(Path(database).expanduser())
        return Score(SQL, best_reference(opened.right), check=opened.check, binary=True)
    return _PLAIN[name]() if name in _PLAIN else user_score(name)


def file_hashes(names: Sequence[str], database: str | None) -> dict[str, str]:
    """SHA-256 of the database and of the functions' code, by file: what decides the scores beside the rows."""
    functions: dict[str, list[str]] = {}
    for name in names:
        if name not in NAMES:
            file, _, function = name.rpartition(":")
            functions.setdefault(file, []).append(function)
    found = {file: code_sha256(file, used) for file, used in functions.items()}
    return found | ({database: file_sha256(database)} if database else {})


def exact_match(final: FinalAnswer) -> Score:
    """The score of `FINAL_ANSWER`: 1 where the final answer of a text is that of the right one."""

    def match(answer: str, reference: str) -> float:
        return float(final.find(answer) == final.find(reference))

    def check(answer: Answer) -> None:
        if without := [text for text in answer.references if final.find(text) is None]:
            raise ScoreError(
                f"row {answer.id}: the right answer {without[0]!r:.80} has no final answer ({final.pattern})"
            )

    return Score("exact_match", best_reference(match), check=check, binary=True)


def _check_json(answer: Answer) -> None:
    for reference in answer.references:
        try:
            texts.parse_json(reference)
        except (ValueError, RecursionError) as error:
            raise ScoreError(
                f"json: row {answer.id}: the reference {reference!r:.80} is no JSON: {error}"
            ) from error

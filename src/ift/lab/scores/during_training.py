"""Scores of the answers that `ift train --eval_generate` writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ift.generation.during_training import AnswerScorer
from ift.lab.scores.answer import Answer, ScoreError, score_answers
from ift.lab.scores.judged import JUDGE
from ift.lab.scores.table import FINAL_ANSWER, load_scores, parse_names
from ift.runs.argv import UsageError


def answer_scorer(text: str, database: str | None) -> AnswerScorer:
    """Scores against the references of the rows, otherwise their targets; all are checked.

    Args:
        text: `--eval_score`.
        database: `--eval_score_db`.

    Raises:
        UsageError: An unknown name, or one that training does not offer.
        ScoreError: A database or a function's file that cannot be opened.
        MissingExtra: A package of the extra `scores` is not installed.
    """
    given = [name.strip() for name in text.split(",")]
    for name, why in ((FINAL_ANSWER, "is measured anyway"), (JUDGE, "would cost money at each evaluation")):
        if name in given:
            raise UsageError(f"--eval_score {name}: it {why}; leave it out")
    try:
        names = parse_names(text, database)
        scores = load_scores(names, database)
    except (UsageError, ScoreError) as error:
        raise type(error)(str(error).replace("--score", "--eval_score")) from error

    def score(lines: Sequence[dict[str, Any]], columns: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        answers = [
            Answer(str(one.get("file_row", one["row"])), one["prompt"], one["answer"], one["target"], row)
            for one, row in zip(lines, columns, strict=True)
        ]
        for one in scores:
            for answer in answers:
                one.check(answer)
        found = score_answers(scores, answers)
        for line, values in zip(lines, found.rows, strict=True):
            line["scores"] = values
        return found.totals

    return score

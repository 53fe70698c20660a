"""Scores of answers against the rows they answer: `ift compare --score`, `ift score`. docs/scores.md explains each."""

from ift.lab.scores.answer import Answer, Result, Score, ScoreError, score_answers, target_scores
from ift.lab.scores.table import NAMES, exact_match, load_scores, parse_names

__all__ = [
    "NAMES",
    "Answer",
    "Result",
    "Score",
    "ScoreError",
    "exact_match",
    "load_scores",
    "parse_names",
    "score_answers",
    "target_scores",
]

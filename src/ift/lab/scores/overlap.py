"""BLEU and chrF by sacrebleu, ROUGE-L by rouge-score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from ift.lab.scores.answer import Answer, Score
from ift.runs.extras import needs_extra


def bleu() -> Score:
    """BLEU in 0..100: of the corpus; a row's value is that of sacrebleu's `sentence_bleu`.

    Raises:
        MissingExtra: sacrebleu is not installed.
    """
    needs_extra("scores", "sacrebleu")
    from sacrebleu.metrics import BLEU

    return _sacrebleu("bleu", BLEU(), BLEU(effective_order=True))


def chrf() -> Score:
    """chrF2 in 0..100: of the corpus, and of each row.

    Raises:
        MissingExtra: sacrebleu is not installed.
    """
    needs_extra("scores", "sacrebleu")
    from sacrebleu.metrics import CHRF

    return _sacrebleu("chrf", CHRF(), CHRF())


def _sacrebleu(name: str, corpus: Any, sentence: Any) -> Score:
    def of_corpus(answers: Sequence[Answer]) -> tuple[float, list[float]]:
        streams = [*zip_longest(*(answer.references for answer in answers))]  # None where a row has fewer
        texts = [answer.text for answer in answers]
        total = float(corpus.corpus_score(texts, streams).score)
        counts = np.array(corpus._extract_corpus_statistics(texts, streams))  # as its own bootstrap does
        without = [corpus._compute_score_from_stats((counts.sum(0) - one).tolist()).score for one in counts]
        return total, without if len(texts) > 1 else [total]

    def of_row(answer: Answer) -> float:
        return float(sentence.sentence_score(answer.text, answer.references).score)

    return Score(name, of_row, of_corpus)


def rouge() -> Score:
    """F-measure of ROUGE-L in 0..1, of the best reference; no stemming.

    Raises:
        MissingExtra: rouge-score is not installed.
    """
    needs_extra("scores", "rouge_score")
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    of_row: Callable[[Answer], float] = lambda answer: float(  # noqa: E731
        scorer.score_multi(answer.references, answer.text)["rougeL"].fmeasure
    )
    return Score("rouge", of_row)

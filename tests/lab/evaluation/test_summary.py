"""Scores, standard errors and paired intervals against values worked by hand and lm-eval's own functions."""

import numpy as np
import pytest

from ift.generation.errors import EvaluationError
from ift.lab.evaluation.harness import TaskResult
from ift.lab.evaluation.summary import Score, difference, paper_average, pooled_stderr, score
from ift.lab.evaluation.tasks import Benchmark


def result(task, items, metric="acc,none"):
    return TaskResult(task, "1", 5, {}, {metric: items}, [f"{task}{n}" for n in range(len(items))], 1, 4, "")


def scored(items, label="ARC", questions=None):
    items = np.array(items, float)
    return Score(label, items.mean(), None, items, questions or [str(n) for n in range(len(items))], 0, 0)


def test_a_group_is_the_mean_over_all_its_questions():
    """(1 + 0 + 1 + 1 + 1) / 5, not the mean 0.75 of the tasks' 1/2 and 1."""
    found = score(
        Benchmark("mmlu", "MMLU", 5, "acc,none"), [result("a", [1.0, 0.0]), result("b", [1.0, 1.0, 1.0])]
    )
    assert found.value == pytest.approx(0.8)
    assert (found.cut, found.asked, found.questions[2]) == (2, 8, "b b0")
    with pytest.raises(EvaluationError, match="MMLU: a has no score per question for f1,none"):
        score(Benchmark("mmlu", "MMLU", 5, "f1,none"), [result("a", [1.0])])


def test_the_standard_error_by_hand():
    """1, 0, 1: s^2 = 1/3, so sqrt(1/3/3) = 1/3. With 1, 1: squares 2/3 + 0 over 3 degrees of freedom, 5 questions."""
    assert pooled_stderr([np.array([1.0, 0, 1])]) == pytest.approx(1 / 3)
    assert pooled_stderr([np.array([1.0, 0, 1]), np.array([1.0, 1])]) == pytest.approx((2 / 3 / 3 / 5) ** 0.5)
    assert pooled_stderr([np.array([1.0])]) is None


def test_the_standard_error_is_lm_evals():
    metrics = pytest.importorskip("lm_eval.api.metrics", reason="the extra `eval` is not installed")
    random = np.random.default_rng(0)
    items = [random.integers(0, 2, size).astype(float) for size in (7, 30, 12)]
    errors = [metrics.mean_stderr(one.tolist()) for one in items]
    assert pooled_stderr(items[:1]) == pytest.approx(errors[0])
    assert pooled_stderr(items) == pytest.approx(metrics.pooled_sample_stderr(errors, [7, 30, 12]))


def test_a_difference_pairs_the_questions():
    """Scores far apart between questions, and one model better by 0.1 on each: the interval has no width."""
    easy_and_hard = np.array([0.0, 0.5, 0.9] * 5)
    found = difference([scored(easy_and_hard + 0.1)], [scored(easy_and_hard)])
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))


def test_the_interval_is_the_normal_one_where_that_holds():
    """400 differences of -1, 0 and 1: +- 1.96 standard errors; two such benchmarks averaged: smaller by sqrt 2."""
    random = np.random.default_rng(1)
    gaps = [random.integers(-1, 2, 400).astype(float) for _ in range(2)]
    one = difference([scored(gaps[0])], [scored(np.zeros(400))])
    half = 1.96 * gaps[0].std() / 20
    assert (one.low, one.high) == pytest.approx((gaps[0].mean() - half, gaps[0].mean() + half), abs=0.003)
    both = difference([scored(gap) for gap in gaps], [scored(np.zeros(400))] * 2)
    assert both.value == pytest.approx(np.mean(gaps))
    assert both.high - both.low == pytest.approx((one.high - one.low) / 2**0.5, rel=0.05)


def test_models_asked_different_questions_are_not_compared():
    with pytest.raises(EvaluationError, match="ARC: the models were asked different questions"):
        difference([scored([1, 0])], [scored([1, 0], questions=["1", "2"])])


def test_the_papers_average_leaves_arc_gen_out():
    labels = ("ARC", "ARC-Gen", "MMLU", "TruthfulQA", "WinoGrande", "GSM8K")
    scores = [scored([number], label) for number, label in enumerate(labels)]
    assert [one.value for one in paper_average(scores)] == [0, 2, 3, 4, 5]
    assert paper_average(scores[1:]) is None

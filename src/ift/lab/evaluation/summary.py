"""Results of tasks to scores of benchmarks, to differences between models, and to the record of a run."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ift.files import numbered_lines
from ift.generation.errors import EvaluationError
from ift.lab.evaluation.harness import TaskResult
from ift.lab.evaluation.paper import AVERAGED
from ift.lab.evaluation.tasks import Benchmark
from ift.lab.report import DataSplit, RunRecord, Sample, provenance

RESAMPLES = 10_000
_SHOWN = 5  # samples per task in the record


@dataclass(frozen=True)
class Score:
    """A model's score on a benchmark, a share of 1.

    Attributes:
        label: Of the benchmark.
        value: Mean over all questions, so that of a group the large tasks weigh more.
        stderr: Standard error of the mean; of a group, pooled within its tasks. None: one question has none.
        items: The score of each question.
        questions: Task and hash of each, in the same order.
        cut: Prompts that lost their beginning.
        asked: Prompts.
    """

    label: str
    value: float
    stderr: float | None
    items: np.ndarray  # (n,) float64
    questions: list[str]
    cut: int
    asked: int


def score(benchmark: Benchmark, results: Sequence[TaskResult]) -> Score:
    """The headline score of a benchmark.

    Args:
        benchmark: What was asked.
        results: Of its tasks, at least one.

    Returns:
        The score.

    Raises:
        EvaluationError: A task has no such metric, or none with a score per question.
    """
    metric = benchmark.metric or next(iter(results[0].items), None)
    without = [one.task for one in results if metric not in one.items]
    if metric is None or without:
        raise EvaluationError(
            f"{benchmark.label}: {', '.join(without)} has no score per question for {metric}"
        )
    items = [np.array(one.items[metric]) for one in results]
    return Score(
        label=benchmark.label,
        value=float(np.concatenate(items).mean()),
        stderr=pooled_stderr(items),
        items=np.concatenate(items),
        questions=[f"{one.task} {question}" for one in results for question in one.questions],
        cut=sum(one.cut for one in results),
        asked=sum(one.asked for one in results),
    )


def pooled_stderr(items: Sequence[np.ndarray]) -> float | None:
    """Standard error of the mean over all questions, their variance taken within each task as lm-eval does.

    Args:
        items: Scores of each task's questions, (n_i,).

    Returns:
        sqrt(sum (n_i - 1) s_i^2 / (N - k) / N) for k tasks with N questions; None where N = k.
    """
    total, freedom = sum(map(len, items)), sum(len(one) - 1 for one in items)
    if not freedom:
        return None
    squares = math.fsum(float(((one - one.mean()) ** 2).sum()) for one in items)
    return math.sqrt(squares / freedom / total)


@dataclass(frozen=True)
class Difference:
    """How far a model is ahead of another on the same questions, with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def difference(first: Sequence[Score], second: Sequence[Score]) -> Difference:
    """Mean over benchmarks of `first` - `second`, the questions of each drawn again in pairs.

    Args:
        first: Scores of one model; of one benchmark, or of several to average.
        second: Those of the other, on the same benchmarks and questions.

    Returns:
        The difference and the 2.5 and 97.5 percentiles of 10,000 resamples (seed 0).

    Raises:
        EvaluationError: The questions differ.
    """
    random = np.random.default_rng(0)
    means, drawn = [], []
    for one, other in zip(first, second, strict=True):
        if one.questions != other.questions:
            raise EvaluationError(
                f"{one.label}: the models were asked different questions; ask them again together"
            )
        gaps = one.items - other.items  # (n,)
        means.append(gaps.mean())
        drawn.append([gaps[random.integers(len(gaps), size=len(gaps))].mean() for _ in range(RESAMPLES)])
    low, high = np.percentile(np.mean(drawn, axis=0), [2.5, 97.5])
    return Difference(float(np.mean(means)), float(low), float(high))


def paper_average(scores: Sequence[Score]) -> list[Score] | None:
    """The five scores that the paper averages; None where one is missing."""
    found = {one.label: one for one in scores}
    return [found[label] for label in AVERAGED] if found.keys() >= set(AVERAGED) else None


def record(
    name: str,
    scores: Sequence[Score],
    results: dict[str, list[TaskResult]],
    setting: str,
    folder: Path,
    config: dict[str, Any],
) -> RunRecord:
    """The record of one model's evaluation, which `ift report` reads.

    Args:
        name: Of the model.
        scores: Of its benchmarks.
        results: Of their tasks, by label.
        setting: What all models that may be compared share.
        folder: Where the samples lie.
        config: How it was asked.

    Returns:
        The record; the model stands in it as the method.
    """
    numbers: dict[str, dict[str, float | None]] = {}
    for one in scores:
        single = results[one.label] if len(results[one.label]) == 1 else []
        others = {key.replace(",", " "): value for task in single for key, value in task.metrics.items()}
        numbers[one.label] = {
            "n": len(one.items),
            "score": one.value,
            "stderr": one.stderr,
            "cut": one.cut,
            **others,
        }
    return RunRecord(
        experiment="evaluate",
        setting=setting,
        method=name,
        seed=0,
        scores=numbers,
        provenance=provenance(),
        config={**config, **{f"shots {label}": found[0].shots for label, found in results.items()}},
        data={
            one.label: DataSplit(
                len(one.items), hashlib.sha256("\n".join(one.questions).encode()).hexdigest()
            )
            for one in scores
        },
        samples=[
            sample
            for label, found in results.items()
            for task in found[:1]
            for sample in _samples(label, folder / "samples" / f"{task.task}.jsonl")
        ],
    )


def _samples(label: str, file: Path) -> list[Sample]:
    """Some generated answers; multiple choice has none."""
    shown: list[Sample] = []
    for _, line in numbered_lines(file):
        one = json.loads(line)
        if "exact_match" not in one or any(sample.id == str(one["doc_id"]) for sample in shown):
            continue
        prompt, answer = str(one["arguments"][0][0]), str(one["resps"][0][0])
        right = bool(one["exact_match"])
        shown.append(Sample(label, str(one["doc_id"]), prompt[-600:], str(one["target"]), answer, right))
        if len(shown) == _SHOWN:
            break
    return shown

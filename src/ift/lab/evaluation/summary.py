"""Results of tasks to scores of benchmarks, to differences between models, and to the record of a run."""

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
from ift.lab.report.intervals import Interval, percentile_interval

RESAMPLES = 10_000
_SHOWN = 5  # samples per task in the record


@dataclass(frozen=True)
class Score:
    """A model's score on a benchmark, a share of 1."""

    label: str  # of the benchmark
    value: float  # mean over all questions, so that of a group the large tasks weigh more
    # standard error of the mean; of a group, pooled within its tasks. None: one question has none
    stderr: float | None
    # the score of each question
    items: np.ndarray  # (n,) float64
    questions: list[str]  # task and hash of each, in the same order
    cut: int  # prompts that lost their beginning
    asked: int  # prompts


def score(benchmark: Benchmark, results: Sequence[TaskResult]) -> Score:
    """The headline score of a benchmark, from the results of its tasks, at least one.

    Raises:
        EvaluationError: A task has no such metric, or none with a score per question.
    """
    metric = benchmark.metric or next(iter(results[0].items), None)
    without = [one.task for one in results if metric not in one.items]
    if metric is None or without:
        names = ", ".join(without)
        raise EvaluationError(f"{benchmark.label}: {names} has no score per question for {metric}")
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
    """Standard error of the mean over the scores of each task's questions, (n_i,), with variances within tasks.

    As lm-eval's, sqrt(sum (n_i - 1) s_i^2 / (N - k) / N) for k tasks with N questions; None where N = k.
    """
    total, freedom = sum(map(len, items)), sum(len(one) - 1 for one in items)
    if not freedom:
        return None
    squares = math.fsum(float(((one - one.mean()) ** 2).sum()) for one in items)
    return math.sqrt(squares / freedom / total)


def difference(first: Sequence[Score], second: Sequence[Score]) -> Interval:
    """Mean over benchmarks of `first` - `second`: the scores of two models on the same benchmarks and questions.

    The interval has the 2.5 and 97.5 percentiles of 10,000 resamples (seed 0) of each benchmark's questions, in pairs.

    Raises:
        EvaluationError: The questions differ.
    """
    random = np.random.default_rng(0)
    means, drawn = [], []
    for one, other in zip(first, second, strict=True):
        if one.questions != other.questions:
            raise EvaluationError(
                f"{one.label}: the models were asked different questions; evaluate them again together"
            )
        gaps = one.items - other.items  # (n,)
        means.append(gaps.mean())
        drawn.append([gaps[random.integers(len(gaps), size=len(gaps))].mean() for _ in range(RESAMPLES)])
    return percentile_interval(np.mean(means), np.mean(drawn, axis=0))


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
    """The record of one model's evaluation, which `ift report` reads; the model is its method.

    Results are by label; `setting` is what all models that may be compared share; `folder` has the samples.
    """
    numbers: dict[str, dict[str, float | None]] = {}
    data, samples = {}, list[Sample]()
    for one in scores:
        found = results[one.label]
        metrics = found[0].metrics if len(found) == 1 else {}
        numbers[one.label] = {"n": len(one.items), "score": one.value, "stderr": one.stderr, "cut": one.cut}
        numbers[one.label] |= {key.replace(",", " "): value for key, value in metrics.items()}
        digest = hashlib.sha256("\n".join(one.questions).encode()).hexdigest()
        data[one.label] = DataSplit(len(one.items), digest)
        samples += _samples(one.label, folder / "samples" / f"{found[0].task}.jsonl")
    return RunRecord(
        experiment="evaluate",
        setting=setting,
        method=name,
        seed=0,
        scores=numbers,
        provenance=provenance(),
        config={**config, **{f"shots {label}": found[0].shots for label, found in results.items()}},
        data=data,
        samples=samples,
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

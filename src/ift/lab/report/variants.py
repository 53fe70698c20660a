"""A method's runs over seeds, and the difference of two methods, paired by seed and by row."""

from dataclasses import dataclass

from ift.lab.report.intervals import (
    CONFIDENCE,
    Estimate,
    crossed_interval,
    mean_interval,
    paired_difference,
)
from ift.lab.report.records import Config, RunRecord


@dataclass(frozen=True)
class Variant:
    """One method in one variant: its runs by seed, in order of the seeds."""

    label: str
    runs: dict[int, RunRecord]

    @property
    def untrained(self) -> bool:
        """Whether it is the base model, which no method has trained."""
        return next(iter(self.runs.values())).method == "base"

    @property
    def config(self) -> Config:
        """Of the first seed; the others' differs only where each seed was searched for itself."""
        return next(iter(self.runs.values())).config

    def scores(self, split: str, metric: str) -> dict[int, float]:
        """A metric by seed; a seed without a finite number is absent."""
        found = {seed: run.scores.get(split, {}).get(metric) for seed, run in self.runs.items()}
        return {seed: value for seed, value in found.items() if value is not None}

    def rows(self, split: str, metric: str) -> dict[int, list[float]]:
        """The values of the rows by seed; empty where a seed has none, or not as many as the others."""
        found = {seed: run.row_scores.get(split, {}).get(metric, []) for seed, run in self.runs.items()}
        lengths = {len(values) for values in found.values()}
        return found if len(lengths) == 1 and lengths != {0} else {}

    def costs(self, name: str) -> dict[int, float]:
        """A field of `Cost` by seed, where it was measured."""
        found = {seed: getattr(run.cost, name) for seed, run in self.runs.items()}
        return {seed: float(value) for seed, value in found.items() if value is not None}

    def estimate(self, split: str, metric: str) -> Estimate | None:
        """Mean over all seeds; None where any of them has no finite number, for the others would flatter."""
        values = self.scores(split, metric)
        if len(values) != len(self.runs):
            return None
        rows = self.rows(split, metric)
        return crossed_interval([*rows.values()]) if rows else mean_interval([*values.values()])

    def mean_cost(self, name: str) -> float | None:
        """Mean of a field of `Cost` over the seeds; None where any was not measured."""
        values = self.costs(name)
        return mean_interval([*values.values()]).mean if len(values) == len(self.runs) else None


def apart_by_row(first: Variant, second: Variant, split: str, metric: str) -> list[list[float]]:
    """`first` - `second` of each row, a list for each common seed; empty where rows are not stored."""
    one, other = first.rows(split, metric), second.rows(split, metric)
    if {len(values) for values in [*one.values(), *other.values()]} & {0} or not (one and other):
        return []
    common = sorted(one.keys() & other.keys())
    if any(len(one[seed]) != len(other[seed]) for seed in common):
        return []
    return [[a - b for a, b in zip(one[seed], other[seed], strict=True)] for seed in common]


def difference(
    first: Variant, second: Variant, split: str, metric: str, confidence: float = CONFIDENCE
) -> Estimate | None:
    """`first` - `second`, paired by seed, and by row where the values of rows are stored; None without common seeds."""
    apart = apart_by_row(first, second, split, metric)
    if apart:
        return crossed_interval(apart, confidence)
    return paired_difference(first.scores(split, metric), second.scores(split, metric), confidence)

"""A method's runs over seeds, and the difference of two methods, paired by seed and by row."""

from dataclasses import dataclass
from typing import TypeVar

from ift.lab.report.intervals import (
    CONFIDENCE,
    Estimate,
    crossed_interval,
    mean_interval,
    paired_difference,
)
from ift.lab.report.records import Config, RunRecord
from ift.lab.report.wording import RIGHT_OR_WRONG, number

_T = TypeVar("_T")


@dataclass(frozen=True)
class Variant:
    """One method in one variant, with its runs by seed, in the order of the seeds."""

    label: str
    runs: dict[int, RunRecord]

    @property
    def untrained(self) -> bool:
        """Whether this is the base model, which no method has trained."""
        return next(iter(self.runs.values())).method == "base"

    @property
    def config(self) -> Config:
        """The configuration of the first seed; other seeds differ only if each was searched for itself."""
        return next(iter(self.runs.values())).config

    def scores(self, split: str, metric: str) -> dict[int, float]:
        """A metric by seed; seeds without a finite number are left out."""
        found = {seed: run.scores.get(split, {}).get(metric) for seed, run in self.runs.items()}
        return {seed: value for seed, value in found.items() if value is not None}

    def rows(self, split: str, metric: str) -> dict[int, list[float]]:
        """The values of rows by seed; empty if a seed has none, or seeds have different numbers of rows.

        Values that are not stored are known for a right-or-wrong score of 0 or 1: all are the same.
        """
        found = {seed: _values_of_rows(run, split, metric) for seed, run in self.runs.items()}
        lengths = {len(values) for values in found.values()}
        return found if len(lengths) == 1 and lengths != {0} else {}

    def costs(self, name: str) -> dict[int, float]:
        """A field of `Cost` by seed, for seeds with a measurement."""
        found = {seed: getattr(run.cost, name) for seed, run in self.runs.items()}
        return {seed: float(value) for seed, value in found.items() if value is not None}

    def estimate(self, split: str, metric: str) -> Estimate | None:
        """The mean over all seeds with its interval; None if a seed has no finite number, which cannot be left out."""
        values = self.scores(split, metric)
        if len(values) != len(self.runs):
            return None
        rows = self.rows(split, metric)
        if not rows:
            return mean_interval([*values.values()])
        return crossed_interval([*rows.values()], share=_is_share(metric, rows))

    def mean_cost(self, name: str) -> float | None:
        """The mean of a field of `Cost` over the seeds; None if a seed has no measurement."""
        values = self.costs(name)
        return mean_interval([*values.values()]).mean if len(values) == len(self.runs) else None


def _values_of_rows(run: RunRecord, split: str, metric: str) -> list[float]:
    scores = run.scores.get(split, {})
    if (values := run.row_scores.get(split, {}).get(metric)) or metric not in RIGHT_OR_WRONG:
        return values or []
    mean, rows = scores.get(metric), scores.get("n")
    return [mean] * int(rows) if mean in (0, 1) and rows else []


def _is_share(metric: str, *rows: dict[int, list[float]]) -> bool:
    """Whether values of rows are wrong (0) and right (1); for a user's function, whether both occur and no others."""
    if metric in RIGHT_OR_WRONG:
        return True
    return {value for found in rows for values in found.values() for value in values} == {0, 1}


def apart_by_row(first: Variant, second: Variant, split: str, metric: str) -> list[list[float]]:
    """`first` - `second` for each row, one list for each common seed; empty if no values of rows are stored.

    A base model that was scored once is compared with every seed.
    """
    one, other = first.rows(split, metric), second.rows(split, metric)
    if {len(values) for values in [*one.values(), *other.values()]} & {0} or not (one and other):
        return []
    one, other = _for_each_seed(first, one, other), _for_each_seed(second, other, one)
    common = sorted(one.keys() & other.keys())
    if any(len(one[seed]) != len(other[seed]) for seed in common):
        return []
    return [[a - b for a, b in zip(one[seed], other[seed], strict=True)] for seed in common]


def difference(
    first: Variant, second: Variant, split: str, metric: str, confidence: float = CONFIDENCE
) -> Estimate | None:
    """`first` - `second`, paired by seed, and also by row if the values of rows are stored.

    A base model, which no seed has changed, is compared with every seed. The result is None without common seeds.
    """
    apart = apart_by_row(first, second, split, metric)
    if apart:
        share = _is_share(metric, first.rows(split, metric), second.rows(split, metric))
        return crossed_interval(apart, confidence, share=share)
    one, other = first.scores(split, metric), second.scores(split, metric)
    return paired_difference(
        _for_each_seed(first, one, other), _for_each_seed(second, other, one), confidence
    )


def same_notes(variants: list[Variant], base: str) -> list[str]:
    """Notes on scores without an interval because all rows have the same value, or the same difference."""
    first = next((one for one in variants if one.label == base), None)
    found: dict[tuple[str, str], list[str]] = {}  # labels by value, then labels by difference
    apart: dict[tuple[str, str], list[str]] = {}
    for variant in variants:
        run = next(iter(variant.runs.values()))
        for score in ((split, name) for split, scores in run.row_scores.items() for name in scores):
            pairs = [(found, variant.estimate(*score))]
            if first is not None and first is not variant:
                pairs.append((apart, difference(variant, first, *score)))
            for labels, mean in pairs:
                if mean is not None and mean.half is None and mean.n > 1:
                    shown = number(mean.mean, score[1])
                    labels.setdefault(score, []).append(f"{shown} with {variant.label}")
    notes = []
    for split, name in dict.fromkeys([*found, *apart]):
        values = found.get((split, name), [])
        kinds = {one.partition(" with ")[0] for one in values}
        differences = apart.get((split, name), [])
        if len(values) == len(variants) and len(kinds) == 1:
            said = (
                f"every row has the value {kinds.pop()} with every method and seed, so all differences are 0"
            )
        else:
            parts = [f"every row of every seed has the value {', '.join(values)}"] if values else []
            parts += (
                [f"every row of every seed differs from {base} by {', '.join(differences)}"]
                if differences
                else []
            )
            said = "; ".join(parts)
        notes.append(
            f"{split}.{name}: {said}. This says nothing about other rows; only a right-or-wrong score has an interval "
            "then."
        )
    return notes


def _for_each_seed(variant: Variant, values: dict[int, _T], other: dict[int, _T]) -> dict[int, _T]:
    """The values by seed; a base model that was scored once has the same value for every seed of the other variant."""
    return dict.fromkeys(other, *values.values()) if variant.untrained and len(values) == 1 else values

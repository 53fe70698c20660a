"""States the result of a comparison in words, by the rule of docs/compare.md, which treats all methods alike."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from ift.lab.report.cautions import FEW_ROWS, empty_answers, few_rows, scored_rows, shortened
from ift.lab.report.comparisons import Comparison
from ift.lab.report.intervals import CONFIDENCE, Estimate, MeanSquares, joint_confidence, student_quantile
from ift.lab.report.studies import AUXILIARY
from ift.lab.report.variants import Variant, apart_by_row, difference
from ift.lab.report.wording import PER_TOKEN, estimate, label, number
from ift.text import counted

FEWEST_SEEDS = 3
MOST_SEEDS = 30  # that are proposed


def verdict(comparison: Comparison, metric: str, runs: Sequence[str] = ()) -> list[str]:
    """The verdict on the first split, one or two sentences per line; empty if fewer than two methods can be compared.

    Args:
        comparison: The comparison of the records.
        metric: The score by which methods are compared.
        runs: The places of the records in the form that `ift report` takes, for a command in the text. Without them the
            text has FOLDER; files have it too, so that they depend on the records only.
    """
    split = comparison.splits[0]
    trained, sound = _compared(comparison, metric)
    compared = {one.label for one in sound}
    lines = [
        f"{one.label} is left out: a seed has no finite score."
        for one in trained
        if one.label not in compared
    ]
    if len(sound) < 2:
        return []
    common = _common_seeds(sound)
    named = f"Verdict on {split} ({label(metric)})"
    values = _values(sound, split, metric)
    lines += [*shortened(sound), *empty_answers(sound, split), _other_seeds(comparison, sound)]
    lines = [line for line in lines if line]
    if len(values) == 1:
        return [
            *lines,
            f"{named}: none. Every method scores {number(values.pop(), metric)} with every seed, so this score does "
            "not distinguish them. Read some answers; then train longer, or choose another --score."
            + _another_metric(sound, split, metric, runs),
        ]
    lines += few_rows(sound, split)
    if len(common) < FEWEST_SEEDS:
        return [
            *lines,
            f"{named}: none. {counted(len(common), 'common seed')} cannot tell a difference between methods from one "
            f"between seeds; give --seeds {FEWEST_SEEDS} or more.{_how_to_grow(comparison, FEWEST_SEEDS)}",
        ]
    standing = _standing(sound, split, metric)
    level = standing.level
    lines += _ranking(standing, named, split, metric)
    lines += [_wider(standing, len(sound)), _cheapest(level, sound)]
    if (more := _more_seeds(standing, split, metric)) is not None:
        lines.append(more.text + _how_to_grow(comparison, more.enough))
    elif len(level) > 1 and (rows := scored_rows(level, split)) < FEW_ROWS:
        why = f"{counted(rows, 'row')} would be too few with any: score {FEW_ROWS} or more first, in another study."
        lines.append(f"No number of seeds is proposed, because {why}")
    return [line for line in lines if line]


def seeds_to_add(comparison: Comparison, metric: str) -> int | None:
    """The number of seeds that the verdict proposes; None if more seeds would not help or no question is open."""
    split = comparison.splits[0]
    _, sound = _compared(comparison, metric)
    if len(sound) < 2 or len(_values(sound, split, metric)) == 1:
        return None
    if len(_common_seeds(sound)) < FEWEST_SEEDS:
        return FEWEST_SEEDS
    more = _more_seeds(_standing(sound, split, metric), split, metric)
    return None if more is None else more.enough


@dataclass(frozen=True)
class _Standing:
    """The best method, the methods that are not behind it, and the differences of all others to it."""

    best: Variant
    level: list[Variant]  # the best is the first
    apart: dict[str, tuple[Variant, Estimate]]  # by label
    confidence: float  # of the differences


@dataclass(frozen=True)
class _MoreSeeds:
    """The expected result of more seeds, as text.

    `enough` is the number of seeds with which the present difference would be beyond noise; None: no number is enough.
    """

    text: str
    enough: int | None


def _compared(comparison: Comparison, metric: str) -> tuple[list[Variant], list[Variant]]:
    """The trained methods that have a score, and those of them that have a score with all seeds.

    The latter have the seeds that all of them have, if these are enough: a mean over other seeds may be higher although
    the paired difference is not.
    """
    split = comparison.splits[0]
    trained = [one for one in comparison.variants if not one.untrained and one.scores(split, metric)]
    sound = [one for one in trained if one.estimate(split, metric) is not None]
    if len(common := _common_seeds(sound)) >= FEWEST_SEEDS:
        sound = [
            replace(one, runs={seed: run for seed, run in one.runs.items() if seed in common})
            for one in sound
        ]
    return trained, sound


def _other_seeds(comparison: Comparison, sound: list[Variant]) -> str:
    """A sentence on seeds that some methods have and others lack; "" if all have the same."""
    common, labels = _common_seeds(sound), {one.label for one in sound}
    more = {one.label: sorted(one.runs.keys() - common) for one in comparison.variants if one.label in labels}
    if len(common) < FEWEST_SEEDS or not any(more.values()):
        return ""
    listed = "; ".join(f"{name}: {', '.join(map(str, seeds))}" for name, seeds in more.items() if seeds)
    return (
        f"The verdict is on the seeds that all methods have ({', '.join(map(str, sorted(common)))}), and leaves out "
        f"those that only some have ({listed}); the tables have all."
    )


def _common_seeds(methods: list[Variant]) -> set[int]:
    return set.intersection(*({*one.runs} for one in methods)) if methods else set()


def _standing(sound: list[Variant], split: str, metric: str) -> _Standing:
    best = max(sound, key=lambda one: fmean(one.scores(split, metric).values()))
    confidence = joint_confidence(len(sound))
    apart = {
        one.label: (one, found)
        for one in sound
        if one is not best and (found := difference(one, best, split, metric, confidence))
    }
    level = [best, *(one for one, found in apart.values() if not _below_zero(found))]
    return _Standing(best, level, apart, confidence)


def _ranking(standing: _Standing, named: str, split: str, metric: str) -> list[str]:
    """Sentences on the best method, those that are not behind it, and those that are; `named` begins the first."""
    best, level, apart = standing.best, standing.level, standing.apart
    shown = {name: f"{name} is {_below(found, metric)} it" for name, (_, found) in apart.items()}
    behind = [shown[name] for name, (_, found) in apart.items() if _below_zero(found)]
    others = ", ".join(shown[one.label] for one in level[1:])
    score = number(fmean(best.scores(split, metric).values()), metric)
    if len(level) == 1:
        lines = [f"{named}: {best.label} is ahead of every other method beyond noise, with {score}."]
    elif not behind:
        lines = [
            f"{named}: no method differs from another beyond noise. The highest mean is {score}, of {best.label}; "
            f"{others}."
        ]
    else:
        lines = [f"{named}: {best.label} is the best with {score}. Not behind it beyond noise: {others}."]
    return [*lines, f"Behind it beyond noise: {', '.join(behind)}."] if behind else lines


def _how_to_grow(comparison: Comparison, seeds: int | None) -> str:
    """A sentence on adding seeds, for a study of `ift compare` or `ift ablate`; otherwise ""."""
    if seeds is None or comparison.experiment not in ("compare", "ablate"):
        return ""
    return (
        f" To add the missing seeds, repeat the study's command with --seeds {seeds} and the same --output_dir: the "
        "finished runs are kept."
    )


def _values(variants: list[Variant], split: str, metric: str) -> set[float]:
    """The scores of all methods with all seeds."""
    return {value for one in variants for value in one.scores(split, metric).values()}


def _another_metric(variants: list[Variant], split: str, metric: str, runs: Sequence[str]) -> str:
    """A sentence with the command that compares the records by a score in which they differ; "" if there is none."""
    known = {name for one in variants for run in one.runs.values() for name in run.scores.get(split, {})}
    names = [name for name in (PER_TOKEN, *sorted(known - {PER_TOKEN, metric, *AUXILIARY})) if name in known]
    found = next((name for name in names if len(_values(variants, split, name)) > 1), None)
    if found is None:
        return ""
    folder = shlex.join(runs) or "FOLDER"
    return f" The same records by {label(found)}, in which they differ: ift report {folder} --metric {found}"


def _wider(standing: _Standing, methods: int) -> str:
    """A sentence on why the intervals are wider than those of the tables; "" for two methods, where they are not."""
    if methods == 2:
        return ""
    return (
        f"These ± are wider than those of the tables ({100 * standing.confidence:.1f} % instead of "
        f"{100 * CONFIDENCE:g} %), because {methods} methods are compared with each other."
    )


def _below(found: Estimate, metric: str) -> str:
    """The distance of a method to the best one, as text."""
    return f"{estimate(replace(found, mean=abs(found.mean)), metric, signed=True).removeprefix('+')} below"


def _below_zero(found: Estimate) -> bool:
    return found.half is not None and found.mean + found.half < 0


def _cost(variant: Variant) -> tuple[str, float] | None:
    """The name and mean of the cost to compare: FLOPs, otherwise seconds."""
    found = ((name, variant.mean_cost(name)) for name in ("flops", "seconds"))
    return next(((name, value) for name, value in found if value), None)


def _cheapest(level: list[Variant], all_methods: list[Variant]) -> str:
    """A sentence with the cheapest of the methods that are not behind, and the costs of the others."""
    costs = {one.label: _cost(one) for one in all_methods}
    known = [found for found in costs.values() if found is not None]
    if len(known) < len(costs) or len({name for name, _ in known}) > 1:
        return "Which is the cheapest is not known: costs were not measured."
    unit = label(known[0][0])
    value = {name: found[1] for name, found in costs.items() if found is not None}
    cheapest = min(level, key=lambda one: value[one.label])
    shown = f"{number(value[cheapest.label], known[0][0])} {unit}"
    times = [
        f"{one.label} {value[one.label] / value[cheapest.label]:.2f}" for one in level if one is not cheapest
    ]
    if times:
        more = ", ".join(times)
        return f"Of those, {cheapest.label} is the cheapest: {shown} a training. Times that: {more}."
    least = min(all_methods, key=lambda one: value[one.label])
    if least is cheapest:
        return f"It is also the cheapest: {shown} a training."
    ratio = value[cheapest.label] / value[least.label]
    return f"It takes {shown} a training, {ratio:.2f} times those of {least.label}, the cheapest."


def _rival(standing: _Standing) -> Variant | None:
    """The cheapest method that is not behind, if it is not the best itself; otherwise the nearest in score."""
    level, best, apart = standing.level, standing.best, standing.apart
    others = [one for one in level if one is not best]
    if not others:
        return None
    costs = {one.label: _cost(one) for one in level}
    if all(costs.values()):
        cheapest = min(level, key=lambda one: (costs[one.label] or ("", 0.0))[1])
        if cheapest is not best:
            return cheapest
    return max(others, key=lambda one: apart[one.label][1].mean)


def _more_seeds(standing: _Standing, split: str, metric: str) -> _MoreSeeds | None:
    """The expected interval with more seeds for a difference that is not beyond noise."""
    best, rival, confidence = standing.best, _rival(standing), standing.confidence
    found = None if rival is None else difference(rival, best, split, metric, confidence)
    if rival is None or found is None or found.half is None or few_rows(standing.level, split):
        return None  # with few rows more of them are needed first
    rows = apart_by_row(rival, best, split, metric)
    squares = MeanSquares.of(rows) if rows and len(rows[0]) > 1 else None

    def half(seeds: int) -> float:
        if squares is not None:
            return squares.half_with(seeds, confidence)
        quantiles = [student_quantile((1 + confidence) / 2, count - 1) for count in (seeds, found.n)]
        return (found.half or 0.0) * quantiles[0] / quantiles[1] * math.sqrt(found.n / seeds)

    def shown(value: float) -> str:
        return estimate(Estimate(0.0, value, 2), metric, signed=True).partition("± ")[2]

    enough = next((n for n in range(found.n + 1, MOST_SEEDS + 1) if half(n) < abs(found.mean)), None)
    seeds = enough or 2 * found.n
    text = (
        f"With {counted(seeds, 'seed')} the difference between {best.label} and {rival.label} would be known to about "
        f"± {shown(half(seeds))}"
    )
    if enough is not None:
        return _MoreSeeds(f"{text}, so that a difference as large as now would be beyond noise.", enough)
    why = ", and more test rows would be needed" if squares is not None else ""
    most = counted(MOST_SEEDS, "seed")
    return _MoreSeeds(
        f"{text}. A difference as small as now would not be beyond noise with {most} either{why}.", None
    )

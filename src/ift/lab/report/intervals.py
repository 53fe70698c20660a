"""95 % intervals of means, of paired differences over seeds and rows (Student's t), and of shares (Wilson)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist, fmean, stdev
from typing import Any, NamedTuple

CONFIDENCE = 0.95
NORMAL_QUANTILE = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


@dataclass(frozen=True)
class Estimate:
    """A mean and half the width of its interval, in the unit of the values.

    Attributes:
        mean: The mean of all values.
        half: Half the width of the interval; None for a single value or seed, and for values that are all equal and no
            shares.
        n: The number of values or seeds.
        rows: The number of rows scored with each seed, if the interval is also for other rows; None: it is for other
            seeds only.
    """

    mean: float
    half: float | None
    n: int
    rows: int | None = None


class Interval(NamedTuple):
    """A number with its 95 % percentile bootstrap interval."""

    value: float
    low: float
    high: float


def percentile_interval(value: float, resampled: Any) -> Interval:
    """The value with the 2.5th and 97.5th percentiles of its resamples, an array (R,)."""
    import numpy as np

    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(float(value), float(low), float(high))


@cache
def student_quantile(probability: float, freedom: float) -> float:
    """The quantile of Student's t by bisection, accurate to about 12 digits for whole degrees of freedom.

    Between whole degrees of freedom it is interpolated linearly in their inverse, accurate to about 3 digits.

    Raises:
        ValueError: The probability is outside (0, 1), or there is less than 1 degree of freedom.
    """
    if not 0 < probability < 1 or freedom < 1:
        raise ValueError(f"need 0 < probability < 1 and freedom >= 1, got {probability} and {freedom}")
    if probability < 0.5:
        return -student_quantile(1 - probability, freedom)
    below = math.floor(freedom)
    if below != freedom:
        near, far = (student_quantile(probability, whole) for whole in (below, below + 1))
        return far + (near - far) * (1 / freedom - 1 / (below + 1)) / (1 / below - 1 / (below + 1))
    low, high = 0.0, 1.0
    while _student_cdf(high, below) < probability:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if _student_cdf(middle, below) < probability else (low, middle)
    return (low + high) / 2


def mean_interval(
    values: Sequence[float], *, normal: bool = False, confidence: float = CONFIDENCE
) -> Estimate:
    """The mean and its interval: mean +- t(n - 1) s / sqrt(n), or with the normal quantile if `normal`.

    Use the normal quantile for values of many problems. The interval of a share may extend beyond 0 and 1.

    Raises:
        ValueError: There are no values.
    """
    n = len(values)
    if not n:
        raise ValueError("there are no values to average")
    mean = fmean(values)
    if n == 1:
        return Estimate(mean, None, 1)
    quantile = NORMAL_QUANTILE if normal else student_quantile((1 + confidence) / 2, n - 1)
    return Estimate(mean, quantile * stdev(values) / math.sqrt(n), n)


def paired_difference(
    first: Mapping[int, float], second: Mapping[int, float], confidence: float = CONFIDENCE
) -> Estimate | None:
    """The mean of `first` - `second` (values by seed) over common seeds with its interval; None without any."""
    common = sorted(first.keys() & second.keys())
    apart = [first[seed] - second[seed] for seed in common]
    return mean_interval(apart, confidence=confidence) if common else None


@dataclass(frozen=True)
class MeanSquares:
    """Mean squares of values (S seeds, N rows): between seeds, between rows, and of the residual.

    Seeds and rows are crossed random effects: a value is the mean, plus an effect of its seed, plus an effect of its
    row, plus a residual.
    """

    seeds: float
    rows: float
    rest: float
    counts: tuple[int, int]  # S, N

    @classmethod
    def of(cls, values: Any) -> "MeanSquares":
        """Compute them from an array (S, N); S and N are at least 2."""
        import numpy as np

        values = np.asarray(values, dtype=float)
        seeds, rows = values.shape
        by_seed, by_row = values.mean(1, keepdims=True) - values.mean(), values.mean(0) - values.mean()
        rest = values - values.mean() - by_seed - by_row
        return cls(
            float(rows * (by_seed**2).sum() / (seeds - 1)),
            float(seeds * (by_row**2).sum() / (rows - 1)),
            float((rest**2).sum() / ((seeds - 1) * (rows - 1))),
            (seeds, rows),
        )

    @property
    def same(self) -> bool:
        """Whether all values are equal."""
        return self.seeds + self.rows + self.rest <= 1e-12

    def half(self, confidence: float = CONFIDENCE) -> float:
        """Half the width of the interval of the mean, for other seeds and other rows.

        The variance of the mean is (max(A, E / 2) + B - E) / (S N), but at least A / (S N). A, B and E are the mean
        squares of seeds, rows and residual. The quantile is Student's with Satterthwaite's degrees of freedom, at least
        S - 1. If all values are equal, the half width is 3 / N, because a difference on few rows may have been missed.
        That bounds a share of rows; for values on another scale it has no meaning, see `crossed_interval`.
        """
        (seeds, rows), freedom = self.counts, (self.counts[0] - 1, self.counts[1] - 1)
        total = max(max(self.seeds, self.rest / 2) + self.rows - self.rest, self.seeds)
        if self.same:
            return 3 / rows
        parts = (self.seeds**2 / freedom[0], self.rows**2 / freedom[1], self.rest**2 / math.prod(freedom))
        quantile = student_quantile((1 + confidence) / 2, max(total**2 / sum(parts), freedom[0]))
        return quantile * math.sqrt(total / (seeds * rows))

    def half_with(self, seeds: int, confidence: float = CONFIDENCE) -> float:
        """The half width to expect with another number of seeds, at least 2, if the variances stay the same."""
        before, rows = self.counts
        between = max(self.rows - self.rest, 0.0) * seeds / before + self.rest
        return MeanSquares(max(self.seeds, self.rest), between, self.rest, (seeds, rows)).half(confidence)


def crossed_interval(values: Any, confidence: float = CONFIDENCE, *, share: bool) -> Estimate:
    """The mean of values (S seeds, N rows) and its interval, for other seeds and other rows.

    With one seed there is no interval. docs/compare.md describes the method, and how often the interval covers.

    Args:
        values: (S, N).
        confidence: The confidence level, in (0, 1).
        share: Whether each value says that a row is right (1) or wrong (0), or is the difference of two such values.
            Only then is there an interval if all values are equal.
    """
    seeds, rows = len(values), len(values[0])
    mean = fmean(fmean(one) for one in values)
    if seeds == 1 or rows == 1:
        return mean_interval([fmean(one) for one in values], confidence=confidence)
    squares = MeanSquares.of(values)
    half = None if squares.same and not share else squares.half(confidence)
    return Estimate(mean, half, seeds, rows)


def joint_confidence(methods: int) -> float:
    """The confidence of each interval with which all differences of two of so many methods (2 or more) have 95 %.

    Any two methods may turn out to be the best and the one behind it, so all pairs count (Bonferroni).
    """
    return 1 - (1 - CONFIDENCE) / (methods * (methods - 1) / 2)


def smallest_difference(
    seeds: int,
    rows: int,
    row_deviation: float,
    seed_deviation: float,
    power: float = 0.8,
    confidence: float = CONFIDENCE,
) -> float:
    """The smallest difference that a study detects with this power, so that its interval excludes 0.

    Args:
        seeds: The number of seeds S, at least 2.
        rows: The number of rows N that are scored with each seed.
        row_deviation: Standard deviation of a row's difference, the same with every seed.
        seed_deviation: Standard deviation of the mean difference over seeds.
        power: The probability of detection, in 0.5..1.
        confidence: Of the interval, in 0..1.

    Returns:
        The difference, in the unit of the deviations.
    """
    of_rows, of_seeds = row_deviation**2 / rows, seed_deviation**2 / seeds
    variance = of_rows + of_seeds
    freedom = variance**2 / (of_rows**2 / max(1, rows - 1) + of_seeds**2 / (seeds - 1))
    quantiles = [student_quantile(p, max(1.0, freedom)) for p in ((1 + confidence) / 2, power)]
    return sum(quantiles) * math.sqrt(variance)


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of the share `successes / n`: (low, high) in 0..1; n is at least 1."""
    share, z = successes / n, NORMAL_QUANTILE
    scale = 1 + z**2 / n
    centre = (share + z**2 / (2 * n)) / scale
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / scale
    return max(0.0, centre - half) if successes else 0.0, min(1.0, centre + half) if successes < n else 1.0


def _student_cdf(t: float, freedom: int) -> float:
    """P(T <= t) for t >= 0 by the finite series of Abramowitz and Stegun 26.7.3 and 26.7.4, for whole `freedom`."""
    angle = math.atan2(t, math.sqrt(freedom))
    cosine, odd = math.cos(angle), freedom % 2
    term = total = cosine if odd else 1.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= (k - 1) / k * cosine * cosine
        total += term
    if odd:
        within = 2 / math.pi * (angle + (math.sin(angle) * total if freedom > 1 else 0.0))
    else:
        within = math.sin(angle) * total
    return (1 + within) / 2

"""95 % intervals: of means and paired differences over seeds, or seeds and rows (Student's t), of shares (Wilson)."""

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
    """A mean with half the width of its interval, in the unit of the values.

    Attributes:
        mean: Of all values.
        half: None for a single value, or a single seed.
        n: Values, or seeds.
        rows: Rows scored with each seed, where the interval is for other rows too; None: for other seeds alone.
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
    """The value with the 2.5 and 97.5 percentiles of its resamples, an array (R,)."""
    import numpy as np

    low, high = np.percentile(resampled, [2.5, 97.5])
    return Interval(float(value), float(low), float(high))


@cache
def student_quantile(probability: float, freedom: float) -> float:
    """Quantile of Student's t, by bisection: to about 12 digits for whole degrees of freedom.

    Between whole ones it is linear in their inverse, to about 3 digits.

    Raises:
        ValueError: For a probability outside (0, 1), or fewer than 1 degree of freedom.
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
    """Mean with its interval: mean +- t(n - 1) s / sqrt(n), of Student's t, or the normal quantile if `normal`.

    The normal quantile is for values of many problems. The interval of a share may reach beyond 1.

    Raises:
        ValueError: There is no value.
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
    """Mean of `first` - `second` (values by seed) over common seeds, with its interval; None without any."""
    common = sorted(first.keys() & second.keys())
    apart = [first[seed] - second[seed] for seed in common]
    return mean_interval(apart, confidence=confidence) if common else None


@dataclass(frozen=True)
class MeanSquares:
    """Mean squares of values (S seeds, N rows): between seeds, between rows, and of what is left.

    Seeds and rows are crossed random effects: a value is the mean + a of its seed + b of its row + a rest.
    """

    seeds: float
    rows: float
    rest: float
    counts: tuple[int, int]  # S, N

    @classmethod
    def of(cls, values: Any) -> "MeanSquares":
        """Of an array (S, N); S and N are 2 or more."""
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

    def half(self, confidence: float = CONFIDENCE) -> float:
        """Half of the interval of the mean, for other seeds and other rows.

        The mean's variance is (max(A, E / 2) + B - E) / (S N), A / (S N) at least, with A, B and E the mean squares in
        their order, the quantile Student's with Satterthwaite's degrees of freedom, S - 1 at least. Values that are all
        the same give 3 / N: what differs in so few rows may be missed.
        """
        (seeds, rows), freedom = self.counts, (self.counts[0] - 1, self.counts[1] - 1)
        total = max(max(self.seeds, self.rest / 2) + self.rows - self.rest, self.seeds)
        if total <= 1e-12:
            return 3 / rows
        parts = (self.seeds**2 / freedom[0], self.rows**2 / freedom[1], self.rest**2 / math.prod(freedom))
        quantile = student_quantile((1 + confidence) / 2, max(total**2 / sum(parts), freedom[0]))
        return quantile * math.sqrt(total / (seeds * rows))

    def half_with(self, seeds: int, confidence: float = CONFIDENCE) -> float:
        """The half to expect with another number of seeds, 2 or more, if the variances stay."""
        before, rows = self.counts
        between = max(self.rows - self.rest, 0.0) * seeds / before + self.rest
        return MeanSquares(max(self.seeds, self.rest), between, self.rest, (seeds, rows)).half(confidence)


def crossed_interval(values: Any, confidence: float = CONFIDENCE) -> Estimate:
    """Mean of values (S seeds, N rows) with its interval, for other seeds and other rows; None for one seed.

    docs/compare.md says how, and how often it covers.
    """
    seeds, rows = len(values), len(values[0])
    mean = fmean(fmean(one) for one in values)
    if seeds == 1 or rows == 1:
        return mean_interval([fmean(one) for one in values], confidence=confidence)
    return Estimate(mean, MeanSquares.of(values).half(confidence), seeds, rows)


def smallest_difference(
    seeds: int, rows: int, row_deviation: float, seed_deviation: float, power: float = 0.8
) -> float:
    """The difference that a study finds with this power: its 95 % interval then leaves out 0.

    Args:
        seeds: S, 2 or more.
        rows: N, scored with each seed.
        row_deviation: Standard deviation of a row's difference, the same at every seed.
        seed_deviation: That of the mean difference from seed to seed.
        power: In 0.5..1.
    """
    of_rows, of_seeds = row_deviation**2 / rows, seed_deviation**2 / seeds
    variance = of_rows + of_seeds
    freedom = variance**2 / (of_rows**2 / max(1, rows - 1) + of_seeds**2 / (seeds - 1))
    quantiles = [student_quantile(p, max(1.0, freedom)) for p in ((1 + CONFIDENCE) / 2, power)]
    return sum(quantiles) * math.sqrt(variance)


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of the share `successes / n`: (low, high), both in 0..1; n is 1 or more."""
    share, z = successes / n, NORMAL_QUANTILE
    scale = 1 + z**2 / n
    centre = (share + z**2 / (2 * n)) / scale
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / scale
    return max(0.0, centre - half) if successes else 0.0, min(1.0, centre + half) if successes < n else 1.0


def _student_cdf(t: float, freedom: int) -> float:
    """P(T <= t) for t >= 0: the finite series of Abramowitz and Stegun 26.7.3 and 26.7.4, for whole `freedom`."""
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

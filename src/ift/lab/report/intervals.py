"""95 % intervals: of means over seeds (Student's t), of differences paired by seed, of shares (Wilson)."""

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
    """A mean over n values with half the width of its 95 % interval (None for a single value), in their unit."""

    mean: float
    half: float | None
    n: int


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
def student_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t with whole degrees of freedom, to about 12 digits, by bisection.

    Raises:
        ValueError: For a probability outside (0, 1), or fewer than 1 degree of freedom.
    """
    if not 0 < probability < 1 or freedom < 1:
        raise ValueError(f"need 0 < probability < 1 and freedom >= 1, got {probability} and {freedom}")
    if probability < 0.5:
        return -student_quantile(1 - probability, freedom)
    low, high = 0.0, 1.0
    while _student_cdf(high, freedom) < probability:
        low, high = high, 2 * high
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if _student_cdf(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def mean_interval(values: Sequence[float], *, normal: bool = False) -> Estimate:
    """Mean with its 95 % interval: mean +- t(n - 1) s / sqrt(n), of Student's t, or the normal quantile if `normal`.

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
    quantile = NORMAL_QUANTILE if normal else student_quantile((1 + CONFIDENCE) / 2, n - 1)
    return Estimate(mean, quantile * stdev(values) / math.sqrt(n), n)


def paired_difference(first: Mapping[int, float], second: Mapping[int, float]) -> Estimate | None:
    """Mean of `first` - `second` (values by seed) over common seeds, with its 95 % interval; None without any."""
    common = sorted(first.keys() & second.keys())
    return mean_interval([first[seed] - second[seed] for seed in common]) if common else None


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

"""95 % intervals: of means over seeds (Student's t), of differences paired by seed, of shares (Wilson)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

CONFIDENCE = 0.95
NORMAL_QUANTILE = 1.959963984540054  # of the normal distribution, two-sided


@dataclass(frozen=True)
class Estimate:
    """A mean with half the width of its 95 % interval.

    Attributes:
        mean: In the unit of the values.
        half: Half the width, 0 or more; None for a single value, which has no interval.
        n: Values.
    """

    mean: float
    half: float | None
    n: int


@cache
def student_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t distribution, by bisection on its distribution function.

    Args:
        probability: In (0, 1), both ends excluded.
        freedom: Degrees of freedom, 1 or more.

    Returns:
        The t with P(T <= t) = `probability`, to about 12 digits.

    Raises:
        ValueError: Outside these ranges.
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
    """Mean with its 95 % interval: mean +- t(n - 1) s / sqrt(n), of Student's t.

    Args:
        values: One per seed, at least one.
        normal: Take the normal quantile in place of Student's: for values of many problems.

    Returns:
        The estimate. The interval does not know the range of the values: that of a share may reach beyond 1.

    Raises:
        ValueError: If there is no value.
    """
    n = len(values)
    if not n:
        raise ValueError("there are no values to average")
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, None, 1)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    quantile = NORMAL_QUANTILE if normal else student_quantile((1 + CONFIDENCE) / 2, n - 1)
    return Estimate(mean, quantile * deviation / math.sqrt(n), n)


def paired_difference(first: Mapping[int, float], second: Mapping[int, float]) -> Estimate | None:
    """Mean of `first` - `second` over the seeds that both have, with its 95 % interval.

    Args:
        first: Values by seed.
        second: Values by seed.

    Returns:
        The estimate; None where no seed is common.
    """
    common = sorted(first.keys() & second.keys())
    return mean_interval([first[seed] - second[seed] for seed in common]) if common else None


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of a share.

    Args:
        successes: In 0..n.
        n: Trials, 1 or more.

    Returns:
        (low, high), both in 0..1.
    """
    share = successes / n
    scale = 1 + NORMAL_QUANTILE**2 / n
    centre = (share + NORMAL_QUANTILE**2 / (2 * n)) / scale
    half_width = (
        NORMAL_QUANTILE * math.sqrt(share * (1 - share) / n + NORMAL_QUANTILE**2 / (4 * n**2)) / scale
    )
    low = max(0.0, centre - half_width) if successes else 0.0
    high = min(1.0, centre + half_width) if successes < n else 1.0
    return low, high


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

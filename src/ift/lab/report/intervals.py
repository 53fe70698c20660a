"""Means over seeds with Student's 95 % interval, and differences paired by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

CONFIDENCE = 0.95


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


def mean_interval(values: Sequence[float]) -> Estimate:
    """Mean over seeds, with the 95 % interval of Student's t: mean +- t(n - 1) s / sqrt(n).

    Args:
        values: One per seed, at least one.

    Returns:
        The estimate. The interval knows nothing of the range of the values: of a share it may reach beyond 1.

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
    half = student_quantile((1 + CONFIDENCE) / 2, n - 1) * deviation / math.sqrt(n)
    return Estimate(mean, half, n)


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


def _student_cdf(t: float, freedom: int) -> float:
    """P(T <= t) for t >= 0: 1 - I_x(freedom / 2, 1 / 2) / 2 with x = freedom / (freedom + t^2)."""
    return 1 - _incomplete_beta(freedom / (freedom + t * t), freedom / 2, 0.5) / 2


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), DLMF 8.17; x in [0, 1]."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly, its mirror image converges fast
        return 1 - _incomplete_beta(1 - x, b, a)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(front) / a / _beta_fraction(x, a, b)


def _beta_fraction(x: float, a: float, b: float, tiny: float = 1e-300) -> float:
    """1 + d1/(1 + d2/(1 + ...)), the continued fraction of DLMF 8.17.22, from the left (Lentz's method)."""
    value = numerator = 1.0
    denominator = 0.0
    for step in range(1, 10_000):
        m = step // 2
        if step % 2:
            d = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            d = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        numerator = 1 + d / numerator or tiny
        denominator = 1 / (1 + d * denominator or tiny)
        value *= numerator * denominator
        if abs(numerator * denominator - 1) < 1e-16:
            break
    return value

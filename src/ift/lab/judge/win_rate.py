"""Win rates from judged pairs: plain and length-controlled, each with an interval."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ift.lab.report.intervals import Interval, percentile_interval

RESAMPLES = 2000
RIDGE = 1e-3  # keeps the fit finite where one side wins all


@dataclass(frozen=True)
class WinRate:
    """How often the first side wins."""

    n: int  # pairs with a verdict in both orders; `missing` counts the others, which are left out
    missing: int
    rate: Interval  # mean of the points, a tie half a point
    length_controlled: Interval  # the rate for answers of equal length; see `length_controlled`
    wins: int  # pairs won in both orders, or won in one and tied in the other; `ties`: with equal points
    ties: int
    losses: int
    consistent: float  # share of the pairs with the same verdict in both orders
    # share of points that went to the answer shown first; 1/2 where the order does not matter
    first_place: float


def win_rate(
    there: Sequence[float | None], back: Sequence[float | None], lengths: Sequence[tuple[int, int]]
) -> WinRate | None:
    """The win rate of the first side; None where no pair has both verdicts.

    `there` and `back` are its points per pair, in {0, 1/2, 1} (None: no verdict), where its answer was shown first and
    second; `lengths` those of both answers, in characters.
    """
    rows = zip(there, back, lengths, strict=True)
    kept = [(a, b, size) for a, b, size in rows if a is not None and b is not None]
    if not kept:
        return None
    first, second = np.array([a for a, _, _ in kept]), np.array([b for _, b, _ in kept])
    points = (first + second) / 2  # (n,)
    gaps = np.array([a - b for _, _, (a, b) in kept], dtype=float)
    return WinRate(
        n=len(kept),
        missing=len(there) - len(kept),
        rate=_share(points),
        length_controlled=_share(points, gaps),
        wins=int((points > 0.5).sum()),
        ties=int((points == 0.5).sum()),
        losses=int((points < 0.5).sum()),
        consistent=float((first == second).mean()),
        first_place=float((first.mean() + 1 - second.mean()) / 2),
    )


def length_controlled(points: np.ndarray, gaps: np.ndarray) -> float:
    """The win rate that a logistic model predicts for answers of equal length.

    P(win) = s(a + b tanh(gap / sd)), with s the logistic function and sd the standard deviation of the gaps, fitted to
    the points by maximum likelihood (ridge 1e-3); the rate is s(a). It is the model of length-controlled AlpacaEval
    (arXiv:2404.04475) without its term for the difficulty of an instruction, which needs many models' verdicts.

    Points are those of the first side per pair, in [0, 1], (n,); gaps the length of its answer less that of the other,
    (n,).
    """
    return float(_rates_at_equal_length(points, gaps, np.ones((1, len(points))))[0])


def _rates_at_equal_length(points: np.ndarray, gaps: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """s(a) of the fits of `length_controlled` to R resamples, (R,).

    Points and gaps are (n,); the gaps' standard deviation is that of the sample in every resample. `counts` (R, n) says
    how often each pair is drawn.
    """
    spread = gaps.std()
    feature = np.tanh(gaps / spread) if spread else np.zeros(len(gaps))  # (n,)
    a, b = np.zeros(len(counts)), np.zeros(len(counts))  # (R,)
    for _ in range(50):  # Newton's method
        predicted = 1 / (1 + np.exp(-(a[:, None] + b[:, None] * feature)))  # (R, n)
        residual, curvature = counts * (points - predicted), counts * predicted * (1 - predicted)
        gradient_a, gradient_b = residual.sum(1) - RIDGE * a, residual @ feature - RIDGE * b
        aa, ab, bb = curvature.sum(1) + RIDGE, curvature @ feature, curvature @ feature**2 + RIDGE
        step_a = (bb * gradient_a - ab * gradient_b) / (aa * bb - ab**2)
        step_b = (aa * gradient_b - ab * gradient_a) / (aa * bb - ab**2)
        a, b = a + np.clip(step_a, -2, 2), b + np.clip(step_b, -2, 2)
        if max(np.abs(step_a).max(), np.abs(step_b).max()) < 1e-6:
            break
    return 1 / (1 + np.exp(-a))


def mean_share(values: Sequence[float]) -> Interval:
    """The mean of values, with its bootstrap interval; of grades too."""
    return _share(np.array(values))


def _share(values: np.ndarray, gaps: np.ndarray | None = None) -> Interval:
    """The mean with its interval over prompts (seed 0); with gaps, the rate at equal length."""
    n = len(values)
    counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)  # (R, n)
    if gaps is None:
        return percentile_interval(values.mean(), counts @ values / n)
    return percentile_interval(length_controlled(values, gaps), _rates_at_equal_length(values, gaps, counts))

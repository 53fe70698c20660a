"""Win rates by hand, and the length-controlled one against a world where it is known."""

import numpy as np
import pytest

from ift.lab.judge.win_rate import length_controlled, mean_share, win_rate


def test_points_of_both_orders_by_hand():
    """Won twice 1; won and tied 3/4; won and lost 1/2; lost twice 0; the fifth lacks an order. Mean 2.25 / 4."""
    there, back = [1, 1, 1, 0, 1], [1, 0.5, 0, 0, None]
    found = win_rate(there, back, [(1, 1)] * 5)
    assert found.rate.value == pytest.approx(2.25 / 4)
    assert (found.n, found.missing, found.wins, found.ties, found.losses) == (4, 1, 2, 1, 1)
    assert found.consistent == 0.5  # the first and the fourth
    assert found.first_place == pytest.approx(
        (3 / 4 + 1 - 1.5 / 4) / 2
    )  # shown first 3 of 4; the other side 2.5 of 4
    assert win_rate([None], [1], [(1, 1)]) is None


def test_the_interval_is_the_normal_one_where_that_holds():
    points = np.random.default_rng(0).integers(0, 2, 500).astype(float)
    found = win_rate(points, points, [(1, 1)] * 500).rate
    half = 1.96 * points.std() / 500**0.5
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=0.006)


def test_length_control_finds_the_rate_without_the_lengths_part():
    """Wins drawn from s(0.4 + 1.5 tanh(gap / sd)), the first side longer in most pairs: the truth is s(0.4) = 0.599."""
    random = np.random.default_rng(0)
    gaps = random.normal(300, 400, 20_000)
    chance = 1 / (1 + np.exp(-(0.4 + 1.5 * np.tanh(gaps / gaps.std()))))
    points = (random.random(20_000) < chance).astype(float)
    assert points.mean() > 0.7
    assert length_controlled(points, gaps) == pytest.approx(1 / (1 + np.exp(-0.4)), abs=0.015)


@pytest.mark.parametrize(
    ("seed", "a", "b", "longer", "published"),
    [
        (0, 0.4, 1.5, 300, 58.44102808200048),
        (1, -1.0, 0.8, 500, 27.375787428102438),
        (2, -2, 1, -200, 12.915766760552927),
    ],
)
def test_length_control_is_that_of_alpaca_eval_without_difficulty(seed, a, b, longer, published):
    """alpaca-eval 0.6.6, `length_controlled_minimal`, on the same 805 verdicts; it regularises a little otherwise."""
    random = np.random.default_rng(seed)
    gaps = random.normal(longer, 600, 805).astype(int)
    chance = 1 / (1 + np.exp(-(a + b * np.tanh(gaps / gaps.std()))))
    points = np.clip(random.beta(chance * 2 + 0.01, (1 - chance) * 2 + 0.01), 0.001, 0.999)
    assert 100 * length_controlled(points, gaps.astype(float)) == pytest.approx(published, abs=0.02)


def test_length_control_changes_nothing_where_lengths_say_nothing():
    points = np.array([1.0, 0, 1, 0.5, 1, 0] * 50)
    assert length_controlled(points, np.zeros(300)) == pytest.approx(points.mean(), abs=1e-3)
    assert length_controlled(points, np.tile([1.0, 1, -1, -1, 1, 1], 50)) == pytest.approx(0.57, abs=0.2)


def test_one_side_that_wins_all_has_a_finite_rate():
    found = win_rate([1.0] * 20, [1.0] * 20, [(number, 5) for number in range(20)])
    assert found.rate.value == found.rate.low == found.rate.high == 1
    assert 0.9 < found.length_controlled.value < 1


def test_means_of_grades():
    found = mean_share([5.0, 7.0])
    assert (found.value, found.low, found.high) == (6, 5, 7)

"""Student's quantiles against closed forms and printed tables; intervals against values worked by hand."""

import math

import pytest

from ift.lab.report import mean_interval, paired_difference
from ift.lab.report.intervals import student_quantile


@pytest.mark.parametrize("probability", [0.6, 0.9, 0.975, 0.9995])
def test_quantiles_with_a_closed_form(probability):
    """One degree of freedom is Cauchy's: tan(pi (p - 1/2)). Two: (2p - 1) sqrt(2 / (4 p (1 - p)))."""
    assert student_quantile(probability, 1) == pytest.approx(
        math.tan(math.pi * (probability - 0.5)), rel=1e-9
    )
    two = (2 * probability - 1) * math.sqrt(2 / (4 * probability * (1 - probability)))
    assert student_quantile(probability, 2) == pytest.approx(two, rel=1e-9)
    assert student_quantile(1 - probability, 2) == pytest.approx(-two, rel=1e-9)


@pytest.mark.parametrize(
    ("freedom", "printed"), [(3, 3.182), (4, 2.776), (9, 2.262), (29, 2.045), (120, 1.980), (100_000, 1.960)]
)
def test_quantiles_of_the_printed_tables(freedom, printed):
    assert student_quantile(0.975, freedom) == pytest.approx(printed, abs=5e-4)


def test_half_is_zero_and_ends_are_refused():
    assert student_quantile(0.5, 5) == pytest.approx(0, abs=1e-12)
    for probability, freedom in ((0, 3), (1, 3), (0.5, 0)):
        with pytest.raises(ValueError, match="need 0 < probability < 1 and freedom >= 1"):
            student_quantile(probability, freedom)


def test_an_interval_by_hand():
    """1, 2, 3, 4, 5: mean 3, s = sqrt(10 / 4) = 1.5811, s / sqrt(5) = 0.70711, t(4) = 2.77645: half 1.96324."""
    found = mean_interval([1, 2, 3, 4, 5])
    assert (found.mean, found.n) == (3, 5)
    assert found.half == pytest.approx(1.96324, abs=1e-5)


def test_one_value_has_no_interval_and_none_is_refused():
    assert mean_interval([0.4]).half is None
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])


def test_a_difference_pairs_by_seed():
    """Gains 1 and 3 at the common seeds 1 and 2: mean 2, s = sqrt(2), half = 12.7062 * sqrt(2) / sqrt(2)."""
    found = paired_difference({2: 8.0, 1: 3.0, 7: 100.0}, {1: 2.0, 2: 5.0, 0: -9.0})
    assert (found.mean, found.n) == (2, 2)
    assert found.half == pytest.approx(12.7062, abs=1e-4)
    assert paired_difference({0: 1.0}, {1: 1.0}) is None

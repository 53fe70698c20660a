"""Student's quantiles against closed forms and printed tables; intervals against values worked by hand."""

import math

import numpy as np
import pytest

from ift.lab.report import mean_interval, paired_difference
from ift.lab.report.intervals import (
    MeanSquares,
    crossed_interval,
    smallest_difference,
    student_quantile,
)


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


def test_between_whole_degrees_of_freedom_quantiles_are_between():
    assert student_quantile(0.975, 2) > student_quantile(0.975, 2.5) > student_quantile(0.975, 3)
    # by R: qt(0.975, 2.5) = 3.5584, qt(0.975, 7.5) = 2.3338
    assert student_quantile(0.975, 2.5) == pytest.approx(3.5584, rel=0.03)
    assert student_quantile(0.975, 7.5) == pytest.approx(2.3338, rel=0.003)


def test_mean_squares_by_hand():
    """Rows (0, 2) and (4, 10): mean 4, seeds 1 and 7, rows 2 and 6, rest -+1: A = 2 * 18, B = 2 * 8, E = 4."""
    found = MeanSquares.of([[0, 2], [4, 10]])
    assert (found.seeds, found.rows, found.rest, found.counts) == (36, 16, 4, (2, 2))
    freedom = 48**2 / (36**2 + 16**2 + 4**2)
    assert found.half() == pytest.approx(student_quantile(0.975, freedom) * math.sqrt(48 / 4))
    # with 4 seeds: B = 4 + 12 * 2, A and E as they were
    more = MeanSquares(36, 28, 4, (4, 2))
    assert found.half_with(4) == pytest.approx(more.half())
    assert found.half(0.99) > found.half()


def test_values_that_are_all_the_same_leave_what_so_few_rows_may_hide():
    found = crossed_interval([[0.0] * 60] * 3, share=True)
    assert (found.mean, found.half, found.n, found.rows) == (0, 3 / 60, 3, 60)


def test_scores_that_are_no_shares_have_no_interval_where_all_are_the_same():
    """3 / N is no bound for BLEU or tokens. Red when: one is made up."""
    found = crossed_interval([[17.0] * 60] * 3, share=False)
    assert (found.mean, found.half, found.n, found.rows) == (17, None, 3, 60)


def test_one_seed_or_one_row_is_no_crossed_sample():
    assert crossed_interval([[1.0, 2.0]], share=True).half is None
    assert crossed_interval([[1.0], [3.0]], share=True) == mean_interval([1, 3])


def drawn(kind, seeds, rows, generator):
    """Differences (seeds, rows) with mean 0 in truth.

    Binary ones are those of two methods' right answers: each row has its difficulty, and a method and a row, or a
    method and a seed, go well or badly together.
    """
    normal = generator.normal
    if kind == "numbers, seeds":
        return normal(0, 0.3, (seeds, 1)) + normal(0, 0.1, rows) + normal(0, 0.3, (seeds, rows))
    if kind == "numbers, rows":
        return normal(0, 0.5, rows) + normal(0, 0.3, (seeds, rows))
    if kind == "numbers, neither":
        return normal(0, 0.5, (seeds, rows))
    of_rows, of_seeds = {"binary, rows": (1.5, 0.05), "binary, seeds": (0.0, 0.5)}[kind]
    difficulty, right = normal(0.5, 2, rows), []
    for _ in range(2):
        logit = difficulty + normal(0, of_rows, rows) + normal(0, of_seeds, (seeds, 1))
        right.append(generator.random((seeds, rows)) < 1 / (1 + np.exp(-logit)))
    return right[0].astype(float) - right[1]


KINDS = ("numbers, seeds", "numbers, rows", "binary, seeds", "binary, rows")


def coverage(kind, seeds, rows, studies):
    generator = np.random.default_rng(11)
    found = [
        crossed_interval(drawn(kind, seeds, rows, generator).tolist(), share=True) for _ in range(studies)
    ]
    return sum(abs(one.mean) <= one.half for one in found) / studies


CORNERS = [("numbers, rows", 3, 50), ("binary, seeds", 5, 500)]  # of the grid below


@pytest.mark.parametrize(("kind", "seeds", "rows"), [*((kind, 3, 100) for kind in KINDS), *CORNERS])
def test_the_interval_covers(kind, seeds, rows):
    """Of 1,000 made-up studies; the error of a share near 95 % is 0.7 %."""
    assert 0.93 < coverage(kind, seeds, rows, 1000) < 0.97


@pytest.mark.slow
@pytest.mark.parametrize("rows", [50, 150, 500])
@pytest.mark.parametrize("seeds", [3, 4, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_the_interval_covers_93_to_97_percent(kind, seeds, rows):
    """Of 4,000 made-up studies; the error of a share near 95 % is 0.34 %."""
    assert 0.93 < coverage(kind, seeds, rows, 4000) < 0.97


def test_where_nothing_but_noise_differs_the_interval_is_wide():
    assert 0.95 < coverage("numbers, neither", 3, 100, 1000) < 0.99


def test_an_interval_over_seeds_alone_misses_what_rows_do():
    """What is wrong with Student's t over seeds for other rows: it covers less than 8 of 10 times."""
    generator, covered = np.random.default_rng(7), 0
    for _ in range(500):
        found = mean_interval(drawn("numbers, rows", 3, 100, generator).mean(1).tolist())
        covered += abs(found.mean) <= found.half
    assert covered < 0.8 * 500


def test_the_smallest_difference_by_hand_and_by_simulation():
    """Rows alone, many: (1.96 + 0.84) * 0.5 / sqrt(400); found in 4 of 5 studies."""
    assert smallest_difference(3, 400, 0.5, 0.0) == pytest.approx(2.8016 * 0.5 / 20, rel=0.01)
    assert smallest_difference(5, 400, 0.5, 0.01) > smallest_difference(5, 400, 0.5, 0.0)
    generator, found = np.random.default_rng(3), 0
    for _ in range(500):
        apart = smallest_difference(3, 400, 0.5, 0.0) + generator.normal(0, 0.5, 400)
        one = crossed_interval([apart.tolist()] * 3, share=True)
        found += one.mean > one.half
    assert 0.75 < found / 500 < 0.85

"""Rows chosen by a seed: the same ones each time, numbered from 1; of a stream the first ones."""

from datasets import Dataset

from ift.data.samples import sample_rows

ROWS = Dataset.from_list([{"x": n} for n in range(10)])


def test_a_seed_chooses_rows_and_their_numbers_are_right():
    found = [*sample_rows(ROWS, 4, seed=1)]
    assert len({number for number, _ in found}) == 4
    assert all(row["x"] == number - 1 for number, row in found)
    assert found == [*sample_rows(ROWS, 4, seed=1)]
    assert any(found != [*sample_rows(ROWS, 4, seed=seed)] for seed in range(2, 6))
    assert sorted(number for number, _ in sample_rows(ROWS, 99, seed=1)) == [*range(1, 11)]


def test_the_first_rows_of_a_stream():
    stream = ROWS.to_iterable_dataset()
    assert [*sample_rows(stream, 3, seed=1)] == [(1, {"x": 0}), (2, {"x": 1}), (3, {"x": 2})]

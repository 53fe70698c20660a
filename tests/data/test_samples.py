"""Rows chosen by a seed: the same ones each time, numbered from 1; of a stream the first ones. Keys of rows."""

from datasets import Dataset

from ift.data.samples import ids_and_labels, row_key, sample_rows

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


def pair(chosen, rejected):
    sides = {"chosen": chosen, "rejected": rejected}
    return {f"{side}_{kind}": ids for side, ids in sides.items() for kind in ("input_ids", "labels")}


def test_the_key_of_a_pair_covers_both_sides():
    """The last two have the same ids in the same order, divided at another place."""
    pairs = [pair([5, 6], [5, 7]), pair([5, 6], [5, 8]), pair([5, 7], [5, 6]), pair([5, 6, 5], [7])]
    for labels in (False, True):
        assert len({row_key(one, labels=labels) for one in pairs}) == 4
    assert row_key(pairs[0]) == row_key(pair([5, 6], [5, 7]))
    assert ids_and_labels(pairs[0]) == ([5, 6], [5, 6])


def test_labels_count_where_they_are_asked_for():
    rows = [{"input_ids": [5, 6], "labels": labels} for labels in ([5, 6], [-100, 6])]
    assert row_key(rows[0]) == row_key(rows[1])
    assert row_key(rows[0], labels=True) != row_key(rows[1], labels=True)

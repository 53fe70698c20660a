"""Prepared rows know the file that they are from and their number in it."""

from dataclasses import replace
from datetime import date

import pytest
from datasets import Dataset
from small_files import arguments, write
from small_templates import CHATML
from small_tokenizers import small_tokenizer

from ift.data import Part, load_train_and_eval, prepare_mixture
from ift.data.pairs import prepare_pairs


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def talk(number, answer="Yes."):
    return {"messages": [{"role": "user", "content": f"{number}?"}, {"role": "assistant", "content": answer}]}


def prepared(path, split="train"):
    data = load_train_and_eval(*arguments(str(path), train=split))
    return prepare_mixture(data.train, small_tokenizer(CHATML))


def test_a_whole_file_is_not_read_again(tmp_path):
    """Row 2 has no answer and is dropped. Red when: a large file is read a second time for the sake of numbers."""
    file = tmp_path / "rows.jsonl"
    write(file, [talk(1), talk(2, ""), talk(3), talk(4)])
    rows = prepared(file)
    file.unlink()
    assert rows.places([1, 2, 3]) == [{"file": "rows.jsonl", "file_row": number} for number in (1, 3, 4)]


def test_rows_of_several_files_and_of_a_part_have_their_number_in_the_file(tmp_path):
    (tmp_path / "two").mkdir()
    for name in ("a", "b"):
        write(tmp_path / "two" / f"{name}.jsonl", [talk(number) for number in range(3)])
    assert prepared(tmp_path / "two").places([2, 5]) == [
        {"file": "a.jsonl", "file_row": 2}, {"file": "b.jsonl", "file_row": 2},
    ]  # fmt: skip
    half = prepared(tmp_path / "two" / "b.jsonl", "train[2:]")
    assert half.places([1]) == [{"file": "b.jsonl", "file_row": 3}]


def test_rows_keep_the_columns_that_they_were_loaded_with(tmp_path):
    """Row 2 is dropped; of rows held out, of a mixture, of pairs and of a stream, each has its own columns."""
    file = tmp_path / "rows.jsonl"
    write(file, [{**talk(n, "" if n == 2 else "Yes."), "gold": [n], "day": None} for n in range(1, 9)])
    rows = prepared(file)
    assert [one["gold"] for one in rows.columns([7, 1, 2])] == [[8], [1], [3]]
    assert rows.columns([2])[0]["messages"][0] == {"role": "user", "content": "3?"}
    (part,) = load_train_and_eval(*arguments(str(file))).train
    held_out = replace(part, rows=part.rows.select([1, 3, 6]), numbers=(2, 4, 7))
    mixed = prepare_mixture([part, held_out], small_tokenizer(CHATML))
    assert [one["gold"] for one in mixed.columns([7, 8, 9])] == [[8], [4], [7]]
    stream = prepare_mixture([replace(part, rows=part.rows.to_iterable_dataset())], small_tokenizer(CHATML))
    assert [one["gold"] for one in stream.columns([3, 2])] == [[4], [3]]


def test_pairs_keep_their_columns_and_a_date_is_text():
    rows = Dataset.from_list(
        [{"prompt": "A?", "chosen": f"{n}", "rejected": "2", "day": date(2026, 1, n)} for n in (1, 2, 3)]
    )
    found = prepare_pairs([Part("train", rows)], small_tokenizer(CHATML))
    assert [one["day"] for one in found.columns([1, 2])] == ["2026-01-01", "2026-01-03"]

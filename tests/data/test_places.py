"""Prepared rows know the file that they are from and their number in it."""

import pytest
from small_files import arguments, write
from small_templates import CHATML
from small_tokenizers import small_tokenizer

from ift.data import load_train_and_eval, prepare_mixture


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

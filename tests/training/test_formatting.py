"""`formatting_func`: the same tokens as trl's where trl uses its text, and a refusal where it does not."""

from __future__ import annotations

import pytest
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from ift import IFTConfig, IFTTrainer
from ift.data import DataError
from models import SETTINGS, tiny_model, tiny_tokenizer

OWN_COLUMNS = [{"question": "w5 w6", "answer": "w7 w8"}, {"question": "w9", "answer": "w10 w11 w12"}]


def as_text(row):
    return f"{row.get('question')} {row.get('answer')}"


def trainer_of(tmp_path, rows, kind=IFTTrainer, config=IFTConfig, stream=False, **options):
    data = Dataset.from_list(rows)
    return kind(
        tiny_model(),
        config(output_dir=str(tmp_path), **{**SETTINGS, **options}),
        train_dataset=data.to_iterable_dataset() if stream else data,
        processing_class=tiny_tokenizer(),
        formatting_func=as_text,
    )


ALPACA = [{"instruction": "w3", "output": "w4", **row} for row in OWN_COLUMNS]
TEXT = [{"text": "w20 w21", **row} for row in OWN_COLUMNS]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("rows", [OWN_COLUMNS, ALPACA, TEXT], ids=["own", "alpaca", "text"])
def test_its_text_is_trained_as_in_trl(tmp_path, rows, stream):
    """Every token of the text and the end-of-sequence token, also where the columns are a format that ift knows."""
    ours = trainer_of(tmp_path, rows, stream=stream)
    theirs = trainer_of(tmp_path, rows, SFTTrainer, SFTConfig, stream=stream)
    for one, other in zip(ours.train_dataset, theirs.train_dataset, strict=True):
        assert list(one["input_ids"]) == list(other["input_ids"])
        assert list(one["labels"]) == list(one["input_ids"])
        assert one["input_ids"][-1] == 2
    assert ours.data_reports["train"].format == "text"


MESSAGES = [{"role": "user", "content": "w5"}, {"role": "assistant", "content": "w6"}]
SHARE = [{"from": "human", "value": "w5"}, {"from": "gpt", "value": "w6"}]
UNUSED_BY_TRL = {
    "messages": ({"messages": MESSAGES}, {}, "a conversation"),
    "sharegpt": ({"conversations": SHARE}, {}, "a conversation"),
    "turns": (
        {"prompt": MESSAGES[:1], "completion": MESSAGES[1:]},
        {"completion_only_loss": False},
        "a conversation",
    ),
    "prompt": ({"prompt": "w5", "completion": "w6"}, {"completion_only_loss": False}, "a prompt"),
}


@pytest.mark.parametrize("case", UNUSED_BY_TRL.values(), ids=UNUSED_BY_TRL)
def test_rows_for_which_trl_does_not_use_its_text_are_refused_with_the_fix(tmp_path, case):
    row, options, found = case
    with pytest.raises(DataError, match=f"train data: formatting_func is given.*have {found}.*Fix: leave"):
        trainer_of(tmp_path, [row], **options)


def test_trl_itself_does_not_use_its_text_for_rows_with_a_prompt(tmp_path):
    """The reason of the refusal above. Red when: a new trl uses it, and the refusal should go."""
    rows = [{"prompt": "w5 ", "completion": "w6"}]
    theirs = trainer_of(tmp_path, rows, SFTTrainer, SFTConfig, completion_only_loss=False)
    assert list(theirs.train_dataset[0]["input_ids"]) == [5, 6]


def test_tokenised_rows_are_used_as_they_are_with_a_warning_as_in_trl(tmp_path, caplog):
    trainer = trainer_of(tmp_path, [{"input_ids": [5, 6, 2], "labels": [-100, 6, 2]}])
    assert list(trainer.train_dataset[0]["labels"]) == [-100, 6, 2]
    assert "train data: the rows have input_ids, so formatting_func is not used" in caplog.text

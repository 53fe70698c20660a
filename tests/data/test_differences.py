"""The numbered differences of labels in docs/differences.md, D21 to D26, against trl's own preparation."""

from types import SimpleNamespace

import pytest
from datasets import Dataset
from small_templates import CHATML, QWEN3, QWEN25
from small_tokenizers import small_tokenizer, trained_text
from trl import SFTTrainer

from ift.data import prepare_dataset

ASK, SAY = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "one"}


def trl_rows(rows, tokenizer, *, completion_only=True, **settings):
    """Rows as `SFTTrainer` prepares them, without a model."""
    asked = {
        "dataset_num_proc": None, "dataset_text_field": "text", "assistant_only_loss": False, "max_length": None,
        "truncation_mode": "keep_start", "shuffle_dataset": False, "seed": 0, **settings,
    }  # fmt: skip
    trainer = SimpleNamespace(_tokenizer=tokenizer, completion_only_loss=completion_only, chat_template=None)
    args = SimpleNamespace(**asked)
    return SFTTrainer._prepare_dataset(
        trainer, Dataset.from_list(rows), tokenizer, args, False, None, "train"
    )


def words(tokenizer, row):
    return trained_text(tokenizer, row["input_ids"], row["labels"])


def test_d21_what_follows_the_end_token_is_not_trained():
    rows, tokenizer = [{"prompt": [ASK], "completion": [SAY]}], small_tokenizer(CHATML)
    ours, theirs = (
        prepare_dataset(Dataset.from_list(rows), tokenizer).dataset[0],
        trl_rows(rows, tokenizer)[0],
    )
    assert ours["input_ids"] == theirs["input_ids"]
    assert words(tokenizer, ours) == ["one<|im_end|>"]
    assert words(tokenizer, theirs) == ["one<|im_end|>\n"]
    assert ours["labels"][:-1] == theirs["labels"][:-1]  # nothing else differs


@pytest.mark.parametrize("text_field", ["text", "body"])
@pytest.mark.parametrize("form", ["text", "prompt-completion"])
def test_labels_of_plain_text_are_trls(form, text_field):
    tokenizer = small_tokenizer(CHATML)
    rows = [{text_field: "two plus two"}] if form == "text" else [{"prompt": "What is", "completion": " two"}]
    theirs = trl_rows(rows, tokenizer, dataset_text_field=text_field, completion_only=form != "text")[0]
    how = {"text_field": text_field} if form == "text" else {}
    ours = prepare_dataset(Dataset.from_list(rows), tokenizer, **how).dataset[0]
    assert (ours["input_ids"], ours["labels"]) == (theirs["input_ids"], theirs["labels"])


def test_d22_the_tokenizers_own_template_is_rendered():
    rows, tokenizer = [{"messages": [ASK, SAY, ASK, SAY]}], small_tokenizer(QWEN3)
    ours = prepare_dataset(Dataset.from_list(rows), tokenizer).dataset[0]
    whole = tokenizer.apply_chat_template(rows[0]["messages"], return_dict=True)["input_ids"]
    assert ours["input_ids"] == whole
    assert words(tokenizer, ours)[0] == "one<|im_end|>"  # no thought block in the first answer


def test_d23_what_the_generation_prompt_holds_is_not_trained():
    rows = [{"prompt": [ASK], "completion": [SAY], "chat_template_kwargs": {"enable_thinking": False}}]
    tokenizer = small_tokenizer(QWEN3)
    ours = prepare_dataset(Dataset.from_list(rows), tokenizer).dataset[0]
    assert words(tokenizer, ours) == ["one<|im_end|>"]


@pytest.mark.parametrize("max_length", [4, 7, 12])
def test_d24_truncation_cuts_and_drops_where_trl_does(max_length):
    rows = [{"prompt": "What is", "completion": " two plus two"}, {"prompt": "a", "completion": " b"}]
    tokenizer = small_tokenizer()
    done = prepare_dataset(Dataset.from_list(rows), tokenizer, max_length=max_length)
    assert done.dataset.to_list() == [
        {"input_ids": row["input_ids"], "labels": row["labels"]}
        for row in trl_rows(rows, tokenizer, max_length=max_length)
    ]


def test_d25_marks_are_read_and_silence_is_not_trained():
    turns = [ASK, {**SAY, "train": False}, ASK, {**SAY, "content": ""}, ASK, SAY]
    rows, tokenizer = [{"prompt": turns[:1], "completion": turns[1:]}], small_tokenizer(CHATML)
    ours, theirs = (
        prepare_dataset(Dataset.from_list(rows), tokenizer).dataset[0],
        trl_rows(rows, tokenizer)[0],
    )
    assert words(tokenizer, ours) == ["one<|im_end|>"]
    assert "one<|im_end|>\n<|im_start|>user" in words(tokenizer, theirs)[0]


def test_d26_arguments_are_written_as_json_once():
    call = [{"function": {"name": "f", "arguments": '{"a": 1}'}}]
    rows = [{"messages": [ASK, {"role": "assistant", "content": "", "tool_calls": call}]}]
    tokenizer = small_tokenizer(QWEN25)
    ours, theirs = (
        prepare_dataset(Dataset.from_list(rows), tokenizer).dataset[0],
        trl_rows(rows, tokenizer)[0],
    )
    assert '"arguments": {"a": 1}' in words(tokenizer, ours)[0]
    assert '"arguments": "{\\"a\\": 1}"' in tokenizer.decode(theirs["input_ids"])

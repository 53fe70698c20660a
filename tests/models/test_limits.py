"""Ids and positions that a model has no room for are named."""

import pytest
from transformers import AutoTokenizer

from ift.data import DataError
from ift.lab.testbed import tiny_base_path
from ift.models.limits import (
    check_special_ids,
    config_ids,
    explain_ids_outside,
    learned_positions,
    special_ids,
)
from models import config_of, tiny_model


@pytest.mark.parametrize(
    ("family", "positions"),
    [("gpt2", 256), ("opt", 256), ("gptj", 256), ("llama", None), ("bloom", None), ("gpt_neox", None)],
)
def test_learned_positions(family, positions):
    assert learned_positions(tiny_model(family)) == positions


@pytest.mark.parametrize("kind", ["pad_token", "bos_token", "eos_token"])
def test_a_special_token_without_a_row_is_named(kind):
    tokenizer = AutoTokenizer.from_pretrained(tiny_base_path())
    size = len(tokenizer)
    assert explain_ids_outside(special_ids(tokenizer), size) == ""
    tokenizer.add_special_tokens({kind: "[NEW]"})
    said = explain_ids_outside(special_ids(tokenizer), size)
    assert f"{kind} '[NEW]' has the id {size}, and the model embeds the ids 0 to {size - 1}" in said


def test_the_token_that_ends_a_turn_counts():
    tokenizer = AutoTokenizer.from_pretrained(tiny_base_path())
    size = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    tokenizer.chat_template = "{% for m in messages %}{{ m.content + '<|im_end|>' }}{% endfor %}"
    assert "end of a turn '<|im_end|>'" in explain_ids_outside(special_ids(tokenizer), size)


def test_where_nothing_is_trained_the_padding_token_may_lack_a_row():
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_base_path()), tiny_model(vocab_size=521)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    check_special_ids("model", tokenizer, model, padding=False)
    with pytest.raises(DataError, match=r"^model: pad_token '\[PAD\]' has the id 521"):
        check_special_ids("model", tokenizer, model)


def test_ids_of_the_configuration_count():
    config = config_of("llama", eos_token_id=[2, 200])
    assert "eos_token_id 200 of its config.json" in explain_ids_outside(config_ids(config), config.vocab_size)

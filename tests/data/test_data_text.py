"""Rows without a chat template, and the template for tokenizers that have none."""

import pytest
from small_rows import canonical
from small_tokenizers import small_tokenizer, trained_text

from ift.data import DataError, RowTokenizer, end_of_turn_ids, ensure_chat_template

CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "one"},
    {"role": "user", "content": "More"},
    {"role": "assistant", "content": "two words"},
]


@pytest.mark.parametrize("adds_bos", [False, True])
def test_prompt_and_completion(adds_bos):
    tokenizer = small_tokenizer(adds_bos=adds_bos)
    done = RowTokenizer(tokenizer)({"prompt": "What is two", "completion": " plus two?"}, 1)
    assert done.input_ids == tokenizer("What is two plus two?</s>")["input_ids"]
    assert trained_text(tokenizer, done.input_ids, done.labels) == [" plus two?</s>"]
    assert done.ends
    assert done.merged == 0


def test_an_end_that_is_there_already_is_not_written_twice():
    tokenizer = small_tokenizer()
    tokenise = RowTokenizer(tokenizer)
    assert tokenise({"prompt": "a", "completion": " b</s>"}, 1) == tokenise(
        {"prompt": "a", "completion": " b"}, 1
    )
    assert tokenise({"text": "a b</s>"}, 1) == tokenise({"text": "a b"}, 1)


def test_a_beginning_that_is_there_already_is_not_written_twice():
    tokenise = RowTokenizer(small_tokenizer(adds_bos=True))
    assert tokenise({"text": "<s>a b"}, 1) == tokenise({"text": "a b"}, 1)
    assert tokenise({"text": "a b"}, 1).input_ids[:2] != [0, 0]


def test_a_tokenizer_that_ends_every_text_by_itself():
    from tokenizers import processors

    tokenizer = small_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    done = RowTokenizer(tokenizer)({"prompt": "What is two", "completion": " plus two?"}, 1)
    assert done.input_ids.count(tokenizer.eos_token_id) == 1
    assert done.merged == 0
    assert trained_text(tokenizer, done.input_ids, done.labels) == [" plus two?</s>"]


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("start", ["", "<s>"])
def test_nothing_of_a_prompt_that_is_cut_differently_before_its_completion_is_trained(adds_bos, start):
    """GPT-2's splitting makes one token of two line breaks at the end, and two with words behind them."""
    tokenizer = small_tokenizer(regex="gpt2", adds_bos=adds_bos)
    prompt = f"{start}Assistant:\n\n"
    done = RowTokenizer(tokenizer)({"prompt": prompt, "completion": "good morning"}, 1)
    assert done.merged == 1
    assert trained_text(tokenizer, done.input_ids, done.labels) == ["good morning</s>"]
    assert done.input_ids.count(0) == bool(adds_bos or start)


def test_a_prompt_that_merges_into_its_completion_is_counted():
    tokenizer = small_tokenizer()
    done = RowTokenizer(tokenizer)({"prompt": "the ques", "completion": "tion"}, 1)
    assert done.merged == 1
    assert trained_text(tokenizer, done.input_ids, done.labels)[0].endswith("tion</s>")


def test_text_trains_every_token():
    done = RowTokenizer(small_tokenizer())({"text": "What is two"}, 1)
    assert done.labels == done.input_ids
    assert done.input_ids[-1] == 1


def test_all_trains_the_prompt_too():
    done = RowTokenizer(small_tokenizer(), "all")({"prompt": "What", "completion": " is"}, 1)
    assert done.labels == done.input_ids


def test_tokenised_rows_are_taken_as_they_are():
    tokenise = RowTokenizer(small_tokenizer())
    done = tokenise({"input_ids": [5, 6, 1], "labels": [-100, 6, 1]}, 1)
    assert (done.input_ids, done.labels, done.ends) == ([5, 6, 1], [-100, 6, 1], True)
    assert not tokenise({"input_ids": [5, 6], "labels": [-100, 6]}, 1).ends


@pytest.mark.parametrize("adds_bos", [False, True])
def test_the_default_template(adds_bos):
    tokenizer = small_tokenizer(adds_bos=adds_bos)
    size = len(tokenizer)
    assert ensure_chat_template(tokenizer)
    assert not ensure_chat_template(tokenizer)
    assert len(tokenizer) == size
    text = tokenizer.apply_chat_template(CHAT, tokenize=False)
    begin = "<s>" if adds_bos else ""
    assert (
        text == f"{begin}Be kind.\n\nUser: Hi\n\nAssistant: one</s>\n\nUser: More\n\nAssistant: two words</s>"
    )
    asked = tokenizer.apply_chat_template(CHAT[:2], tokenize=False, add_generation_prompt=True)
    assert asked == f"{begin}Be kind.\n\nUser: Hi\n\nAssistant:"
    done = RowTokenizer(tokenizer)(canonical({"messages": CHAT}, 1), 1)
    assert trained_text(tokenizer, done.input_ids, done.labels) == [" one</s>", " two words</s>"]
    assert done.ends
    assert done.merged == 0
    assert done.input_ids.count(0) == int(adds_bos)
    assert end_of_turn_ids(tokenizer) == {tokenizer.eos_token_id}


def test_the_default_template_is_saved_with_the_tokenizer(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = small_tokenizer()
    ensure_chat_template(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.apply_chat_template(CHAT, tokenize=False) == tokenizer.apply_chat_template(
        CHAT, tokenize=False
    )


def test_the_default_template_refuses_tools_and_needs_an_end():
    tokenizer = small_tokenizer()
    ensure_chat_template(tokenizer)
    tool = canonical({"messages": [*CHAT, {"role": "tool", "content": "3"}]}, 7)
    with pytest.raises(DataError, match=r"row 7: .*no form for the role tool"):
        RowTokenizer(tokenizer)(tool, 7)
    with pytest.raises(DataError, match=r"no form for tools"):
        RowTokenizer(tokenizer)(canonical({"messages": CHAT, "tools": '[{"name": "f"}]'}, 1), 1)
    with pytest.raises(DataError, match="end-of-sequence"):
        ensure_chat_template(small_tokenizer(eos=None))

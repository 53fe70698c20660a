"""The tokenizer: every text comes back, digits stand alone, and renderings of prefixes are prefixes."""

import pytest
from transformers import AutoTokenizer

from base_tokenizer import build_tokenizer
from corpus import CORPUS_STEPS, noisy_lookups, noisy_problems
from ift.lab.testbed import problems, tiny_base_path
from ift.lab.testbed.lookup import draw_lookups
from make_base import tokenizer_problems

CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Tom has 3 pens."},
    {"role": "assistant", "content": "3-1=2 pens\n#### 2"},
    {"role": "user", "content": "And then?"},
    {"role": "assistant", "content": "#### 2"},
]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(tiny_base_path())


def ids_of(tokenizer, messages, **options):
    return tokenizer.apply_chat_template(messages, return_dict=True, **options)["input_ids"]


def test_shipped_tokenizer_is_the_built_one(tokenizer):
    built = build_tokenizer(tokenizer_problems())
    assert built.get_vocab() == tokenizer.get_vocab()
    assert built.chat_template == tokenizer.chat_template


def test_generated_texts_come_back_and_need_no_fallback(tokenizer):
    made = [
        *problems("train", 1000, 1),
        *problems("test", 300),
        *problems("longer", 300),
        *noisy_problems(500),
        *draw_lookups("words", 1000, CORPUS_STEPS, "train"),
        *noisy_lookups(500),
    ]
    vocabulary = tokenizer.get_vocab()
    letters = {vocabulary[letter] for letter in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"}
    for text in (message["content"] for problem in made for message in problem.messages):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        # "A bus", "A friend": the article is the only word of one letter at the start of a text
        assert letters.intersection(ids) <= {vocabulary["A"]}
        assert tokenizer.unk_token_id not in ids


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  two  spaces ",
        "tab\tand\r\nlines\n\n",
        "Grüße, 世界 😀",
        "<0x41> <|nothing|> ###",
        "Tomapples12.5%",
        "\x00\x7f",
    ],
)
def test_any_text_comes_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.unk_token_id not in ids


def test_every_digit_is_its_own_token(tokenizer):
    assert tokenizer.tokenize("12+345=99") == ["1", "2", "+", "3", "4", "5", "=", "9", "9"]


def test_rows_are_short(tokenizer):
    assert max(len(ids_of(tokenizer, p.messages)) for p in problems("train", 1000)) <= 128
    assert max(len(ids_of(tokenizer, p.messages)) for p in problems("longer", 500)) <= 160


def test_special_tokens(tokenizer):
    specials = {tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}
    assert None not in specials
    assert len(specials) == 3
    assert tokenizer.bos_token is None
    assert tokenizer.encode("") == []


def test_rendering_of_a_prefix_is_a_prefix(tokenizer):
    whole = ids_of(tokenizer, CONVERSATION)
    for length in range(1, len(CONVERSATION)):
        part = ids_of(tokenizer, CONVERSATION[:length])
        assert whole[: len(part)] == part


@pytest.mark.parametrize("length", [2, 4])
def test_generation_prompt_is_a_prefix_and_eos_ends_the_answer(tokenizer, length):
    prompt = ids_of(tokenizer, CONVERSATION[:length], add_generation_prompt=True)
    answered = ids_of(tokenizer, CONVERSATION[: length + 1])
    assert answered[: len(prompt)] == prompt
    assert tokenizer.decode(answered[len(prompt) : -1]) == CONVERSATION[length]["content"]
    assert answered[-1] == tokenizer.eos_token_id


def test_assistant_mask_covers_the_answers_and_their_end(tokenizer):
    encoded = tokenizer.apply_chat_template(CONVERSATION, return_dict=True, return_assistant_tokens_mask=True)
    pairs = zip(encoded["input_ids"], encoded["assistant_masks"], strict=True)
    marked = tokenizer.decode([token for token, mark in pairs if mark])
    assert marked == "3-1=2 pens\n#### 2<|end|>#### 2<|end|>"


def test_unknown_role_is_refused(tokenizer):
    with pytest.raises(Exception, match="unknown role tool: use system, user or assistant"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "?"}])

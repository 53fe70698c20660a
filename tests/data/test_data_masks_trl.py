"""An independent oracle: the `{% generation %}` marks that trl wrote into its training templates by hand."""

import importlib.util
from pathlib import Path

import pytest
from small_rows import canonical
from small_tokenizers import MARKS, small_tokenizer

from ift.data import DataError, RowTokenizer
from ift.data.spans import common_prefix_length

SHIPPED = Path(importlib.util.find_spec("trl").origin).parent / "chat_templates"
ASKED = [
    {"role": "user", "content": "What is two plus two?"},
    {"role": "assistant", "content": "The answer is four."},
]
CHAT = [
    *ASKED,
    {"role": "user", "content": "And then?"},
    {"role": "assistant", "content": "More words follow."},
]

# Templates whose training variant renders the same conversation to other ids; then there is nothing to compare
TEXT_ONLY = sorted(
    path.stem.removesuffix("_training")
    for path in SHIPPED.glob("*_training.jinja")
    if not any(word in path.stem for word in ("vl", "llava", "idefics", "smolvlm", "diffusion"))
)


def marked(name):
    """A tokenizer that knows every `<...>` mark of the template as one token."""
    import re

    source = (SHIPPED / f"{name}.jinja").read_text(encoding="utf-8")
    found = re.findall(r"<[|｜]?[A-Za-z_▁]+[|｜]?>", source)
    marks = tuple(dict.fromkeys([*MARKS, *(mark for mark in found if mark not in ("<s>", "</s>", "<pad>"))]))
    return small_tokenizer(source, marks=marks)


@pytest.mark.parametrize("messages", [ASKED, CHAT], ids=["one answer", "two answers"])
@pytest.mark.parametrize("name", TEXT_ONLY)
def test_labels_agree_with_trls_marks(name, messages):
    """Ours are trl's without what the generation prompt already holds and without what follows the end of a turn."""
    tokenizer = marked(name)
    training = (SHIPPED / f"{name}_training.jinja").read_text(encoding="utf-8")
    theirs = tokenizer.apply_chat_template(
        messages, chat_template=training, return_assistant_tokens_mask=True, return_dict=True
    )
    done = RowTokenizer(tokenizer)(canonical({"messages": messages}, 1), 1)
    if theirs["input_ids"] != done.input_ids:
        # trl changed what is rendered: both must still train the same words
        words = tokenizer.decode([label for label in done.labels if label != -100])
        assert all(turn["content"] in words for turn in messages if turn["role"] == "assistant")
        assert all(turn["content"] not in words for turn in messages if turn["role"] == "user")
        return
    prompts = {
        index
        for turn in range(1, len(messages), 2)
        for index in prompt_tokens(tokenizer, messages[:turn], done)
    }
    for index, (token, label, their) in enumerate(
        zip(done.input_ids, done.labels, theirs["assistant_masks"], strict=True)
    ):
        text = tokenizer.decode([token])
        if their and label == -100:
            assert not text.strip() or text == "</s>" or index in prompts, text
        if not their:
            assert label == -100, text


def prompt_tokens(tokenizer, before, done):
    """Indices of the tokens that the generation prompt for the next answer adds and the row has too."""
    start, end = (
        common_prefix_length(
            done.input_ids,
            tokenizer.apply_chat_template(before, add_generation_prompt=prompt, return_dict=True)[
                "input_ids"
            ],
        )
        for prompt in (False, True)
    )
    return range(start, end)


# Vision templates that take content only as a list of parts, and write nothing, or fail, for a text
REFUSED = ("idefics3", "llava_next", "smolvlm")
ALL = sorted(path.stem for path in SHIPPED.glob("*.jinja") if not path.stem.endswith("_training"))


@pytest.mark.parametrize("name", ALL)
def test_every_template_trl_ships_trains_the_answers_or_is_refused(name):
    tokenizer = marked(name)
    try:
        done = RowTokenizer(tokenizer)(canonical({"messages": CHAT}, 3), 3)
    except DataError as error:
        assert "Fix: " in str(error)  # noqa: PT017
        assert name in REFUSED
        return
    assert name not in REFUSED
    words = tokenizer.decode([label for label in done.labels if label != -100])
    assert "The answer is four." in words
    assert "More words follow." in words
    assert "What is two" not in words
    assert "And then?" not in words
    assert [token for token in done.labels if token != -100] != done.input_ids

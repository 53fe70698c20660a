"""What is trained under each family of chat templates, seen as text and checked on ids."""

import pytest
import small_templates as T
from small_rows import canonical
from small_tokenizers import small_tokenizer, trained_text

from ift.data import DataError, RowTokenizer, end_of_turn_ids, turn_endings


def said(*turns):
    return [{"role": role, "content": content} for role, content in turns]


TWO = said(("user", "Hi"), ("assistant", "one"), ("user", "More"), ("assistant", "two words"))
SYSTEM = said(("system", "Be kind."), *[(turn["role"], turn["content"]) for turn in TWO])


def tokenise(template, messages, number=1, train_on="completions", **options):
    tokenizer = small_tokenizer(template, **options)
    row = canonical({"messages": messages}, number)
    done = RowTokenizer(tokenizer, train_on)(row, number)
    whole = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    assert done.input_ids == whole
    return tokenizer, done


def test_a_long_row_is_left_to_the_report(monkeypatch):
    """Red when: transformers warns, once a process and without the row's number, of what the report counts."""
    warned = []
    monkeypatch.setattr("transformers.tokenization_utils_base.logger.warning", warned.append)
    tokenizer = small_tokenizer(T.CHATML)
    tokenizer.model_max_length = 2
    RowTokenizer(tokenizer, "completions")(canonical({"messages": TWO}, 1), 1)
    assert warned == []
    tokenizer("a b c d e f")
    assert len(warned) == 1


CASES = {
    "mistral v0.1": (T.MISTRAL_V01, TWO, [" one</s>", " two words</s>"]),
    "mistral v0.3": (T.MISTRAL_V03, TWO[:2], [" one</s>"]),
    "llama 3": (T.LLAMA3, SYSTEM, ["one<|eot_id|>", "two words<|eot_id|>"]),
    "chatml": (T.CHATML, SYSTEM, ["one<|im_end|>", "two words<|im_end|>"]),
    "qwen 2.5": (T.QWEN25, TWO, ["one<|im_end|>", "two words<|im_end|>"]),
    "qwen 3": (T.QWEN3, TWO, ["one<|im_end|>", "<think>\n\n</think>\n\ntwo words<|im_end|>"]),
    "gemma": (T.GEMMA, TWO, ["one<end_of_turn>", "two words<end_of_turn>"]),
    "zephyr": (T.ZEPHYR, SYSTEM, ["one</s>", "two words</s>"]),
    "phi 3": (T.PHI3, SYSTEM, ["one<|end|>", "two words<|end|>"]),
    "gpt-oss": (T.GPT_OSS, SYSTEM, ["<|message|>one<|end|>", "<|message|>two words<|return|>"]),
    "plain text": (T.ALPACA_TEXT, TWO, ["one\n### End", "two words\n### End"]),
    "unended": (T.UNENDED, TWO, ["one", "two words"]),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("marks", ["special", "none"])
def test_the_trained_text_of_each_family(name, marks):
    """With the marks as special tokens, and as plain text of many tokens."""
    template, messages, expected = CASES[name]
    options = {} if marks == "special" else {"marks": ()}
    if marks == "none" and name in ("phi 3", "gpt-oss"):  # two ways to end a turn, neither of them a token
        with pytest.raises(DataError, match="cannot verify"):
            tokenise(template, messages, **options)
        return
    tokenizer, done = tokenise(template, messages, **options)
    if marks == "special":
        assert trained_text(tokenizer, done.input_ids, done.labels) == expected
        assert done.merged == 0
    else:  # a token may lie across a border: then the whole of it is trained
        for text, want in zip(trained_text(tokenizer, done.input_ids, done.labels), expected, strict=True):
            assert want.strip() in text
            assert len(text) <= len(want) + 2 * done.merged + 1
    assert done.ends == (name != "unended")


@pytest.mark.parametrize("name", CASES)
def test_prefix_tokenisation_finds_the_same_tokens_as_offsets(name, monkeypatch):
    """Tokenizers without offsets go another way and come to the same labels."""
    template, messages, _ = CASES[name]
    tokenizer, done = tokenise(template, messages)
    slow = RowTokenizer(tokenizer)
    monkeypatch.setattr(type(tokenizer), "is_fast", property(lambda self: False))
    assert slow(canonical({"messages": messages}, 1), 1) == done


@pytest.mark.parametrize("name", CASES)
def test_the_prompt_before_a_trained_turn_is_what_generation_starts_from(name):
    """Ids before the last trained stretch are the ids of the generation prompt."""
    template, messages, _ = CASES[name]
    tokenizer, done = tokenise(template, messages)
    prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=True)[
        "input_ids"
    ]
    assert done.input_ids[: len(prompt)] == prompt
    assert done.labels[len(prompt)] != -100
    assert done.labels[len(prompt) - 1] == -100


def test_train_on_all_labels_every_token():
    _, done = tokenise(T.CHATML, TWO, train_on="all")
    assert done.labels == done.input_ids


def test_an_unknown_train_on_is_refused():
    with pytest.raises(ValueError, match="completions"):
        RowTokenizer(small_tokenizer(T.CHATML), "everything")


def test_a_turn_that_is_not_to_be_trained_is_not():
    messages = [*TWO[:1], {**TWO[1], "train": False}, *TWO[2:]]
    tokenizer = small_tokenizer(T.CHATML)
    done = RowTokenizer(tokenizer)(canonical({"messages": messages}, 1), 1)
    assert trained_text(tokenizer, done.input_ids, done.labels) == ["two words<|im_end|>"]


def test_qwen3_history_loses_its_thoughts_and_the_row_stays_consistent():
    messages = said(
        ("user", "Hi"),
        ("assistant", "<think>\nhm\n</think>\n\none"),
        ("user", "More"),
        ("assistant", "<think>\nso\n</think>\n\ntwo"),
    )
    tokenizer, done = tokenise(T.QWEN3, messages)
    assert trained_text(tokenizer, done.input_ids, done.labels) == [
        "one<|im_end|>",
        "<think>\nso\n</think>\n\ntwo<|im_end|>",
    ]


def test_a_generation_prompt_that_the_history_lacks_falls_back_to_the_common_prefix():
    """enable_thinking false puts an empty block into the prompt, which earlier answers do not have."""
    tokenizer = small_tokenizer(T.QWEN3)
    row = canonical({"messages": TWO, "chat_template_kwargs": {"enable_thinking": False}}, 1)
    done = RowTokenizer(tokenizer)(row, 1)
    assert trained_text(tokenizer, done.input_ids, done.labels) == ["one<|im_end|>", "two words<|im_end|>"]


def test_the_fallback_never_eats_content_that_begins_as_the_prompt_goes_on():
    messages = said(("user", "Hi"), ("assistant", "<b>"), ("user", "More"), ("assistant", "two"))
    tokenizer = small_tokenizer(T.QWEN3, marks=("<|im_start|>", "<|im_end|>"))
    row = canonical({"messages": messages, "chat_template_kwargs": {"enable_thinking": False}}, 1)
    done = RowTokenizer(tokenizer)(row, 1)
    assert trained_text(tokenizer, done.input_ids, done.labels) == ["<b><|im_end|>", "two<|im_end|>"]


def test_tool_calls_and_tool_answers():
    call = [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]
    messages = [
        {"role": "user", "content": "Add"},
        {"role": "assistant", "content": None, "tool_calls": call},
        {"role": "tool", "content": "3"},
        {"role": "assistant", "content": "It is 3"},
    ]
    tokenizer = small_tokenizer(T.QWEN25)
    done = RowTokenizer(tokenizer)(canonical({"messages": messages}, 1), 1)
    first, second = trained_text(tokenizer, done.input_ids, done.labels)
    assert '"name": "add"' in first
    assert first.endswith("</tool_call><|im_end|>")
    assert second == "It is 3<|im_end|>"


def test_a_turn_whose_end_changes_when_a_tool_answers_is_found_through_the_next_turn():
    """Qwen3 writes a think block into a tool-calling turn only as long as it is the last one."""
    messages = said(("user", "Add"), ("assistant", "calling"), ("tool", "3"), ("assistant", "It is 3"))
    tokenizer, done = tokenise(T.QWEN3, messages)
    assert trained_text(tokenizer, done.input_ids, done.labels) == [
        "calling<|im_end|>",
        "<think>\n\n</think>\n\nIt is 3<|im_end|>",
    ]


def test_a_template_that_rewrites_earlier_turns_is_refused_with_what_differs():
    with pytest.raises(DataError, match=r"row 4, turn 3: .*differently.*Be kind.*Fix: split") as caught:
        tokenise(T.MISTRAL_V03, SYSTEM, number=4)
    assert "[INST] Hi" in str(caught.value)


def test_a_system_turn_and_one_question_is_fine_there():
    tokenizer, done = tokenise(T.MISTRAL_V03, SYSTEM[:3])
    assert trained_text(tokenizer, done.input_ids, done.labels) == [" one</s>"]


@pytest.mark.parametrize(
    ("template", "messages", "words"),
    [
        (T.GEMMA, SYSTEM, "System role not supported"),
        (T.MISTRAL_V01, [TWO[0], TWO[2], TWO[3]], "roles must alternate"),
        (T.GEMMA, [*TWO, TWO[1]], "roles must alternate"),
    ],
)
def test_a_template_that_refuses_says_so_with_the_row(template, messages, words):
    with pytest.raises(DataError, match=rf"row 9: .*refuses.*{words}.*Fix:"):
        RowTokenizer(small_tokenizer(template))(canonical({"messages": messages}, 9), 9)


def test_an_assistant_that_speaks_first():
    tokenizer, done = tokenise(T.CHATML, TWO[1:])
    assert trained_text(tokenizer, done.input_ids, done.labels) == ["one<|im_end|>", "two words<|im_end|>"]
    tokenizer, done = tokenise(T.QWEN25, TWO[1:])  # which cannot render an empty conversation
    assert trained_text(tokenizer, done.input_ids, done.labels) == ["one<|im_end|>", "two words<|im_end|>"]


def test_two_beginnings_of_sequence_are_refused():
    with pytest.raises(DataError, match=r"row 2: .*twice"):
        tokenise("{{ bos_token }}" + T.LLAMA3, TWO, number=2)


def test_conversations_without_a_template_say_what_to_do():
    with pytest.raises(DataError, match="ensure_chat_template"):
        RowTokenizer(small_tokenizer())(canonical({"messages": TWO}, 1), 1)


def test_a_token_across_the_border_is_trained_whole_and_counted():
    """An answer that begins with the line break the prompt ends in."""
    messages = said(("user", "Hi"), ("assistant", "\none"))
    tokenizer, done = tokenise(T.CHATML, messages)
    pair = tokenizer("\n\n", add_special_tokens=False)["input_ids"]
    assert len(pair) == 1
    assert done.merged == 1
    assert trained_text(tokenizer, done.input_ids, done.labels) == ["\n\none<|im_end|>"]


def test_a_prompt_cut_differently_once_an_answer_follows_is_counted():
    """GPT-2's splitting makes one token of the prompt's last two line breaks, and two with an answer behind them."""
    tokenizer, done = tokenise(T.LLAMA3, TWO[:2], regex="gpt2")
    prompt = tokenizer.apply_chat_template(TWO[:1], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert done.input_ids[: len(prompt)] != prompt
    assert done.merged == 1
    assert trained_text(tokenizer, done.input_ids, done.labels) == ["one<|eot_id|>"]


@pytest.mark.parametrize(
    ("template", "endings"),
    [
        (T.MISTRAL_V01, ("</s>",)), (T.LLAMA3, ("<|eot_id|>",)), (T.QWEN25, ("<|im_end|>",)),
        (T.QWEN3, ("<|im_end|>",)), (T.GEMMA, ("<end_of_turn>",)), (T.ZEPHYR, ("</s>",)), (T.PHI3, ("<|end|>",)),
        (T.GPT_OSS, ("<|return|>", "<|end|>")), (T.ALPACA_TEXT, ("### End",)), (T.UNENDED, ()),
    ],
)  # fmt: skip
def test_endings_and_their_ids(template, endings):
    tokenizer = small_tokenizer(template)
    assert turn_endings(tokenizer) == endings
    single = {tokenizer.convert_tokens_to_ids(ending) for ending in endings if ending != "### End"}
    assert end_of_turn_ids(tokenizer) == single | {tokenizer.eos_token_id}


def test_two_tokens_that_end_a_turn_together():
    """The run is trained whole, and generation stops at its last token."""
    template = T.CHATML.replace("<|im_end|>", "</think><|im_end|>")
    tokenizer, done = tokenise(template, TWO)
    assert turn_endings(tokenizer) == ("</think><|im_end|>",)
    assert end_of_turn_ids(tokenizer) == {
        tokenizer.convert_tokens_to_ids("<|im_end|>"),
        tokenizer.eos_token_id,
    }
    trained = trained_text(tokenizer, done.input_ids, done.labels)
    assert trained == ["one</think><|im_end|>", "two words</think><|im_end|>"]


def test_a_template_that_drops_what_is_said_is_refused():
    parts_only = T.CHATML.replace("m.content", "(m.content if m.content is not string else '')")
    with pytest.raises(DataError, match="does not render the content"):
        tokenise(parts_only, TWO)


def test_end_of_turn_ids_without_a_template():
    assert end_of_turn_ids(small_tokenizer()) == {small_tokenizer().eos_token_id}

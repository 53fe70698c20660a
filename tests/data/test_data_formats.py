"""Detection, conversion and the words of every refusal."""

import subprocess
import sys

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from small_templates import CHATML
from small_tokenizers import small_tokenizer

from ift.data import DataError, RowTokenizer, detect_format, parse_columns, rename_columns

USER = {"role": "user", "content": "Hi"}
ANSWER = {"role": "assistant", "content": "one"}

# the same conversation, written in six ways
SAME = {
    "messages": {"messages": [USER, ANSWER]},
    "ShareGPT": {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "one"}]},
    "ShareGPT, role": {"conversations": [USER, ANSWER]},
    "prompt-completion, conversational": {"prompt": [USER], "completion": [ANSWER]},
    "Alpaca": {"instruction": "Hi", "input": "", "output": "one"},
    "preference, conversational": {
        "prompt": [USER],
        "chosen": [ANSWER],
        "rejected": [{**ANSWER, "content": "bad"}],
    },
    "UltraFeedback": {
        "prompt": "Hi",
        "chosen": [USER, ANSWER],
        "rejected": [USER, ANSWER],
        "messages": [USER, ANSWER],
    },
    "chosen text, prompt turns": {"prompt": [USER], "chosen": "one"},
    "prompt text, chosen turns": {"prompt": "Hi", "chosen": [ANSWER]},
    "UltraChat": {"prompt": "Hi", "prompt_id": "x", "messages": [USER, ANSWER]},
}


def convert(row, number=1):
    return detect_format(row, [row]).convert(row, number)


@pytest.mark.parametrize("name", SAME)
def test_the_same_conversation_gives_the_same_ids_and_labels(name):
    tokenise = RowTokenizer(small_tokenizer(CHATML))
    assert tokenise(convert(SAME[name]), 1) == tokenise(convert(SAME["messages"]), 1)


@pytest.mark.parametrize(
    ("row", "name", "words"),
    [
        (SAME["UltraFeedback"], "preference, conversational", "rejected is not used"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "preference, text", "chosen answer"),
        (SAME["UltraChat"], "chat messages", "all assistant turns"),
        (SAME["ShareGPT"], "ShareGPT", "all assistant turns"),
        ({"prompt": "a", "completion": "b"}, "prompt-completion, text", "no chat template"),
        (
            SAME["prompt-completion, conversational"],
            "prompt-completion, conversational",
            "assistant turns of the completion",
        ),
        ({"instruction": "a", "output": "b", "text": "c"}, "Alpaca", "one user turn"),
        ({"text": "a"}, "text", "EVERY token"),
        ({"input_ids": [1], "labels": [1], "text": "a"}, "tokenised", "tokens that have labels"),
        ({"input_ids": [1]}, "tokenised", "EVERY token"),
        ({"input_ids": [1], "completion_mask": [1]}, "tokenised", "completion_mask"),
    ],
)
def test_names_and_explanations(row, name, words):
    form = detect_format(row, [row])
    assert form.name == name
    assert words in form.explanation


def test_the_chosen_side_is_trained_and_the_rejected_is_not():
    row = {"prompt": "a", "chosen": "b", "rejected": "c"}
    assert convert(row) == {"prompt": "a", "completion": "b"}


def test_alpaca_joins_instruction_and_input_by_a_blank_line():
    messages = convert({"instruction": "Add", "input": "1 2", "output": "3"})["messages"]
    assert [turn["content"] for turn in messages] == ["Add\n\n1 2", "3"]
    messages = convert({"instruction": "Add", "input": None, "output": "3", "system": "Be kind."})["messages"]
    assert [turn["content"] for turn in messages] == ["Be kind.", "Add", "3"]


def test_only_the_completions_turns_are_trained():
    messages = convert({"prompt": [USER, ANSWER, USER], "completion": [ANSWER]})["messages"]
    assert [turn["train"] for turn in messages] == [False, False, False, True]


def test_what_goes_to_the_template_passes_through():
    call = {"function": {"name": "f", "arguments": {"a": 1, "b": None}}}
    row = {
        "messages": [
            {**USER, "tool_calls": None},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "3", "name": "f"},
            {"role": "developer", "content": "x"},
        ],
        "tools": '[{"name": "f"}]',
        "chat_template_kwargs": {"enable_thinking": False, "other": None},
    }
    done = convert(row)
    assert done["messages"][0] == {**USER, "train": False}
    assert done["messages"][1]["content"] == ""
    assert done["messages"][1]["tool_calls"] == [call]  # a null of an argument stays
    assert done["messages"][2]["name"] == "f"
    assert done["tools"] == [{"name": "f"}]
    assert done["chat_template_kwargs"] == {"enable_thinking": False}


def test_masks_of_tokenised_rows():
    row = {"input_ids": [4, 5, 6], "completion_mask": [0, 1, 1], "assistant_masks": [1, 1, 0]}
    assert convert(row)["labels"] == [-100, 5, -100]
    assert convert({"input_ids": [4, 5]})["labels"] == [4, 5]


BAD = [
    (
        {"messages": [USER, {"role": "assistant", "content": None}]},
        r'column "messages", turn 2, key "content": found null',
    ),
    ({"messages": [USER, {"role": "assistant", "content": 3}]}, r"found the number 3, expected a string"),
    ({"messages": [USER, {"role": "assistant", "content": [{"type": "text"}]}]}, r"join its text parts"),
    (
        {"messages": [{"role": "narrator", "content": "x"}]},
        r"turn 1, key \"role\": found the string 'narrator'",
    ),
    ({"messages": [{"role": "human", "content": "x"}]}, r"turns of user only"),
    ({"messages": []}, r"an empty conversation"),
    ({"messages": [USER]}, r"turns of user only, expected at least one assistant turn"),
    ({"messages": "Hi"}, r"found the string 'Hi', expected a list of turns"),
    ({"messages": ["Hi"]}, r"turn 1: found the string 'Hi', expected an object"),
    ({"messages": [{"content": "x"}]}, r"object with role and content"),
    ({"messages": None}, r"found null, expected a list of turns"),
    ({"messages": [USER, ANSWER], "tools": "{"}, r'column "tools": found text that is not JSON'),
    ({"messages": [USER, ANSWER], "tools": 3}, r'column "tools": found the number 3'),
    ({"messages": [USER, ANSWER], "chat_template_kwargs": "x"}, r'column "chat_template_kwargs"'),
    ({"conversations": [{"from": "narrator", "value": "x"}]}, r'key "from"'),
    ({"conversations": [{"from": "gpt", "value": None}]}, r'key "value": found null'),
    ({"conversations": [USER, ANSWER], "system": 3}, r'column "system"'),
    ({"prompt": None, "completion": "x"}, r'column "prompt": found null'),
    ({"prompt": "x", "completion": 3.5}, r'column "completion": found the number 3.5'),
    ({"prompt": [USER], "completion": [USER]}, r'column "completion": found no assistant turn'),
    ({"chosen": "x", "rejected": "y"}, r'column "prompt".*move the question to'),
    ({"chosen": None, "prompt": "y"}, r'column "chosen": found null'),
    ({"instruction": None, "output": "x"}, r'column "instruction": found null'),
    ({"instruction": "x", "output": None}, r'column "output": found null'),
    ({"instruction": "x", "input": 3, "output": "y"}, r'column "input": found the number 3'),
    ({"text": None}, r'column "text": found null'),
    ({"input_ids": ["a"]}, r'column "input_ids"'),
    ({"input_ids": [1, 2], "labels": [1]}, r'column "labels": found 1 entry, expected 2'),
]


@pytest.mark.parametrize(("row", "words"), BAD)
def test_malformed_rows_name_the_row_the_place_and_the_remedy(row, words):
    with pytest.raises(DataError, match=rf"^row 12, .*{words}.*") as caught:
        convert(row, 12)
    assert "expected" in str(caught.value)
    assert "Fix: " in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "hint"),
    [
        (["question", "answer"], "--dataset_columns question=instruction answer=output"),
        (["Question", "Answer"], "--dataset_columns Question=instruction Answer=output"),
        (["instruction", "context", "response", "category"], "context=input response=output"),
        (["Frage", "Antwort"], "--dataset_columns QUESTION=instruction ANSWER=output"),
        ([], "found columns none"),
    ],
)
def test_an_unknown_format_says_what_it_found_and_what_it_takes(columns, hint):
    with pytest.raises(DataError, match="Accepted: chosen") as caught:
        detect_format(columns)
    assert hint in str(caught.value)
    assert all(column in str(caught.value) for column in columns)


def test_renaming_columns():
    rows = Dataset.from_list([{"question": "a", "answer": "b"}])
    mapping = parse_columns(["question=prompt", "answer=completion"])
    assert rename_columns(rows, mapping)[0] == {"prompt": "a", "completion": "b"}
    stream = rename_columns(rows.to_iterable_dataset(), mapping)
    assert next(iter(stream)) == {"prompt": "a", "completion": "b"}
    assert rename_columns(rows, {"question": "answer", "answer": "question"})[0] == {
        "answer": "a",
        "question": "b",
    }
    with pytest.raises(DataError, match='no column "body" among question, answer'):
        rename_columns(rows, {"body": "text"})
    with pytest.raises(DataError, match="which exists"):
        rename_columns(rows, {"question": "answer"})
    assert parse_columns({"a=b": "c", "b": "d"}) == {"a=b": "c", "b": "d"}
    for pairs in (
        ["question"],
        ["=x"],
        ["x="],
        ["a=b", "a=c"],
        ["a=c", "b=c"],
        {"a": "c", "b": "c"},
        {"a": ""},
    ):
        with pytest.raises(DataError, match="--dataset_columns"):
            parse_columns(pairs)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "from", "value", "train", "tool_calls"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
TURNS = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "assistant", "system", "x"]),
            "content": st.text(max_size=3) | st.none(),
        }
    ),
    max_size=4,
)
COLUMNS = st.sampled_from(
    [
        "chosen",
        "rejected",
        "prompt",
        "completion",
        "messages",
        "conversations",
        "instruction",
        "input",
        "output",
        "text",
    ]
) | st.sampled_from(["input_ids", "labels", "tools", "system"])


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(COLUMNS, VALUES | TURNS, max_size=4))
def test_any_row_is_refused_in_our_words_or_comes_out_right(row):
    try:
        done = convert(row, 5)
    except DataError as error:
        assert "Fix: " in str(error)  # noqa: PT017
        return
    assert set(done) in ({"prompt", "completion"}, {"text"}, {"input_ids", "labels"}) or "messages" in done
    for turn in done.get("messages", []):
        assert turn["role"] in ("system", "developer", "user", "assistant", "tool")
        assert isinstance(turn["content"], str)
        assert turn["train"] in (True, False)
        assert turn["role"] == "assistant" or not turn["train"]
    if "messages" in done:
        assert any(turn["role"] == "assistant" for turn in done["messages"])
    else:
        assert all(isinstance(value, str | list) for value in done.values())


def test_importing_the_room_imports_no_heavy_library():
    code = (
        "import sys, ift.data; heavy = {'torch', 'trl', 'transformers', 'datasets'} & set(sys.modules); "
        "print(sorted(heavy))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"

"""What a row says is used, named with a count, or refused: the table, and each kind on rows of our own."""

import json
from pathlib import Path

import pytest
from datasets import Dataset
from small_rows import canonical
from small_templates import CHATML, QWEN3, QWEN25
from small_tokenizers import small_tokenizer, trained_text

from ift.data import DataError, Part, detect_format, load_rows, prepare_dataset
from ift.data.hints import suggest_renaming
from ift.data.known_names import COLUMNS, OTHER_ROLES, TURN_KEYS, names, read_flag
from ift.data.masks import END_ALONE
from ift.data.pairs import prepare_pairs
from ift.data.report import TEMPLATE_REASON

DOCUMENT = Path(__file__).parents[2] / "docs" / "data.md"
ASK, SAY = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "one"}
FALSE = [False, 0, 0.0, "false", "False", "no", "off", "0", "0.0"]
TRUE = [True, 1, 1.0, "true", "Yes", "on", "1"]
CHATS = {
    "chat messages": {"messages": [ASK, SAY]},
    "ShareGPT": {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "one"}]},
    "Alpaca": {"instruction": "Hi", "output": "one"},
    "prompt-completion, conversational": {"prompt": [ASK], "completion": [SAY]},
    "preference, conversational": {"prompt": "Hi", "chosen": [SAY], "rejected": [{**SAY, "content": "no"}]},
}
PLAIN = {
    "prompt-completion, text": {"prompt": "Q: Hi A:", "completion": " one"},
    "preference, text": {"prompt": "Q: Hi A:", "chosen": " one", "rejected": " no"},
}


def prepare(rows, template=CHATML, **options):
    return prepare_dataset(Dataset.from_list(rows), small_tokenizer(template), **options)


def trained(done):
    tokenizer = small_tokenizer(CHATML)
    return [trained_text(tokenizer, row["input_ids"], row["labels"]) for row in done.dataset]


def test_the_document_shows_the_table():
    text = DOCUMENT.read_text()
    for table in (TURN_KEYS, COLUMNS):
        for line in table:
            assert f"| {', '.join(f'`{name}`' for name in line.names)} | {line.text} |" in text
    shown = {role for role in OTHER_ROLES if f"`{role}`" in text}
    assert shown == set(OTHER_ROLES)


CALLS = [
    {"id": f"c{n}", "type": "function", "function": {"name": f"f{n}", "arguments": {"n": n}}} for n in (1, 2)
]
RESULTS = [{"role": "tool", "name": f"f{n}", "tool_call_id": f"c{n}", "content": str(n)} for n in (1, 2)]
USER_ALONE = (
    "{% for m in messages %}{% if m.role in ('user', 'assistant') %}{{ '<|im_start|>' + m.role + '\\n' + m.content + "
    "'<|im_end|>\\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
NAMELESS = "turn key name of tool results: not rendered by the chat template; harmless, because "
LOST = "not rendered by the chat template: the model does not see "


@pytest.mark.parametrize(
    ("template", "results", "said"),
    [
        (QWEN25, RESULTS, [
            f"{NAMELESS}the call before a result names its tool",
            f"{NAMELESS.replace('name', 'tool_call_id', 1)}the results follow their calls in the same order"]),
        (QWEN25, RESULTS[::-1], [f"turn key {key}: {LOST}it" for key in ("name", "tool_call_id")]),
        (QWEN25, [{**RESULTS[0], "mood": "x"}], [
            f"{NAMELESS}the call before a result names its tool",
            f"{NAMELESS.replace('name', 'tool_call_id', 1)}the results follow their calls in the same order",
            f"turn key mood: {LOST}it"]),
        (USER_ALONE, RESULTS, [
            f"turn key tool_calls: {LOST}the calls of tools, and is not trained on them",
            f"turn key name: {LOST}it",
            f"turn key tool_call_id: {LOST}it",
            f"tool turns: {LOST}them",
            f"column tools: {LOST}which tools there are",
            "empty assistant turns: not trained"]),
    ],
    ids=["as most templates", "in another order", "an unknown key", "no form for tools"],
)  # fmt: skip
def test_what_a_template_leaves_out_of_tool_calls_is_said_with_what_follows(template, results, said):
    """Once for each kind, with its rows; the fix only where something is lost."""
    call = {"role": "assistant", "content": None, "tool_calls": CALLS}
    row = {"messages": [ASK, call, *results, SAY]}
    if template == USER_ALONE:
        row["tools"] = [{"name": "f1"}]
    report = prepare([row, row], template).report
    assert report.notes == dict.fromkeys(said, (1, 2))
    assert any("--chat_template_path" in line for line in report.lines()) == any(LOST in one for one in said)


@pytest.mark.parametrize("value", FALSE + TRUE)
def test_flags_are_read_in_every_spelling(value):
    assert read_flag(value) is (
        value in TRUE and value not in FALSE if isinstance(value, str) else bool(value)
    )


@pytest.mark.parametrize("key", names(TURN_KEYS, "mark"))
@pytest.mark.parametrize("value", FALSE)
def test_a_turn_marked_as_untrained_is_not_trained_and_is_counted(key, value):
    turns = [ASK, {**SAY, key: value}, ASK, {**SAY, "content": "two"}]
    done = prepare([{"messages": turns}])
    assert trained(done) == [["two<|im_end|>"]]
    assert any(
        f"turn key {key} marks assistant turns" in line or key in line for line in done.report.lines()[2:]
    )


@pytest.mark.parametrize("key", names(TURN_KEYS, "mark"))
def test_a_weight_that_is_neither_is_refused_and_a_mark_on_a_question_is_named(key):
    with pytest.raises(
        DataError, match=rf'turn 2, key "{key}": found the number 0.5, expected true or false'
    ):
        prepare([{"messages": [ASK, {**SAY, key: 0.5}]}])
    report = prepare([{"messages": [{**ASK, key: 1}, SAY]}]).report
    assert any(key in note and "only assistant turns" in note for note in report.notes)


@pytest.mark.parametrize("key", names(TURN_KEYS, "refused"))
def test_turn_keys_that_are_refused(key):
    with pytest.raises(DataError, match=rf'turn 2, key "{key}": .*Fix: '):
        canonical({"messages": [ASK, {**SAY, key: ["x"]}]})
    assert canonical({"messages": [ASK, {**SAY, key: None}]})


def test_marks_and_every_token_trained_exclude_each_other():
    rows = [{"messages": [ASK, {**SAY, "weight": 0}, ASK, SAY]}]
    with pytest.raises(DataError, match=r"row 1: found turns that weight marks.*completion_only_loss"):
        prepare(rows, train_on="all")


@pytest.mark.parametrize("column", names(COLUMNS, "mark"))
@pytest.mark.parametrize("form", CHATS | PLAIN)
def test_a_column_that_marks_a_row_drops_and_counts_it(column, form):
    row = (CHATS | PLAIN)[form]
    report = prepare([{**row, column: True}, {**row, column: False}]).report
    assert report.rows_kept == 1
    assert [rows for reason, rows in report.dropped.items() if reason.startswith(f"{column} is false")] == [
        (2,)
    ]
    with pytest.raises(DataError, match=f'column "{column}": found the number 3'):
        prepare([{**row, column: 3}])
    assert f"column {column}: not used in training" in prepare([{**row, column: "sport"}]).report.notes


def test_a_label_of_plain_text_is_a_class_and_named():
    report = prepare([{"text": "some words", "label": 0}]).report
    assert report.rows_kept == 1
    assert report.notes == {"column label: not used in training": (1,)}


@pytest.mark.parametrize("column", COLUMNS[0].names)
@pytest.mark.parametrize("form", CHATS)
def test_a_system_column_is_the_first_turn_of_every_chat_format(column, form):
    row = canonical({**CHATS[form], column: "Be kind."})
    assert row["messages"][0] == {"role": "system", "content": "Be kind.", "train": False}


def test_a_system_column_beside_a_system_turn_is_named():
    turns = [{"role": "system", "content": "Be kind."}, ASK, SAY]
    assert prepare([{"messages": turns, "system": "Be kind."}]).report.notes == {}
    (note,) = prepare([{"messages": turns, "system": "Be rude."}]).report.notes
    assert note.startswith("column system: not used")


@pytest.mark.parametrize("form", CHATS)
def test_history_comes_before_the_turns(form):
    for history in (
        [["Who?", "me"]],
        '[["Who?", "me"]]',
        [{"role": "user", "content": "Who?"}, {**SAY, "content": "me"}],
    ):
        turns = canonical({**CHATS[form], "history": history})["messages"]
        assert [turn["content"] for turn in turns] == ["Who?", "me", "Hi", "one"]
    with pytest.raises(DataError, match='column "history"'):
        canonical({**CHATS[form], "history": ["Who?"]})


@pytest.mark.parametrize("form", PLAIN)
@pytest.mark.parametrize("column", ["system", "system_prompt", "history", "tools", "functions"])
def test_chat_columns_beside_plain_text_are_refused_with_the_way_out(form, column):
    with pytest.raises(DataError, match=f'column "{column}": .*plain text.*Fix: '):
        canonical({**PLAIN[form], column: "[1]"})


@pytest.mark.parametrize("column", ["image", "images", "audios", "video"])
def test_media_are_refused_and_their_placeholders_named(column):
    with pytest.raises(DataError, match=f'column "{column}".*Fix: '):
        canonical({**CHATS["Alpaca"], column: ["a.jpg"]})
    report = prepare([{"messages": [{**ASK, "content": "<image>Who?"}, SAY], column: []}]).report
    assert any("<image>" in note for note in report.notes)


def test_columns_that_nobody_knows_are_listed():
    rows = [{**CHATS["Alpaca"], "id": 1, "rejected_response": "no"}, {**CHATS["Alpaca"], "id": None}]
    done = prepare(rows)
    assert done.report.notes == {
        "column id: not used in training": (1,),
        "column rejected_response: not used in training": (1,),
    }
    assert "  1 row: column id: not used in training (row 1)" in done.report.lines()


@pytest.mark.parametrize("role", OTHER_ROLES)
def test_roles_of_other_tools(role):
    text = '{"name": "f", "arguments": {"a": 1}}' if role == "function_call" else "x"
    turns = canonical({"messages": [{"role": role.title(), "content": text}, SAY]})["messages"]
    assert turns[0]["role"] == OTHER_ROLES[role]
    assert ("tool_calls" in turns[0]) == (role == "function_call")


def test_parts_of_text_are_joined_and_other_parts_refused():
    parts = [{"type": "text", "text": "He"}, {"type": "text", "text": "llo"}]
    assert canonical({"messages": [{**ASK, "content": parts}, SAY]})["messages"][0]["content"] == "Hello"
    image = [{"type": "image_url", "image_url": {"url": "x"}}]
    with pytest.raises(DataError, match="found a part of type image_url"):
        canonical({"messages": [{**ASK, "content": image}, SAY]})


def test_a_refusal_is_the_answer_where_there_is_no_other():
    for content in (None, ""):
        done = prepare(
            [{"messages": [ASK, {"role": "assistant", "content": content, "refusal": "I will not."}]}]
        )
        assert trained(done) == [["I will not.<|im_end|>"]]
    (note,) = prepare([{"messages": [ASK, {**SAY, "refusal": "I will not."}]}]).report.notes
    assert "refusal: not used" in note


SILENT = [
    {"content": ""},
    {"content": " \n", "name": "bot"},
    {"content": "<think>\n\n</think>\n\n"},
    {"content": "<|im_end|>"},
    {
        "content": "",
        "tool_calls": [{"function": {"name": "f", "arguments": {}}}],
    },  # not written by this template
]


@pytest.mark.parametrize("answer", SILENT)
@pytest.mark.parametrize("train_on", ["completions", "all"])
def test_silence_is_not_trained(answer, train_on):
    silent = {"role": "assistant", **answer}
    report = prepare([{"messages": [ASK, silent]}, {"messages": [ASK, SAY]}], train_on=train_on).report
    unseen = report.notes and "content" in answer and answer.keys() != {"content"}
    assert report.dropped == {TEMPLATE_REASON if unseen else "the answer is empty": (1,)}
    done = prepare([{"messages": [ASK, silent, ASK, SAY]}], train_on=train_on)
    assert "empty assistant turns: not trained" in done.report.notes
    words = trained(done)[0]
    assert words[-1].endswith("one<|im_end|>" if train_on == "completions" else "one<|im_end|>\n")
    assert len(words) == (1 if train_on == "completions" else 2)


def test_a_call_without_words_is_an_answer_where_the_template_writes_it():
    calls = [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]
    done = prepare([{"messages": [ASK, {"role": "assistant", "content": "", "tool_calls": calls}]}], QWEN25)
    assert done.report.rows_kept == 1
    assert not any("tool_calls" in note for note in done.report.notes)


def test_silence_in_text_and_in_ids():
    tokenizer = small_tokenizer()
    rows = [{"prompt": "a", "completion": " </s>"}, {"prompt": "a", "completion": " b"}]
    report = prepare_dataset(Dataset.from_list(rows), tokenizer).report
    assert report.dropped == {"the answer is empty": (1,)}
    rows = [
        {"input_ids": [5, 6, 1], "labels": [-100, -100, 1]},
        {"input_ids": [5, 6, 1], "labels": [-100, 6, 1]},
    ]
    done = prepare_dataset(Dataset.from_list(rows), tokenizer)
    assert done.dataset["labels"][0] == rows[0]["labels"]  # as trl: the user has said what is trained
    assert done.report.notes == {END_ALONE: (1,)}


def test_what_a_template_leaves_out_is_found_by_rendering():
    quiet = "{% for m in messages if m.role in ('user', 'assistant') %}" + CHATML.partition("%}")[2]
    turns = [{"role": "system", "content": "one"}, ASK, {**SAY, "thinking": "hm", "name": "bot"}]
    report = prepare(
        [{"messages": turns, "tools": [{"name": "f"}], "chat_template_kwargs": {"thnk": True}}], quiet
    ).report
    found = " / ".join(report.notes)
    for what in ("system turns", "key thinking", "key name", "column tools", "no option thnk"):
        assert what in found
    report = prepare([{"messages": [*turns[:2], SAY]}]).report  # "one" stands elsewhere too, and is written
    assert report.notes == {}


@pytest.mark.parametrize("key", ["content", "thinking"])
def test_thoughts_that_only_the_last_turn_keeps(key):
    template = QWEN3.replace("{% set think = '' %}", "{% set think = m.thinking or '' %}")

    def answer(thought, text):
        words = (
            {"content": f"<think>{thought}</think>{text}"}
            if key == "content"
            else {"content": text, key: thought}
        )
        return {"role": "assistant", **words}

    rows = [
        {"messages": [ASK, answer("hm", "one"), ASK, answer("so", "two")]},
        {"messages": [ASK, answer("so", "two")]},
    ]
    report = prepare(rows, template).report
    assert [rows for note, rows in report.notes.items() if "some of the turns" in note] == [(1,)]


def test_arguments_as_json_text_become_objects_where_the_template_writes_json():
    text = '{"town": "Bonn", "unit": null}'
    calls = [{"type": "function", "function": {"name": "f", "arguments": text}}]
    for turn in ({"tool_calls": calls}, {"function_call": calls[0]["function"]}):
        rows = [{"messages": [ASK, {"role": "assistant", "content": None, **turn}]}]
        assert f'"arguments": {text}' in trained(prepare(rows, QWEN25))[0][0]
    as_it_is = QWEN25.replace("(call.function | tojson)", "call.function.arguments")
    assert text in trained(prepare(rows, as_it_is))[0][0]


def test_deliberate_nulls_stay_and_those_of_arrow_go(tmp_path):
    call = [{"function": {"name": "f", "arguments": {"a": None, "b": 1}}}]
    turns = [ASK, {"role": "assistant", "content": "", "tool_calls": call}]
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"messages": turns}) + "\n" + json.dumps({"messages": [ASK, SAY]}) + "\n")
    tokenizer = small_tokenizer(QWEN25)
    assert '"a": null' in trained(prepare_dataset(load_rows(str(file)), tokenizer))[0][0]
    other = [{"function": {"name": "g", "arguments": {"c": 2}}}]
    rows = [
        {"messages": turns},
        {"messages": [ASK, {"role": "assistant", "content": "", "tool_calls": other}]},
    ]
    words = trained(prepare_dataset(Dataset.from_list(rows), tokenizer))
    assert '"arguments": {"c": 2}' in words[1][0]  # the keys of the other row are not written as null


def test_an_answer_that_repeats_its_prompt_is_trained_once():
    row = {
        "prompt": "Human: Hi\n\nAssistant:",
        "chosen": "Human: Hi\n\nAssistant: one",
        "rejected": "Human: Hi\n\nAssistant: no",
    }
    assert canonical(row) == {"prompt": row["prompt"], "completion": " one"}
    assert any("prompt" in note for note in prepare([row]).report.notes)
    done = prepare_pairs([Part("train", Dataset.from_list([row]))], small_tokenizer())
    assert trained(
        type(done)(
            Dataset.from_list(
                [{"input_ids": r["rejected_input_ids"], "labels": r["rejected_labels"]} for r in done.dataset]
            ),
            done.report,
        )
    ) == [[" no</s>"]]
    greeting = {"prompt": "Hi", "chosen": "Hi there", "rejected": "Hi you"}
    assert canonical(greeting)["completion"] == "Hi there"


@pytest.mark.parametrize("mask", [[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])
def test_padding_is_cut_off(mask):
    row = {"input_ids": [4, 5, 6, 7, 8], "attention_mask": mask}
    kept = [token for token, bit in zip(row["input_ids"], mask, strict=True) if bit]
    assert canonical(row) == {"input_ids": kept, "labels": kept}
    with pytest.raises(DataError, match="0 between tokens"):
        canonical({**row, "attention_mask": [1, 0, 1, 1, 1]})


def test_packed_rows_are_refused():
    assert canonical({"input_ids": [4, 5, 6], "position_ids": [0, 1, 2], "seq_lengths": [3]})
    for column, value in (("position_ids", [0, 1, 0]), ("seq_lengths", [2, 1])):
        with pytest.raises(DataError, match=f'column "{column}": found several documents'):
            canonical({"input_ids": [4, 5, 6], column: value})


@pytest.mark.parametrize(
    "columns", [{"role", "text", "parent_id"}, {"role", "content"}, {"role", "text", "lang"}]
)
def test_one_turn_a_row_is_refused(columns):
    with pytest.raises(DataError, match=r"each row is one turn.*Fix: join the turns"):
        detect_format(columns)


COMMON = ("system", "history", "tools", "context", "input", "passage")


@pytest.mark.parametrize("question", ["question", "query", "prompt", "instruction", "problem"])
@pytest.mark.parametrize("answer", ["answer", "response", "solution", "output"])
@pytest.mark.parametrize("beside", ["", *COMMON])
def test_a_renaming_that_is_printed_makes_a_format_and_loses_nothing(question, answer, beside):
    hint = suggest_renaming({question, answer} | ({beside} if beside else set()))
    ways = [way.partition("(")[0].split() for way in hint.split("--dataset_columns ")[1:]]
    assert ways or (question, answer) == ("instruction", "output")
    for way in ways:
        mapping = dict(pair.split("=") for pair in way if "=" in pair)
        values = {
            question: "Who is it?",
            answer: "me",
            beside: "[]" if beside in ("tools", "history") else "words",
        }
        row = {mapping.get(name, name): value for name, value in values.items() if name}
        assert prepare([row]).report.notes == {}


def test_a_renaming_never_trains_the_bad_side():
    rows = [{"non_preferred_output": [ASK, SAY]}]
    assert "non_preferred_output" not in suggest_renaming(set(rows[0]), rows)


def test_trls_text_field_is_the_column_that_is_trained():
    rows = Dataset.from_list([{"body": "some words", "text": "other"}])
    done = prepare_dataset(rows, small_tokenizer(), text_field="body")
    assert done.dataset["input_ids"][0] == small_tokenizer()("some words</s>")["input_ids"]
    with pytest.raises(DataError, match='dataset_text_field names "boddy", found columns body, text'):
        prepare_dataset(rows, small_tokenizer(), text_field="boddy")
    with pytest.raises(DataError, match="the format is Alpaca"):
        prepare_dataset(
            Dataset.from_list([{**CHATS["Alpaca"], "body": "x"}]), small_tokenizer(CHATML), text_field="body"
        )

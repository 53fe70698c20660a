"""Answers to prompts: the same whatever the batch, the order or a stop in between, in the forms that others read."""

import copy
import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from ift.cli.main import app
from ift.data import DataError
from ift.generation.after_training import SPARE_TOKENS, _longest_answer
from ift.generation.answers import AnswerStore, Settings, Turn, answer_all
from ift.generation.decoding import Sampling, _Noise, room_for_answers
from ift.generation.errors import EvaluationError
from ift.generation.prompt_checks import unused_content
from ift.generation.prompts import UNPLACED, Prompt, prompt_ids, read_prompts
from ift.lab.testbed import problems, tiny_base_path
from ift.models.loading import CHAT_TEMPLATE, PLAIN_TEXT
from models import tiny_model


@pytest.fixture(scope="module")
def loaded():
    from ift.models.loading import LoadOptions, load_model

    model, tokenizer, _, note = load_model(str(tiny_base_path()), LoadOptions("float32", "cpu"))
    assert not note
    return model, tokenizer


def asked(count=6):
    return [
        Prompt(str(number), one.row["messages"][:1], (), {})
        for number, one in enumerate(problems("test", count))
    ]


def answered(loaded, prompts, path, batch_size=8, **settings):
    store = AnswerStore(path, "f")
    answer_all(*loaded, prompts, Settings(**{"max_new_tokens": 24, **settings}), store, batch_size)
    return {one.id: [store.get(one, turn) for turn in range(1 + len(one.further))] for one in prompts}


def test_the_noise_draws_from_the_models_distribution():
    """Of p = 0.5, 0.3, 0.15, 0.05, 4,000 draws; with top_p 0.7 the first two alone, 5 : 3; at temperature 0.5 p^2."""
    shares = torch.tensor([0.5, 0.3, 0.15, 0.05])

    def drawn(**options):
        keys = [str(number) for number in range(4000)]
        noise = _Noise(Sampling(0, keys, **options), keys, 0)
        found = Counter(noise(torch.zeros(4000, 3), shares.log().expand(4000, 4)).argmax(-1).tolist())
        return [found[token] / 4000 for token in range(4)]

    assert drawn() == pytest.approx(shares.tolist(), abs=0.025)  # 3 standard errors
    assert drawn(top_p=0.7) == pytest.approx([5 / 8, 3 / 8, 0, 0], abs=0.025)
    squares = shares**2 / (shares**2).sum()
    assert drawn(temperature=0.5) == pytest.approx(squares.tolist(), abs=0.025)


def test_tools_of_a_row_reach_the_template(loaded, tmp_path):
    """As a list, as JSON text and as `functions`, wrapped as in training; such prompts have keys of their own, and
    plain text refuses them."""
    import copy

    tokenizer = copy.deepcopy(loaded[1])
    names = "{% for t in tools or [] %}{{ t.name or t.function.name }}{% endfor %}"
    tokenizer.chat_template = names + "{{ extra }}{{ messages[0].content }}"
    tools, turn = [{"name": "7 + 7"}], {"role": "user", "content": "1"}
    rows = [
        {"messages": [turn]},
        {"messages": [turn], "tools": tools, "chat_template_kwargs": {"extra": "9"}},
        {"messages": [turn], "tools": json.dumps(tools)},
        {"messages": [turn], "functions": tools},
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = read_prompts(tmp_path / "p.jsonl")
    written = [
        tokenizer.decode(prompt_ids(tokenizer, p.messages, CHAT_TEMPLATE, p.template)) for p in prompts
    ]
    assert written == ["1", "7 + 791", "7 + 71", "7 + 71"]
    assert [len({one.key for one in prompts}), prompts[2].key == prompts[3].key] == [4, False]
    with pytest.raises(DataError, match="found tools and chat_template_kwargs, and the model was trained on"):
        prompt_ids(tokenizer, prompts[1].messages, PLAIN_TEXT, prompts[1].template)
    (tmp_path / "p.jsonl").write_text('{"prompt": "x", "tools": {"name": "f"}}\n')
    with pytest.raises(
        EvaluationError, match=r'p.jsonl, row 1, column "tools": found an object .* expected a list'
    ):
        read_prompts(tmp_path / "p.jsonl")


def test_an_answer_depends_on_its_prompt_and_the_seed_alone(loaded, tmp_path):
    """Sampled one at a time, all together, in the other order, and after others: the same; another seed: another."""
    prompts, sampled = asked(4), {"temperature": 1.0, "seed": 3, "max_new_tokens": 12}
    alone = answered(loaded, prompts, tmp_path / "1", 1, **sampled)
    assert answered(loaded, prompts, tmp_path / "2", 3, **sampled) == alone
    assert answered(loaded, prompts[::-1], tmp_path / "3", 3, **sampled) == alone
    assert answered(loaded, prompts[2:3], tmp_path / "4", 8, **sampled)["2"] == alone["2"]
    assert answered(loaded, prompts, tmp_path / "5", 4, temperature=1.0, seed=4, max_new_tokens=12) != alone
    greedy = answered(loaded, prompts, tmp_path / "6", 4, max_new_tokens=12)
    assert greedy != alone
    assert greedy == answered(loaded, prompts, tmp_path / "7", 2, seed=9, max_new_tokens=12)


def test_greedy_answers_are_those_of_generate_alone(loaded, tmp_path):
    """Left padding and batches change nothing against the library's own call on one prompt."""
    model, tokenizer = loaded
    for one in asked(3):
        inputs = tokenizer.apply_chat_template(
            one.messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        ids = model.generate(**inputs, max_new_tokens=24, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        text = tokenizer.decode(ids, skip_special_tokens=True).strip()
        assert answered(loaded, asked(3), tmp_path / "answers")[one.id][0].text == text


def test_a_stopped_run_goes_on_and_its_answers_are_those_of_one_that_was_not(loaded, tmp_path):
    prompts, sampled = asked(), {"temperature": 1.0, "max_new_tokens": 24}
    whole = answered(loaded, prompts, tmp_path / "whole", 2, temperature=1.0)

    def killed(count):
        raise KeyboardInterrupt

    path = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        answer_all(*loaded, prompts, Settings(**sampled), AnswerStore(path, "f"), 2, killed)
    assert len(path.read_text().splitlines()) == 2
    with path.open("a") as file:
        file.write('{"fingerprint": "f", "key": "cut o')  # killed while it wrote
    assert answered(loaded, prompts, path, 2, temperature=1.0) == whole
    lines = path.read_text().splitlines()
    assert len(lines) == 7  # six answers, none twice, and the half line
    assert AnswerStore(path, "another model").get(prompts[0], 0) is None


def test_a_second_turn_follows_the_models_own_first_answer(loaded, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "ift.generation.answers.prompt_ids", lambda tokenizer, turns, *rest: seen.append(turns) or [5]
    )
    first = Prompt("1", [{"role": "user", "content": "2 + 2?"}], ("And 3 + 3?",), {})
    second = Prompt("2", [{"role": "user", "content": "1 + 1?"}], (), {})
    found = answered(loaded, [first, second], tmp_path / "answers")
    assert seen[:2] == [first.messages, second.messages]
    assert seen[2:] == [
        [
            *first.messages,
            {"role": "assistant", "content": found["1"][0].text},
            {"role": "user", "content": "And 3 + 3?"},
        ]
    ]
    assert len(found["1"]) == 2


def test_columns_are_used_as_in_training_or_named_or_refused(tmp_path):
    """`system`, `history` and `functions` reach the prompt; other columns are counted; media are refused."""
    path = tmp_path / "p.jsonl"
    user = {"role": "user", "content": "Hi"}
    rows = [
        {"prompt": "Hi", "system": "Be brief.", "history": [["a", "b"]], "answer": "Ho", "id": "x"},
        {
            "messages": [{"role": "system", "content": "Own."}, user],
            "system_prompt": "Be brief.",
            "answer": "Ho",
        },
        {"question": "Hi", "functions": [{"name": "f"}]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second, third = read_prompts(path, "Given.")
    asked = [(turn["role"], turn["content"]) for turn in first.messages]
    assert asked == [("system", "Be brief."), ("user", "a"), ("assistant", "b"), ("user", "Hi")]
    assert [turn.keys() for turn in first.messages] == [{"role", "content"}] * 4
    assert second.messages[0]["content"] == "Own."
    assert third.messages[0] == {"role": "system", "content": "Given."}
    assert third.template == {"tools": [{"type": "function", "function": {"name": "f"}}]}
    assert unused_content([first, second, third]) == [
        "1 row: column system_prompt: not used, because the conversation already has a system turn (row 2)",
        "not part of the prompts: column answer (2 rows)",
    ]
    for column in ("images", "videos", "audios"):
        path.write_text(json.dumps({"prompt": "What is this?", column: ["a.png"]}) + "\n")
        with pytest.raises(
            EvaluationError, match=rf'row 1, column "{column}".*only text models are supported'
        ):
            read_prompts(path)


def test_stored_answers_name_the_row_and_those_of_earlier_versions_are_used(loaded, tmp_path):
    """A store without the numbers of the rows holds the answers all the same."""
    prompts = [replace(one, place=replace(UNPLACED, row=row)) for row, one in enumerate(asked(3), start=1)]
    first = answered(loaded, prompts, tmp_path / "store", max_new_tokens=4)
    found = [json.loads(line) for line in (tmp_path / "store").read_text().splitlines()]
    rows = {one.key: one.place.row for one in prompts}
    assert [one.pop("file_row") for one in found] == [rows[one["key"]] for one in found]
    (tmp_path / "store").write_text("".join(json.dumps(one) + "\n" for one in found))
    earlier = AnswerStore(tmp_path / "store", "f")
    assert [[earlier.get(one, 0)] for one in prompts] == list(first.values())


def test_prompts_without_room_for_an_answer_are_refused(loaded, tmp_path):
    """GPT-2 has a table of 256 positions."""
    model = tiny_model("gpt2", vocab_size=len(loaded[1]))
    with pytest.raises(
        EvaluationError, match=r"6 prompts leave no room for 250 .* 256 positions that .*--max_new_tokens"
    ):
        answered((model, loaded[1]), asked(), tmp_path / "answers", max_new_tokens=250)


def test_a_rotary_model_answers_beyond_its_positions_with_a_warning(loaded, tmp_path, caplog):
    """All answers to a user find room by one rule. Red when: `ift generate` refuses what `ift chat` answers."""
    model, tokenizer = copy.deepcopy(loaded[0]), loaded[1]
    ids = [prompt_ids(tokenizer, list(one.messages), CHAT_TEMPLATE) for one in asked(2)]
    model.config.max_position_embeddings = 8
    assert answered((model, tokenizer), asked(2), tmp_path / "answers", max_new_tokens=4)["0"][0].tokens > 0
    (warning,) = caplog.messages
    assert warning.startswith("2 prompts and up to 4 new tokens are longer than the 8 positions of the model")
    assert room_for_answers(model, ids, 4) == 4
    trainer = SimpleNamespace(model=model, accelerator=SimpleNamespace(unwrap_model=lambda one: one))
    assert _longest_answer(trainer, [(1, ids[0], [5, 6])]) == 2 * 2 + SPARE_TOKENS
    learned = SimpleNamespace(model=tiny_model("gpt2"), accelerator=trainer.accelerator)
    assert _longest_answer(learned, [(1, [5] * 250, [5, 6])]) == 256 - 250


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"prompt": "Hi"}, [("user", "Hi")]),
        ({"instruction": "Add", "input": "1 2", "output": "3"}, [("user", "Add\n\n1 2")]),
        ({"question": "1 + 1?", "answer": "#### 2"}, [("user", "1 + 1?")]),
        ({"prompt": " ", "question": "1 + 1?"}, [("user", "1 + 1?")]),
        ({"prompt": None, "instruction": "", "input": "1 2"}, [("user", "\n\n1 2")]),
        (
            {"messages": [{"role": "user", "content": ""}, {"role": "user", "content": "Hi"}]},
            [("user", ""), ("user", "Hi")],
        ),
        (
            {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]},
            [("user", "Hi")],
        ),
        ({"turns": ["Hi", "Ho"]}, [("user", "Hi")]),
        (
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}]},
            [("user", "Hi")],
        ),
    ],
)
def test_forms_of_prompts(tmp_path, row, messages):
    (tmp_path / "rows.json").write_text(json.dumps([row]))
    (one,) = read_prompts(tmp_path / "rows.json", system="Be short")
    assert [(turn["role"], turn["content"]) for turn in one.messages] == [("system", "Be short"), *messages]
    assert one.further == (("Ho",) if "turns" in row else ())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows"),
        ('{"prompt": "a"}\n{"prompt": ', "line 2: found text that is not JSON"),
        (
            '{"text": "a"}',
            "rows.jsonl, row 1: found no prompt in the columns text. Fix: give one of turns",
        ),
        (
            '{"prompt": null}\n{"prompt": " "}\n{"prompt": "a"}',
            r'rows.jsonl, row 1, column "prompt": found null, expected a text. Fix: .*'
            r"\n1 row would be left out: the question is empty \(row 2\)",
        ),
        (
            '{"question": 3}\n{"prompt": "a"}\n{"prompt":\n{"question": 4}',
            r"rows.jsonl: 3 of 4 rows cannot be used.\n2 rows: column \"question\", expected a text.*"
            r"\n  row 1: found the number 3\n  row 4: found the number 4\nline 3: found text that is not JSON",
        ),
        (
            json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": None}]}),
            'row 1, column "messages", turn 2, key "content": found null',
        ),
        ('{"messages": "a"}', 'row 1, column "messages": found the string .a., expected a list of turns'),
        (
            json.dumps({"messages": [{"role": "narrator", "content": "a"}]}),
            'row 1, column "messages", turn 1, key "role": found the string \'narrator\'',
        ),
        (
            json.dumps(
                {"messages": [{"role": "system", "content": "a"}, {"role": "assistant", "content": "b"}]}
            ),
            "found system as the last turn before the answer, expected a turn of the user, or a tool's result",
        ),
        ('{"id": 1, "prompt": "a"}\n{"id": 1, "prompt": "b"}', "two rows have the id 1"),
        ("[3]", "row 1: found the number 3, expected one JSON object"),
    ],
)
def test_prompts_that_cannot_be_read_are_named(tmp_path, text, message):
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(EvaluationError, match=message):
        read_prompts(tmp_path / "rows.jsonl")


CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
TOOL_TURNS = [
    {"role": "user", "content": "1 + 2?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "name": "add", "content": "3"},
]


@pytest.mark.parametrize(
    ("turns", "kept"),
    [
        (TOOL_TURNS, 3),
        ([*TOOL_TURNS, {"role": "assistant", "content": "It is 3."}], 3),
        (TOOL_TURNS[:2], 1),
        ([TOOL_TURNS[0], {"role": "assistant", "content": None}], 1),
    ],
    ids=["a result at the end", "an answer after it", "a call at the end", "an empty answer"],
)
def test_tool_calls_and_results_are_part_of_the_prompt(tmp_path, turns, kept):
    """The call reaches the template, although its turn has no text; a turn of the assistant at the end does not."""
    (tmp_path / "rows.jsonl").write_text(json.dumps({"messages": turns}))
    (one,) = read_prompts(tmp_path / "rows.jsonl")
    wanted = [{**turn, "content": turn["content"] or ""} for turn in turns[:kept]]
    assert one.messages == wanted


def test_rows_that_the_template_refuses_are_named_and_the_others_answered(tmp_path):
    """The tiny base's template has no tool turns, and does not render tools, which is reported."""
    other = {"messages": [*TOOL_TURNS, {"role": "assistant", "content": "3."}]}
    rows = [
        {"messages": TOOL_TURNS},
        {"prompt": "1 plus 2 is?"},
        other,
        {"prompt": "a", "tools": [{"name": "f"}]},
    ]
    path, out = tmp_path / "p.jsonl", tmp_path / "out.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    code, output = generate(path, "--output", out, "--max_new_tokens", 4)
    assert code == 0, output
    said = output.splitlines()
    assert f"{path}: 2 of 4 rows cannot be used." in output
    for number in (1, 3):
        assert any(line.startswith(f"  row {number}: the chat template refuses") for line in said)
    assert "The other 2 are answered." in said
    assert (
        "1 row: column tools: not rendered by the chat template: the model does not see which tools there are (row 4)"
        in said
    )
    assert "2 answers to 2 of 4 prompts" in output
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == ["2", "4"]
    path.write_text(json.dumps(rows[0]))
    code, output = generate(path, "--output", tmp_path / "none.jsonl", "--max_new_tokens", 4)
    assert code == 1
    assert f"{path}, row 1: the chat template refuses this conversation" in output
    assert not (tmp_path / "none.jsonl").exists()


EMPTY_QUESTIONS = [
    {"question": ""},
    {"prompt": None, "instruction": " ", "input": ""},
    {"turns": ["a", ""]},
    {"messages": [{"role": "user", "content": "\n"}, {"role": "assistant", "content": "x"}]},
]


def test_rows_with_an_empty_question_are_named_and_the_others_answered(tmp_path):
    """As training drops them by name. Red when: one of them refuses the file, or is asked."""
    path, out = tmp_path / "p.jsonl", tmp_path / "out.jsonl"
    path.write_text("\n".join(map(json.dumps, [{"prompt": "1 plus 2 is?"}, *EMPTY_QUESTIONS])))
    code, output = generate(path, "--output", out, "--max_new_tokens", 4)
    assert code == 0, output
    assert f"{path}: 4 of 5 rows cannot be used." in output
    assert "4 rows. Fix: write a question, or take the row out" in output
    for number in (2, 3, 4, 5):
        assert f"  row {number}: the question is empty\n" in output
    assert "The other 1 are answered." not in output
    assert "1 answer to 1 of 5 prompts" in output
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == ["1"]


def generate(*words):
    done = CliRunner().invoke(app, ["generate", str(tiny_base_path()), *map(str, words)])
    return done.exit_code, done.output


def test_the_files_that_others_read(tmp_path):
    """By the prompts: AlpacaEval's rows, MT-Bench's questions with two turns, and any other."""
    rows = {
        "alpaca": [{"dataset": "helpful_base", "instruction": "Tom has 2. He gets 3. How many?"}],
        "bench": [{"question_id": 81, "category": "math", "turns": ["2 plus 3 is?", "And plus 1?"]}],
        "plain": [{"prompt": "2 plus 3 is?", "reference": "5"}],
    }
    found = {}
    for name, lines in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        out = tmp_path / f"{name}-out"
        code, output = generate(tmp_path / f"{name}.jsonl", "--output", out, "--max_new_tokens", 16)
        assert code == 0, output
        assert not out.with_name(f"{out.name}.answers").exists()
        found[name] = json.loads(out.read_text())
    (alpaca,) = found["alpaca"]
    assert alpaca.keys() == {"dataset", "instruction", "output", "generator"}
    assert (alpaca["instruction"], alpaca["generator"]) == (rows["alpaca"][0]["instruction"], "tiny_base")
    bench = found["bench"]
    assert (bench["question_id"], bench["model_id"]) == (81, "tiny_base")
    assert [len(choice["turns"]) for choice in bench["choices"]] == [2]
    assert (found["plain"]["file_row"], found["plain"]["row"]) == (1, rows["plain"][0])
    assert isinstance(found["plain"]["output"], str)


def test_mistakes_are_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"turns": ["a", "b"]}')
    for words, message in {
        (tmp_path / "none.jsonl",): "cannot be read",
        (tmp_path / "a.jsonl", "--format", "alpaca-eval"): "some prompts have several turns",
        (tmp_path / "a.jsonl", "--format", "csv"): "--format: found 'csv'; give one of jsonl",
        (tmp_path / "a.jsonl", "--top_p", 0): "--top_p: found 0",
        (tmp_path / "a.jsonl", "--temperature", -1): "--temperature: found -1",
    }.items():
        code, output = generate(*words, "--output", tmp_path / "out", "--max_new_tokens", 2)
        assert code == 1
        assert message in output
        assert not (tmp_path / "out").exists()


def test_stores_keep_what_they_are_given(tmp_path):
    store, (one, other) = AnswerStore(tmp_path / "a" / "b", "f"), asked(2)
    store.add([(one, 0, Turn("x\ny", True, 3))])
    again = AnswerStore(tmp_path / "a" / "b", "f")
    assert (again.get(one, 0), again.get(one, 1), again.get(other, 0)) == (Turn("x\ny", True, 3), None, None)

"""`ift generate --endpoint`, against a scripted server: the files, the counts and the resuming of local generation."""

import json
import threading

import pytest
from scripted_server import Script, serving

from ift.cli.main import app
from ift.generation.answers import Settings
from ift.generation.errors import EvaluationError
from ift.generation.prompts import read_prompts
from ift.lab.generate import generate
from ift.lab.judge.errors import JudgeError
from ift.models.loading import LoadOptions

PROMPTS = [{"prompt": "one"}, {"turns": ["two", "and three"]}, {"prompt": "four"}]


def reply(text, reason="stop"):
    return {
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": reason}],
        "usage": {"prompt_tokens": 5, "completion_tokens": len(text)},
    }


def echo(text, count):
    return reply(text.upper(), "length" if text == "four" else "stop")


@pytest.fixture
def answers(tmp_path, monkeypatch):
    """Runs the verb's work; the summary and the rows of the file."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-server")
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))

    def run(script, **settings):
        out.unlink(missing_ok=True)
        lines = generate(
            "org/model",
            str(prompts),
            str(out),
            None,
            Settings(**settings),
            1,
            None,
            None,
            LoadOptions(),
            script.url,
        )
        return lines, [json.loads(line) for line in out.read_text().splitlines()]

    return run


def test_the_file_and_the_counts_are_those_of_local_generation(answers, tmp_path):
    """An answer at its limit has not stopped. Red when: a turn is asked without the answer before it."""
    with serving(echo) as script:
        lines, rows = answers(script, max_new_tokens=9)
    assert lines[0] == "4 answers to 3 prompts, 3 of them stop with their end token"
    assert [row["output"] for row in rows] == ["ONE", ["TWO", "AND THREE"], "FOUR"]
    assert [row["stopped"] for row in rows] == [[True], [True, True], [False]]
    assert [row["tokens"] for row in rows] == [[3], [3, 9], [4]]
    assert {row["model"] for row in rows} == {"model"}
    bodies = [body for _, path, body in script.seen]
    assert {path for _, path, _ in script.seen} == {"/v1/chat/completions"}
    assert [turn["content"] for turn in bodies[-1]["messages"]] == ["two", "TWO", "and three"]
    assert {(body["model"], body["temperature"], body["max_tokens"]) for body in bodies} == {
        ("org/model", 0, 9)
    }
    assert not any("seed" in body for body in bodies)
    assert not list(tmp_path.glob("*.answers"))


def test_answers_without_text_are_counted(answers):
    with serving(lambda text, count: reply(" \n" if text == "one" else "yes")) as script:
        lines, _ = answers(script, max_new_tokens=9)
    assert lines[0] == "4 answers to 3 prompts, 4 of them stop with their end token, 1 without text"


def test_a_run_that_failed_asks_only_for_what_is_missing(answers):
    """Red when: an answer that arrived is asked for again, or one of another setting is taken."""
    refusing = Script.status(401)
    with serving(
        lambda text, count: refusing if text == "four" and count == 0 else echo(text, count)
    ) as script:
        with pytest.raises(JudgeError, match="the endpoint refuses the request: HTTP 401"):
            answers(script)
        assert len(script.seen) == 3
        _, rows = answers(script)
        assert len(script.seen) == 5
        assert rows[2]["output"] == "FOUR"
        answers(script, temperature=0.7, top_p=0.9, seed=3)
    assert len(script.seen) == 9
    body = script.seen[-1][2]
    assert (body["temperature"], body["top_p"], body["seed"]) == (0.7, 0.9, 3)


def test_the_key_of_another_server_is_not_sent(answers, monkeypatch):
    """OPENAI_API_KEY is set, see `answers`. Red when: any server that is named receives it."""
    with serving(echo) as script:
        answers(script)
        assert not any("Authorization" in headers for headers in script.headers)
        monkeypatch.setenv("IFT_ENDPOINT_API_KEY", "sk-right")
        answers(script, max_new_tokens=5)
    assert script.headers[-1]["Authorization"] == "Bearer sk-right"


def test_a_failure_leaves_no_thread_of_the_progress_bar(answers):
    """Red when: the bar is a generator that nobody closes: its threads live on, and garbage collection that closes it
    in one of them, or in one that holds a lock of the terminal, waits for ever."""
    before = set(threading.enumerate())
    with serving(lambda text, count: Script.status(401) if text == "four" else echo(text, count)) as script:
        with pytest.raises(JudgeError, match="HTTP 401") as failure:
            answers(script)
        left = [thread for thread in set(threading.enumerate()) - before if "rich" in type(thread).__module__]
    assert not left, f"{left} after {failure.value!r}"


def test_a_prompt_that_the_server_refuses_is_named(answers):
    too_long = Script.status(400, {"error": {"message": "maximum context length is 5 tokens"}})
    with (
        serving(lambda text, count: too_long if text == "four" else echo(text, count)) as script,
        pytest.raises(EvaluationError, match=r"prompt 3 was not answered: .*too long.* --max_new_tokens"),
    ):
        answers(script)


def test_a_reply_without_a_choice_is_asked_for_again_and_never_stored(answers, tmp_path):
    """Red when: an answer that the server never gave is stored as a whole one without text."""
    nothing = {"choices": [], "usage": {"completion_tokens": 0}}
    with serving(
        lambda text, count: nothing if text == "one" and count == 0 else echo(text, count)
    ) as script:
        _, rows = answers(script)
    assert rows[0]["output"] == "ONE"
    with serving(lambda text, count: nothing if text == "four" else echo(text, count)) as script:
        with pytest.raises(EvaluationError, match="prompt 3 was not answered: 3 replies without a choice"):
            answers(script)
        stored = [file.read_text() for file in tmp_path.glob("*.answers")]
    assert len(stored) == 1
    assert "ONE" in stored[0]


def test_a_finished_file_is_not_replaced(tmp_path, capsys):
    prompts, out = tmp_path / "p.jsonl", tmp_path / "o.jsonl"
    prompts.write_text('{"prompt": "x"}\n')
    out.write_text("answers of another model\n")
    words = ["generate", "m", str(prompts), "--output", str(out), "--endpoint", "http://127.0.0.1:9/v1"]
    assert app(words, standalone_mode=False) == 1
    assert (
        "o.jsonl: this file exists, and it would be replaced by another one. Fix: " in capsys.readouterr().err
    )
    assert out.read_text() == "answers of another model\n"


def test_tools_are_not_left_out_on_the_way_to_a_server(tmp_path, capsys):
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt": "x", "tools": [{"name": "f"}]}\n')
    words = [
        "generate",
        "m",
        str(prompts),
        "--output",
        str(tmp_path / "o.jsonl"),
        "--endpoint",
        "http://127.0.0.1:9/v1",
    ]
    assert app(words, standalone_mode=False) == 1
    assert (
        "p.jsonl, row 1: found tools, which are not sent to a server. Fix: leave --endpoint out"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--endpoint", "localhost"],
            "--endpoint is not an address; give one such as http://localhost:8000/v1",
        ),
        (
            ["--endpoint", "http://x/v1", "--dtype", "bfloat16"],
            "--endpoint: the server has loaded the model.",
        ),
        (
            ["--endpoint", "http://x/v1", "--dataset_columns", "Frage=instruction"],
            'dataset_columns: found no column "Frage" among prompt. Fix: name one of these',
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(words, message, tmp_path, capsys):
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt": "x"}\n')
    words = ["generate", "m", str(prompts), "--output", str(tmp_path / "o.jsonl"), *words]
    assert app(words, standalone_mode=False) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--dataset_columns", "--dataset-columns"])
def test_columns_are_renamed_as_in_training(flag, tmp_path, capsys):
    """A file of a spreadsheet with semicolons. Red when: only the first pair is read, or the separator is not named."""
    (tmp_path / "fragen.csv").write_text("Frage;Antwort\nWann?;Um zehn.\n")
    out = tmp_path / "out.jsonl"
    with serving(echo) as script:
        words = ["generate", "m", str(tmp_path / "fragen.csv"), "--endpoint", script.url]
        words += [flag, "Frage=instruction", "Antwort=output", "--output", str(out)]
        assert app(words, standalone_mode=False) == 0
    said = capsys.readouterr().out
    assert "fragen.csv: row 1 is the first below the header; the fields are separated by a semicolon" in said
    assert "not part of the prompts: column output (1 row)" in said
    (row,) = map(json.loads, out.read_text().splitlines())
    assert (row["output"], row["row"]) == ("WANN?", {"instruction": "Wann?", "output": "Um zehn."})


def test_advice_on_columns_names_those_of_the_file(tmp_path):
    """Red when: the advice renames `q`, which the command made of the file's `Meine Frage`."""
    (tmp_path / "fragen.csv").write_text("Meine Frage,Thema\nWann?,x\n")
    with pytest.raises(EvaluationError, match="--dataset_columns 'Meine Frage=instruction'"):
        read_prompts(tmp_path / "fragen.csv", columns={"Meine Frage": "q"})


def test_a_pair_that_is_none_is_a_wrong_command_line(capsys):
    assert app(["generate", "m", "p.csv", "--dataset_columns", "Frage"], standalone_mode=False) == 2
    assert "--dataset_columns: found 'Frage', expected old=new" in capsys.readouterr().err

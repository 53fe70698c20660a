"""`ift generate --endpoint` and `ift judge` against a real server: `transformers serve` on the loopback interface.

It serves a folder that `ift train` saved: the shipped tiny base, which solves word problems, trained further to give
every pair of answers the verdict "1".
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from ift.cli.main import app
from ift.lab import generate
from ift.lab.judge.questions import pair_question
from ift.lab.report import load
from ift.lab.testbed import problems, tiny_base_path
from ift.runs.from_python import train_method

pytestmark = pytest.mark.slow

NEEDED = ("fastapi", "uvicorn", "openai", "pydantic")
SERVE = "from transformers.cli.transformers import main; main()"
VERDICT = '{"verdict": "1"}'  # one token of the model
WHOLE = "{{- message.content -}}"
SHORT = "{{- message.content[-24:] if messages[0].role == 'system' else message.content -}}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The trained model; of the judge's long questions its template writes the ends, so that they fit."""
    for name in NEEDED:
        pytest.importorskip(name, reason=f"{name} is not installed: pip install 'transformers[serving]'")
    base = tmp_path_factory.mktemp("base") / "base"
    tokenizer = AutoTokenizer.from_pretrained(tiny_base_path())
    tokenizer.add_tokens([VERDICT])
    tokenizer.chat_template = tokenizer.chat_template.replace(WHOLE, SHORT)
    tokenizer.save_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(tiny_base_path())
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(base)
    judged = {"messages": [*pair_question("a", "b", "c"), {"role": "assistant", "content": VERDICT}]}
    rows = [problem.row for problem in problems("train", 8)] + [judged] * 8
    settings = {"learning_rate": 2e-3, "max_steps": 24, "per_device_train_batch_size": 4}
    settings |= {"lr_scheduler_type": "constant"}
    train_method("ift", base, rows, base.parent / "trained", settings)
    return base.parent / "trained"


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory):
    """The running server: its `address`, and `requests()`, the number of chats it has answered."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    words = ("serve", str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu")
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, *words],
            stdout=out,
            stderr=out,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )

    def requests():
        return len(re.findall(r"POST /v1/chat/completions HTTP/1.1\S* 200", log.read_text()))

    try:
        for _ in range(480):
            assert process.poll() is None, log.read_text()[-2000:]
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.25)
        yield SimpleNamespace(address=f"http://127.0.0.1:{port}/v1", requests=requests)
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture
def prompts(tmp_path):
    """Four word problems, the last as the second turn of a chat."""
    first, second, third, fourth = (problem.row["messages"][0]["content"] for problem in problems("test", 4))
    rows = [{"prompt": first}, {"prompt": second}, {"turns": [third, fourth]}]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def ift(*words):
    return CliRunner().invoke(app, [*map(str, words)])


def answer(folder, prompts, output, *words):
    return ift("generate", folder, prompts, "--output", output, "--max_new_tokens", 64, *words)


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_greedy_answers_are_those_of_the_model_loaded_here(folder, server, prompts, tmp_path):
    """The server counts the end token of an answer, ift does not. Red when: template or stopping differ."""
    served, local = tmp_path / "served.jsonl", tmp_path / "local.jsonl"
    done = answer(folder, prompts, served, "--endpoint", server.address)
    assert done.exit_code == 0, done.output
    assert server.requests() == 4
    again = answer(folder, prompts, local)
    assert again.exit_code == 0, again.output
    counts = re.search(
        "4 answers to 3 prompts, [1-4] of them stops? with (?:its|their) end token", done.output
    )
    assert counts.group() in again.output
    found, expected = read(served), read(local)
    for row in found:
        row["tokens"] = [n - stopped for n, stopped in zip(row["tokens"], row["stopped"], strict=True)]
    assert found == expected


def test_a_run_that_failed_asks_for_nothing_twice(folder, server, prompts, tmp_path, monkeypatch):
    """Every answer has arrived when the file cannot be written; the same command writes it without a request."""
    before = server.requests()
    with monkeypatch.context() as patch:
        patch.setattr(generate, "write_answers", lambda *words: (_ for _ in ()).throw(OSError("disk full")))
        assert answer(folder, prompts, tmp_path / "out.jsonl", "--endpoint", server.address).exit_code != 0
    assert server.requests() == before + 4
    done = answer(folder, prompts, tmp_path / "out.jsonl", "--endpoint", server.address)
    assert done.exit_code == 0, done.output
    assert "4 of 4 answers were generated before" in done.output
    assert server.requests() == before + 4
    assert len(read(tmp_path / "out.jsonl")) == 3


def test_this_server_draws_no_samples_unless_the_model_s_folder_says_so(folder, server, prompts, tmp_path):
    """docs/serving.md warns of it. Red when: transformers takes a temperature for a wish to sample."""
    outputs = []
    for temperature, seed in ((0, 0), (1.5, 1), (1.5, 2)):
        out = tmp_path / f"{seed}.jsonl"
        words = ("--temperature", temperature, "--seed", seed, "--endpoint", server.address)
        assert answer(folder, prompts, out, *words).exit_code == 0
        outputs.append([row["output"] for row in read(out)])
    assert outputs[0] == outputs[1] == outputs[2]


def test_the_server_knows_its_model_by_the_words_it_was_started_with(server, prompts, tmp_path):
    done = answer("another", prompts, tmp_path / "out.jsonl", "--endpoint", server.address)
    assert done.exit_code == 1
    assert "the endpoint refuses the request: HTTP 400 Server is pinned to" in " ".join(done.output.split())


def test_the_judge_s_verdicts_are_read_counted_and_kept(folder, server, tmp_path, monkeypatch):
    """Three pairs, each in both orders, and always the verdict "1": every pair is a tie."""
    monkeypatch.setenv("IFT_JUDGE_BASE_URL", server.address)
    solved = [[turn["content"] for turn in problem.row["messages"]] for problem in problems("test", 3)]
    for name, end in (("right", ""), ("wrong", "0")):
        rows = [{"instruction": question, "output": text + end} for question, text in solved]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    words = ("judge", tmp_path / "right.json", tmp_path / "wrong.json", "--judge", folder)
    words = (*words, "--output_dir", tmp_path / "judged", "--max_tokens", 4)
    before = server.requests()
    done = ift(*words, "--yes")
    assert done.exit_code == 0, done.output + (tmp_path / "judged" / "verdicts.jsonl").read_text()
    assert server.requests() == before + 6
    scores = load(tmp_path / "judged" / "record.json").scores["all"]
    assert (scores["n"], scores["win_rate"], scores["ties"], scores["missing"]) == (3, 0.5, 3, 0)
    verdicts = read(tmp_path / "judged" / "verdicts.jsonl")
    assert [one["points"] for one in verdicts] == [[1, 0]] * 3
    assert {reply for one in verdicts for reply in one["replies"]} == {VERDICT}
    again = ift(*words)  # without --yes: nothing is left to ask
    assert again.exit_code == 0, again.output
    assert "6 of 6 questions: judged before" in " ".join(again.output.split())
    assert server.requests() == before + 6

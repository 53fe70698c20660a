"""The protocol against a real server: `transformers serve` on the loopback interface, with the shipped tiny model."""

import os
import socket
import subprocess
import sys
import time

import pytest

from ift.lab.judge.cache import ReplyCache
from ift.lab.judge.endpoint import Endpoint
from ift.lab.judge.judging import Judge, Question
from ift.lab.testbed import problems, tiny_base_path

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    for name in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(
            name, reason=f"transformers serve needs {name}: pip install 'transformers[serving]'"
        )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    script = "from transformers.cli.transformers import main; main()"
    words = ("serve", str(tiny_base_path()), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu")
    with log.open("w") as out:
        server = subprocess.Popen(
            [sys.executable, "-c", script, *words],
            stdout=out,
            stderr=out,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
    try:
        for _ in range(240):
            assert server.poll() is None, log.read_text()[-2000:]
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(timeout=30)


def test_questions_are_answered_counted_and_kept(address, tmp_path, monkeypatch):
    """The model solves word problems: its replies end in `#### N`, which is what is read here."""
    monkeypatch.setenv("IFT_JUDGE_BASE_URL", address)
    endpoint = Endpoint(str(tiny_base_path()), timeout_seconds=60)
    cache = ReplyCache(tmp_path / "replies.sqlite")
    judge = Judge(endpoint, cache, max_tokens=96, threads=2)

    def read(reply):
        return reply.rpartition("#### ")[2] or None

    questions = [
        Question(str(number), problem.row["messages"][:1], read)
        for number, problem in enumerate(problems("test", 3))
    ]
    found = judge.judge(questions)
    assert all(one.reply for one in found)
    assert sum(one.value is not None for one in found) >= 2
    assert judge.completion_tokens > 10
    used = judge.completion_tokens
    assert judge.judge(questions) == found
    assert judge.completion_tokens == used  # nothing was asked again
    endpoint.close()

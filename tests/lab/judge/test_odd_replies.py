"""Replies and errors as gateways give them: each is read, counted as no verdict, retried, or ends the run at once."""

import json
import re
import signal
import sqlite3
import threading
import time
from email.utils import formatdate

import pytest
from scripted_server import Script, serving

from ift.lab.judge.cache import ReplyCache, reply_key
from ift.lab.judge.endpoint import Endpoint
from ift.lab.judge.errors import JudgeError
from ift.lab.judge.judging import Judge, Question
from ift.lab.judge.questions import read_verdict
from ift.lab.judge.replies import (
    CUT,
    FILTERED,
    NO_CHOICE,
    NO_TEXT,
    NO_VERDICT,
    REFUSED,
    TOO_LONG,
    TOOL_CALL,
    Reply,
)  # fmt: skip

GOOD = '{"reason": "so", "verdict": "1"}'
SYSTEM = {"role": "system", "content": "Judge."}


def question(number):
    return Question(str(number), [SYSTEM, {"role": "user", "content": f"question {number}"}], read_verdict)


@pytest.fixture
def judge(tmp_path, monkeypatch):
    """Judges questions 0 to `count` - 1 on a server; returns the outcomes and the judge."""

    def run(script, count=1, threads=3, progress=lambda: None, tries=4):
        monkeypatch.setenv("IFT_JUDGE_BASE_URL", script.url)
        monkeypatch.setenv("IFT_JUDGE_API_KEY", "sk-secret")
        endpoint = Endpoint("judge", tries=tries, wait_seconds=0.01)
        cache = ReplyCache(tmp_path / "replies.sqlite")
        asked = Judge(endpoint, cache, threads=threads)
        try:
            return asked.judge([question(number) for number in range(count)], progress), asked
        finally:
            endpoint.close()
            cache.close()

    return run


def body(finish_reason="stop", usage=None, **message):
    return {"choices": [{"message": message, "finish_reason": finish_reason}], "usage": usage}


THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": 'perhaps {"verdict": "2"}'}]}
PARTS = [{"type": "text", "text": GOOD[:12]}, {"type": "text", "text": GOOD[12:]}]
CALL = {"type": "function", "function": {"name": "judge", "arguments": GOOD}}


@pytest.mark.parametrize(
    ("reply", "value", "problem", "requests"),
    [
        (body("content_filter", content=None), None, FILTERED, 1),
        ({"choices": [{"message": None, "finish_reason": "stop"}]}, None, NO_TEXT, 3),
        ({"choices": [{"message": GOOD}]}, None, NO_TEXT, 3),
        ({"choices": [], "usage": {"prompt_tokens": 7}}, None, NO_CHOICE, 3),
        ({"choices": None}, None, NO_CHOICE, 3),
        ({"choices": ["?"]}, None, NO_CHOICE, 3),
        (body(content=[THOUGHT, *PARTS]), "1", "", 1),
        (body(content=PARTS[0] | {"text": GOOD}), "1", "", 1),
        (body(content=[{"type": "image_url", "image_url": {"url": "x"}}]), None, NO_TEXT, 3),
        (body(content="  \n"), None, NO_TEXT, 3),
        (body(content="I am a teapot"), None, NO_VERDICT, 3),
        (body(content=None, refusal="I must not judge this."), None, REFUSED, 1),
        (body("tool_calls", content=None, tool_calls=[CALL]), None, TOOL_CALL, 1),
        (body("length", content=None, reasoning_content="let me think"), None, CUT, 1),
        (body("length", content='{"reason": "bec'), None, CUT, 1),
        (body("length", content='<think>perhaps {"verdict": "2"}, but'), None, CUT, 1),
        (body("length", content=f"{GOOD} My second thought is"), "1", "", 1),
        (body(content=GOOD, usage="n/a"), "1", "", 1),
        (body(content=GOOD, usage=[1]), "1", "", 1),
        (body(content=GOOD, usage={"prompt_tokens": "7", "completion_tokens": float("nan")}), "1", "", 1),
        (b'{"choices": [{"message": {"content": "{\\"verdict\\": \\"1\\"} \\ude00 \\ud83d"}}]}', "1", "", 1),
    ],
)  # fmt: skip
def test_what_a_reply_comes_to(reply, value, problem, requests, judge, tmp_path):
    """No verdict is counted under its reason; what the same question would bring again is not asked for again."""
    with serving(lambda text, count: reply) as script:
        (found,), asked = judge(script)
        assert (found.value, found.problem) == (value, problem)
        assert len(script.seen) == requests
        (again,), _ = judge(script)
        assert again == found
        assert len(script.seen) == requests  # paid for, so kept
    assert asked.uncounted == (0 if asked.prompt_tokens else requests)
    found.reply.encode()  # no half characters


def test_tokens_are_those_that_the_endpoint_counts(judge):
    usage = {"prompt_tokens": 12, "completion_tokens": 3.0}
    with serving(lambda text, count: body(content=GOOD, usage=usage)) as script:
        _, asked = judge(script, count=2)
    assert (asked.prompt_tokens, asked.completion_tokens, asked.uncounted) == (24, 6, 0)


ONCE = {
    "an error with status 200": ({"error": {"message": "no such model"}}, "HTTP 200 with the error: no such model"),
    "vLLM's error, status 200": ({"object": "error", "message": "no LoRA x", "code": 404}, "the error: no LoRA x"),
    "an error in a choice": ({"choices": [{"error": {"code": 403, "message": "no"}}]}, "with the error: no"),
    "a list of errors": (Script.status(403, [{"error": {"message": "a bad key"}}]), "HTTP 403 a bad key"),
    "FastAPI's": (Script.status(404, {"detail": "Not Found"}), "HTTP 404 Not Found"),
    "a text": (Script.status(402, {"error": "no credit, sk-secret"}), r"HTTP 402 no credit, \*\*\*"),
    "a quota that is used up": (
        Script.status(429, {"error": {"code": "insufficient_quota", "message": "pay"}}), "HTTP 429 pay"),
    "a redirection": (Script.status(301), "HTTP 301"),
    "no chat completion": ({"content": [{"type": "text", "text": GOOD}], "id": 1}, r"it holds content, id"),
    "a list": ([], "no chat completion"),
    "a number": (b"7", "it holds int"),
}  # fmt: skip


@pytest.mark.parametrize("name", ONCE)
def test_what_cannot_change_ends_the_run_after_one_request(name, judge):
    reply, message = ONCE[name]
    with serving(lambda text, count: reply) as script:
        with pytest.raises(JudgeError, match=f"the endpoint refuses the request: .*{message}"):
            judge(script)
        assert len(script.seen) == 1


@pytest.mark.parametrize(
    "fault",
    [
        {"error": {"code": 429, "message": "slow down"}},
        {"error": {"code": "502", "message": "bad gateway"}},
        {"error": {"type": "overloaded_error", "message": "busy"}},
        {"choices": [{"error": {"code": 503, "message": "gone"}, "finish_reason": "error"}]},
        Script.status(408),
        Script.status(409),
        Script.status(507),
        Script.status(429, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"),
        Script.status(429, Retry_After="soon"),
        b"",
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_what_may_pass_is_retried(fault, judge):
    with serving(lambda text, count: GOOD if count == 2 else fault) as script:
        (found,), _ = judge(script)
        assert found.value == "1"
        assert len(script.seen) == 3


def test_a_page_instead_of_json_is_retried_twice_and_shown(judge):
    with serving(lambda text, count: b"<html>maintenance</html>") as script:
        with pytest.raises(
            JudgeError, match=r"not answer in 3 tries .* without JSON: '<html>maintenance</html>'"
        ):
            judge(script, tries=6)
        assert len(script.seen) == 3


def test_all_threads_wait_as_long_as_the_endpoint_asks(judge):
    with serving(lambda text, count: GOOD if count else Script.status(429, Retry_After="0.3")) as script:
        judge(script, count=3)
        first, *_, last = [when for when, _, _ in script.seen]
        assert last - first >= 0.29


@pytest.mark.parametrize(
    "value", ["3600", formatdate(time.time() + 3600, usegmt=True)], ids=["seconds", "date"]
)
def test_a_wait_that_is_too_long_ends_the_run(value, judge):
    with serving(lambda text, count: Script.status(429, Retry_After=value)) as script:
        with pytest.raises(
            JudgeError, match=r"asks to wait 3,\d+ s \(Retry-After\)\. Earlier replies are kept"
        ):
            judge(script)
        assert len(script.seen) == 1


@pytest.mark.parametrize(
    ("refusal", "problem"),
    [
        (Script.status(400, {"error": {"code": "context_length_exceeded", "message": "max_tokens"}}), TOO_LONG),
        (Script.status(413, {}), TOO_LONG),
        (Script.status(400, {"error": {"code": "content_filter", "message": "no"}}), FILTERED),
        (Script.status(403, {"error": {"message": "requires moderation on X. Your input was flagged"}}), FILTERED),
    ],
)  # fmt: skip
def test_one_question_that_the_endpoint_does_not_take_is_counted(refusal, problem, judge):
    """The others are judged; it costs nothing, so the next run asks it again."""
    with serving(lambda text, count: refusal if text == "question 1" else GOOD) as script:
        found, asked = judge(script, count=3)
        assert [(one.value, one.problem) for one in found] == [("1", ""), (None, problem), ("1", "")]
        assert len(script.seen) == 3
        assert asked.endpoint.form.limit_name == "max_tokens"
    with serving(lambda text, count: GOOD) as script:
        found, _ = judge(script, count=3)
        assert [one.value for one in found] == ["1"] * 3
        assert len(script.seen) == 1


def wants_reasoning_form(body):
    """As models that reason: one unsupported parameter is named at a time."""
    if "max_tokens" in body:
        return {"error": {"message": "Unsupported parameter.", "param": "max_tokens"}}
    if body.get("temperature") == 0:
        return {"error": {"message": "invalid temperature: only 1 is allowed for this model"}}
    return None


def wants_no_system(body):
    roles = [one["role"] for one in body["messages"]]
    return {"message": "System role not supported"} if "system" in roles else None


def test_the_form_that_a_model_wants_is_learnt_once(judge):
    with serving(lambda text, count: GOOD, wants_reasoning_form) as script:
        found, _ = judge(script, count=8, threads=1)
        assert [one.value for one in found] == ["1"] * 8
        assert len(script.seen) == 8 + 2
        assert script.seen[-1][2] == {
            "model": "judge", "max_completion_tokens": 300, "messages": question(7).messages,
        }  # fmt: skip


def test_threads_learn_together(judge):
    with serving(lambda text, count: GOOD, wants_reasoning_form) as script:
        found, _ = judge(script, count=12, threads=6, tries=1)
        assert [one.value for one in found] == ["1"] * 12
        assert len(script.seen) <= 12 + 6 * 2


@pytest.mark.parametrize("status", [400, 500])
def test_a_model_without_a_system_role_gets_one_message(judge, status):
    def answer(text, count):
        refused = wants_no_system(script.seen[-1][2])
        return Script.status(status, refused) if refused else GOOD

    with serving(answer) as script:
        (found,), _ = judge(script)
        assert found.value == "1"
        assert script.seen[-1][2]["messages"] == [{"role": "user", "content": "Judge.\n\nquestion 0"}]


def test_a_form_that_no_change_helps_is_refused(judge):
    refusal = {"error": {"message": "Unsupported: max_tokens, temperature, system message"}}
    with serving(lambda text, count: GOOD, lambda body: refusal) as script:
        with pytest.raises(JudgeError, match="HTTP 400 Unsupported: max_tokens"):
            judge(script)
        assert len(script.seen) == 4  # as it was, and after each of three changes


def test_a_run_without_any_verdict_stops_early(judge):
    """20 questions are enough to see that every reply is cut; the other 20 are not paid for."""
    with serving(lambda text, count: body("length", content="")) as script:
        with pytest.raises(JudgeError, match=r"first 20 questions got no verdict \(20 cut at --max_tokens"):
            judge(script, count=40)
        assert len(script.seen) < 30
    with serving(lambda text, count: GOOD if text == "question 7" else body("length")) as script:
        found, _ = judge(script, count=40)
        assert sum(one.value is not None for one in found) <= 1


@pytest.fixture
def sigint_raises():
    """KeyboardInterrupt at SIGINT, which is ignored where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def asked(script):
    """The questions that the server saw; one that it saw twice counts once."""
    return {body["messages"][-1]["content"] for _, _, body in script.seen}


@pytest.mark.usefixtures("sigint_raises")
def test_ctrl_c_keeps_what_was_paid_for(judge):
    """Ctrl-C at the third reply; every reply of the server is kept, and the next run asks for the others only."""

    def answer(text, count):
        if text == "question 2":
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            time.sleep(0.2)
        return GOOD

    with serving(answer) as script:
        with pytest.raises(KeyboardInterrupt):
            judge(script, count=30)
        before = asked(script)
        assert len(before) == len(script.seen) < 30
    with serving(lambda text, count: GOOD) as script:
        found, _ = judge(script, count=30)
        assert [one.value for one in found] == ["1"] * 30
        assert asked(script) == {question(number).messages[-1]["content"] for number in range(30)} - before
        assert len(script.seen) == 30 - len(before)


def test_stopping_does_not_wait_for_retries(judge):
    """One question is refused for good while another waits for its next attempt: the run ends at once."""

    first_asked = threading.Event()  # a wait of 60 seconds would hold it back, too

    def answer(text, count):
        if text != "question 1":
            first_asked.wait(30)
            return Script.status(429, Retry_After="60")
        first_asked.set()
        time.sleep(0.2)
        return Script.status(401)

    with serving(answer) as script:
        began = time.monotonic()
        with pytest.raises(JudgeError, match="HTTP 401"):
            judge(script, count=2)
        assert time.monotonic() - began < 20


def test_replies_of_earlier_versions_are_kept(tmp_path):
    """Their table has no problems."""
    path = tmp_path / "replies.sqlite"
    key = reply_key("judge", question(0).messages, 300, 0)
    with sqlite3.connect(path) as base:
        base.execute(
            "CREATE TABLE replies (key TEXT PRIMARY KEY, text TEXT NOT NULL, "
            "prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL)"
        )
        base.execute("INSERT INTO replies VALUES (?, ?, 1, 2)", (key, GOOD))
    base.close()
    cache = ReplyCache(path)
    assert cache.get(key) == Reply(GOOD, 1, 2)
    assert (
        cache.put("other", Reply("", 3, 4, CUT))
        == cache.put("other", Reply(GOOD, 1, 1))
        == Reply("", 3, 4, CUT)
    )
    cache.close()


def test_a_file_of_replies_that_cannot_be_used_is_named(tmp_path):
    path = tmp_path / "replies.sqlite"
    path.write_text(json.dumps({"not": "a data base"}) * 100)
    with pytest.raises(
        JudgeError, match=f"{re.escape(str(path))}: the replies cannot be read or kept .*--output_dir"
    ):
        ReplyCache(path)
    with pytest.raises(JudgeError, match="cannot be made"):
        ReplyCache(path / "folder" / "replies.sqlite")

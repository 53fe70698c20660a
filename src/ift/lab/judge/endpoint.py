"""An OpenAI-compatible chat endpoint: transient failures are retried, at a limited rate; the key is never shown."""

import os
import random
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import httpx2

from ift.lab.judge.errors import JudgeError, QuestionRefused, Stopped
from ift.lab.judge.replies import Failure, FailureKind, Reply, read_response

URL_NAMES, KEY_NAMES = ("IFT_JUDGE_BASE_URL", "OPENAI_BASE_URL"), ("IFT_JUDGE_API_KEY", "OPENAI_API_KEY")
_LONGEST_WAIT_SECONDS = 120.0
_KEPT = "Earlier replies are kept: the same command resumes"
_NOT_TAKEN = re.compile(
    r"unsupported|not support|not permitted|not allowed|unrecognized|unknown|unexpected|deprecated|instead",
    re.I,
)
_SYSTEM = re.compile(r"system.{0,20}(role|message|prompt|instruction)|role.{0,40}system", re.I)


@dataclass(frozen=True)
class RequestForm:
    """What a request holds: the form of OpenAI's first chat models, until the endpoint refuses a part of it."""

    # the field with the longest reply; reasoning models want `max_completion_tokens`
    limit_name: str = "max_tokens"
    temperature: bool = True  # whether a temperature is requested; some models accept their default only
    # whether the system message stands alone; otherwise it is put before the user's first text
    system: bool = True

    def body(
        self, model: str, messages: list[dict[str, str]], max_tokens: int, sampling: Mapping[str, float]
    ) -> dict[str, Any]:
        """The JSON body of a request."""
        if not self.system and len(messages) > 1 and messages[0]["role"] == "system":
            system, user, *further = messages
            messages = [{**user, "content": f"{system['content']}\n\n{user['content']}"}, *further]
        given = {name: x for name, x in sampling.items() if self.temperature or name != "temperature"}
        return {"model": model, "messages": messages, **given, self.limit_name: max_tokens}

    def without_what_is_refused(self, words: str) -> "RequestForm | None":
        """The form to try next after a refusal in these words; None where they name nothing that can change."""
        if self.limit_name == "max_tokens" and "max_tokens" in words and _NOT_TAKEN.search(words):
            return replace(self, limit_name="max_completion_tokens")
        if self.temperature and "temperature" in words:
            return replace(self, temperature=False)
        if self.system and _SYSTEM.search(words) and _NOT_TAKEN.search(words):
            return replace(self, system=False)
        return None


class Endpoint:
    """Sends chats, one reply each. Safe to use from several threads.

    At most `tries` attempts are made at one chat, each of at most `timeout_seconds`; `wait_seconds` pass before the
    second and twice as many before each further one. Without an `address` the environment names it. `key_names` are the
    environment's variables with the key, the first that is set counts. `sampling` is sent with every chat.

    Raises:
        JudgeError: The environment names no endpoint, or an address or a key that cannot be used.
    """

    def __init__(
        self,
        model: str,
        requests_per_minute: float | None = None,
        tries: int = 6,
        timeout_seconds: float = 120,
        wait_seconds: float = 1,
        address: str | None = None,
        key_names: tuple[str, ...] = KEY_NAMES,
        sampling: Mapping[str, float] = MappingProxyType({"temperature": 0}),
    ) -> None:
        self._key, self.sampling = _key(key_names), sampling
        self._client = httpx2.Client(
            base_url=_address(*_from_environment(URL_NAMES))
            if address is None
            else _address("--endpoint", address),
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=timeout_seconds,
        )
        self.model, self.tries, self.wait_seconds = model, tries, wait_seconds
        self.form = RequestForm()
        self._gap = 60 / requests_per_minute if requests_per_minute else 0.0
        self._lock, self._next, self._stopped = threading.Lock(), 0.0, threading.Event()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def stop(self) -> None:
        """Begin no further request: every `ask` that is not waiting for a reply raises `Stopped`."""
        self._stopped.set()

    def ask(self, messages: list[dict[str, str]], max_tokens: int) -> Reply:
        """One reply to a chat (`role` and `content` each), with `sampling` as far as the model accepts it.

        Raises:
            QuestionRefused: The endpoint accepts other chats, but not this one.
            JudgeError: Every attempt failed, or the endpoint would refuse every request.
            Stopped: `stop` was called.
        """
        attempt = 0
        while True:
            form = self.form
            found = self._send(form, messages, max_tokens)
            if isinstance(found, Reply):
                return found
            if self._adapt(form, found):
                continue  # this request cost nothing and is no attempt
            if found.kind is FailureKind.QUESTION:
                raise QuestionRefused(found.problem)
            if found.kind is FailureKind.PERMANENT:
                raise JudgeError(f"the endpoint refuses the request: {found.problem}")
            attempt += 1
            tries = min(self.tries, found.tries or self.tries)
            if attempt >= tries:
                raise JudgeError(
                    f"the endpoint at {self._client.base_url.netloc.decode()} did not answer in {tries} tries "
                    f"(the last: {found.problem}). {_KEPT}"
                )
            self._wait(attempt, found.wait_seconds)

    def _send(self, form: RequestForm, messages: list[dict[str, str]], max_tokens: int) -> Reply | Failure:
        self._take_turn()
        try:
            response = self._client.post(
                "/chat/completions", json=form.body(self.model, messages, max_tokens, self.sampling)
            )
        except httpx2.RequestError as error:  # no connection, a broken one, a time-out
            return Failure(FailureKind.TEMPORARY, type(error).__name__)
        found = read_response(response.status_code, response.content, response.headers)
        if isinstance(found, Failure) and self._key:
            return replace(found, problem=found.problem.replace(self._key, "***"))
        return found

    def _adapt(self, sent: RequestForm, failure: Failure) -> bool:
        """Whether to try another form of the request: the endpoint named a part that it does not accept."""
        with self._lock:
            if failure.kind is FailureKind.QUESTION:
                return False
            if self.form != sent:  # another thread has adapted it
                return failure.kind is FailureKind.PERMANENT
            form = sent.without_what_is_refused(failure.words)
            self.form = form or sent
            return form is not None

    def _wait(self, attempt: int, asked_seconds: float) -> None:
        """Wait before the next attempt: twice as long each time, or what the endpoint asks all threads to wait."""
        if asked_seconds > _LONGEST_WAIT_SECONDS:
            raise JudgeError(f"the endpoint asks to wait {asked_seconds:,.0f} s (Retry-After). {_KEPT} then")
        if asked_seconds:
            with self._lock:
                self._next = max(self._next, time.monotonic() + asked_seconds)
        backoff = self.wait_seconds * 2 ** (attempt - 1) * random.uniform(0.8, 1.2)
        self._stopped.wait(min(backoff, _LONGEST_WAIT_SECONDS))

    def _take_turn(self) -> None:
        """Wait until the rate allows another request; raises Stopped if `stop` was called."""
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._next)
            self._next = begin + self._gap
        if self._stopped.wait(begin - now):
            raise Stopped("stopped before the request was sent")


def _from_environment(names: tuple[str, ...]) -> tuple[str, str]:
    """The first of the variables that is set, and its value; both empty where none is."""
    return next(((name, value) for name in names if (value := os.environ.get(name, "").strip())), ("", ""))


def _address(name: str, value: str) -> str:
    if not name:
        raise JudgeError(f"no endpoint: set {' or '.join(URL_NAMES)}, such as http://localhost:8000/v1")
    try:
        url = httpx2.URL(value.rstrip("/"))
    except httpx2.InvalidURL:
        url = httpx2.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        raise JudgeError(f"{name} is not an address; give one such as http://localhost:8000/v1")
    return str(url)


def _key(names: tuple[str, ...]) -> str:
    name, value = _from_environment(names)
    if not (value.isascii() and value.isprintable()):
        raise JudgeError(f"{name} holds characters that no key has; set it again")
    return value

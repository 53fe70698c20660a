"""An OpenAI-compatible chat endpoint: what may be tried again is, at a limited rate; key and address stay here."""

from __future__ import annotations

import os
import random
import threading
import time
from dataclasses import dataclass
from typing import Any

import httpx2

from ift.lab.judge.errors import JudgeError

URL_NAMES, KEY_NAMES = ("IFT_JUDGE_BASE_URL", "OPENAI_BASE_URL"), ("IFT_JUDGE_API_KEY", "OPENAI_API_KEY")
_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 529}
_LONGEST_WAIT_SECONDS = 60.0


@dataclass(frozen=True)
class Reply:
    """What the judge wrote.

    Attributes:
        text: The message; empty where it refused without a word.
        prompt_tokens: As the endpoint counts them, 0 where it does not.
        completion_tokens: As the endpoint counts them, 0 where it does not.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int


class Endpoint:
    """Sends chats, one reply each. Safe to use from several threads.

    Args:
        model: The judge's name at the endpoint.
        requests_per_minute: Requests begin no faster; None: as fast as they come.
        tries: Attempts at one chat before it is given up.
        timeout_seconds: Of one attempt.
        wait_seconds: Before the second attempt, doubled before each further one.
    """

    def __init__(
        self,
        model: str,
        requests_per_minute: float | None = None,
        tries: int = 6,
        timeout_seconds: float = 120,
        wait_seconds: float = 1,
    ) -> None:
        url = _from_environment(URL_NAMES)
        if url is None:
            raise JudgeError(f"no endpoint: set {' or '.join(URL_NAMES)}, such as http://localhost:8000/v1")
        key = _from_environment(KEY_NAMES)
        self.model, self.tries, self.wait_seconds = model, tries, wait_seconds
        self._client = httpx2.Client(
            base_url=url.rstrip("/"),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=timeout_seconds,
        )
        self._gap = 60 / requests_per_minute if requests_per_minute else 0.0
        self._lock, self._next = threading.Lock(), 0.0

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ask(self, messages: list[dict[str, str]], max_tokens: int) -> Reply:
        """One reply to a chat, greedy.

        Args:
            messages: `role` and `content` each.
            max_tokens: Longest reply.

        Returns:
            The reply of the first attempt that the endpoint answered whole.

        Raises:
            JudgeError: Every attempt failed, or the endpoint says that the request is wrong.
        """
        body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": max_tokens}
        problem = ""
        for attempt in range(self.tries):
            self._take_turn()
            asked_to_wait = 0.0
            try:
                response = self._client.post("/chat/completions", json=body)
                if response.status_code == 200:
                    return _reply(response.json())
                problem = f"HTTP {response.status_code}"
                if response.status_code not in _AGAIN:
                    raise JudgeError(f"the endpoint refuses the request: {problem} {_message(response)}")
                asked_to_wait = _seconds(response.headers.get("retry-after"))
            except httpx2.TransportError as error:  # no connection, a killed one, a time-out
                problem = type(error).__name__
            except (ValueError, KeyError, TypeError, IndexError) as error:
                if isinstance(error, JudgeError):
                    raise
                problem = "a reply that is no chat completion"
            if attempt + 1 < self.tries:
                backoff = self.wait_seconds * 2**attempt * random.uniform(0.8, 1.2)
                time.sleep(min(max(backoff, asked_to_wait), _LONGEST_WAIT_SECONDS))
        raise JudgeError(
            f"the endpoint did not answer in {self.tries} tries (the last: {problem}). What was judged is kept: "
            "the same command goes on"
        )

    def _take_turn(self) -> None:
        """Wait until the rate allows another request."""
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._next)
            self._next = begin + self._gap
        time.sleep(begin - now)


def _from_environment(names: tuple[str, ...]) -> str | None:
    return next((value for name in names if (value := os.environ.get(name))), None)


def _reply(found: Any) -> Reply:
    message, usage = found["choices"][0]["message"], found.get("usage") or {}
    text = message.get("content") or message.get("refusal") or ""
    if not isinstance(text, str):
        raise TypeError("content is no text")
    return Reply(text, int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))


def _message(response: httpx2.Response) -> str:
    """The endpoint's own words where it has some, without anything that looks like a key."""
    try:
        text = str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return ""
    key = _from_environment(KEY_NAMES)
    return (text.replace(key, "***") if key else text)[:300]


def _seconds(value: str | None) -> float:
    try:
        return max(0.0, float(value or 0))
    except ValueError:  # a date: the back-off does
        return 0.0

"""Parses an endpoint's response into a reply of the judge, or the failure that it reports."""

import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any

CUT = "cut at --max_tokens (finish_reason length)"
FILTERED = "stopped by a content filter"
REFUSED = "refused by the judge"
TOOL_CALL = "a tool call instead of a text"
NO_CHOICE, NO_TEXT, NO_VERDICT = "without a choice", "without a text", "without a verdict in the text"
TOO_LONG = "refused as too long for the judge"
ASK_ONCE = {CUT, FILTERED, REFUSED, TOOL_CALL}  # the same question would bring the same

_TOO_LONG = re.compile(r"context.?(length|window|size)|too long|too many (input |prompt )?tokens", re.I)
_FILTER = re.compile(r"content.?(filter|polic|management)|moderation|flagged", re.I)
_QUOTA = re.compile(r"insufficient_quota|exceeded your current quota|billing", re.I)
_MAY_PASS = re.compile(r"rate.?limit|overload|server.?error|internal|timeout|unavailable", re.I)
_NOT_JSON_TRIES = 3
LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # half an emoji; json.loads joins whole pairs


def content_text(content: Any, *, skip_other_parts: bool = False) -> str | None:
    """The text of a message's content, with U+FFFD for every lone surrogate, which UTF-8 cannot hold.

    `content` is a text or a list of parts: texts or objects such as {"type": "text", "text": "..."}. None where there
    is no text, or where a part has another type (an image, a thought) and `skip_other_parts` is not set.
    """
    parts = content if isinstance(content, list) else [content]
    found = [part.get("text") if isinstance(part, dict) else part for part in parts]
    texts = [text for text in found if isinstance(text, str)]
    if not texts or (len(texts) < len(found) and not skip_other_parts):
        return None
    return LONE_SURROGATE.sub("\ufffd", "".join(texts))


@dataclass(frozen=True)
class Reply:
    """What the judge wrote."""

    text: str  # the message; empty where there is none
    prompt_tokens: int  # as the endpoint counts them; 0 where it does not count
    completion_tokens: int  # the same
    problem: str = ""  # why a verdict may be missing from the text; empty for a whole text


class FailureKind(Enum):
    """What a failure means: it may pass, only this question is refused, or every request would be."""

    TEMPORARY, QUESTION, PERMANENT = "temporary", "question", "permanent"


@dataclass(frozen=True)
class Failure:
    """A response without a reply."""

    kind: FailureKind  # its consequence for further requests
    problem: str  # the endpoint's message, or what the response was
    words: str = ""  # everything that the endpoint wrote, to be searched
    wait_seconds: float = 0.0  # what the endpoint asks to wait before the next request; 0: nothing
    tries: int | None = None  # the most requests worth making; None: the endpoint's default


def read_response(status: int, body: bytes, headers: Mapping[str, str]) -> Reply | Failure:
    """The reply in a response, or what kind of failure it is."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not 200 <= status < 300:
        return _failure(status, f"HTTP {status} {_error_text(found)}".strip(), found, headers)
    if found is None:
        start = body[:60].decode("utf-8", "replace")
        return Failure(FailureKind.TEMPORARY, f"HTTP {status} without JSON: {start!r}", tries=_NOT_JSON_TRIES)
    choices = found.get("choices") if isinstance(found, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    for holder in (found[0] if isinstance(found, list) and found else found, choice):
        if isinstance(holder, dict) and (holder.get("error") or holder.get("object") == "error"):
            code, text = _error_code(holder), _error_text(holder)
            return _failure(code, f"HTTP {status} with the error: {text}", holder, headers)
    if not isinstance(found, dict) or not {"choices", "usage"} & found.keys():
        names = ", ".join(map(str, found)) if isinstance(found, dict) else type(found).__name__
        problem = f"a response that is no chat completion (it holds {names[:100] or 'nothing'})"
        return Failure(FailureKind.PERMANENT, problem)
    usage = found["usage"] if isinstance(found.get("usage"), dict) else {}
    text, problem = _read_choice(choice)
    return Reply(text, _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")), problem)


def _read_choice(choice: Any) -> tuple[str, str]:
    """The text of a choice, and its problem."""
    if not isinstance(choice, dict):
        return "", NO_CHOICE
    message = choice["message"] if isinstance(choice.get("message"), dict) else {}
    text = content_text(message.get("content"), skip_other_parts=True) or ""
    refusal = content_text(message.get("refusal")) or ""
    reason = choice.get("finish_reason")
    if reason == "length":
        problem = CUT
    elif reason == "content_filter":
        problem = FILTERED
    elif refusal and not text:
        problem = REFUSED
    elif not text and (message.get("tool_calls") or message.get("function_call")):
        problem = TOOL_CALL
    else:
        problem = "" if text.strip() else NO_TEXT
    return text or refusal, problem


def _failure(status: int, problem: str, found: Any, headers: Mapping[str, str]) -> Failure:
    """The failure of a status, which may also come from the body of a response with status 200."""
    words = f"{problem} {json.dumps(found)[:2000]}"
    if status == 413 or (status in (400, 422) and _TOO_LONG.search(words)):
        return Failure(FailureKind.QUESTION, TOO_LONG, words)
    if status in (400, 403, 422) and _FILTER.search(words):
        return Failure(FailureKind.QUESTION, FILTERED, words)
    if (status in (408, 409, 425, 429) or status >= 500) and not _QUOTA.search(words):
        return Failure(FailureKind.TEMPORARY, problem, words, _retry_after(headers))
    return Failure(FailureKind.PERMANENT, problem, words)


def _error_code(holder: dict[str, Any]) -> int:
    """The HTTP status that an error in the body of a response with status 200 stands for."""
    error = holder.get("error") or holder
    words = error if isinstance(error, dict) else {"message": error}
    code = words.get("code")
    if isinstance(code, str) and code.isdecimal():
        code = int(code)
    if isinstance(code, int) and 400 <= code < 600:
        return code
    return 503 if _MAY_PASS.search(f"{code} {words.get('type')} {words.get('message')}") else 400


def _error_text(found: Any) -> str:
    """The words of an error, wherever servers write them."""
    found = found[0] if isinstance(found, list) and found else found
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and found.get(name):
            found = found[name]
    text = found if isinstance(found, str) else "" if found is None else json.dumps(found)
    return LONE_SURROGATE.sub("\ufffd", text)[:300]


def _retry_after(headers: Mapping[str, str]) -> float:
    """The seconds that the headers ask to wait; 0 where they ask for nothing that can be read."""
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0


def _count(value: Any) -> int:
    """A number of tokens; 0 for any other value."""
    return int(value) if isinstance(value, int | float) and 0 <= value < 2**53 else 0

"""Finds the parts of a conversation that a chat template does not render, by rendering it with and without them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from ift.data.report import HARMLESS, NOT_RENDERED
from ift.data.templates import PROBE, Render, TemplateRefusal
from ift.data.turns import Message, Row

SOME = f"{NOT_RENDERED} for some of the turns, such as earlier ones"
# what follows from a turn key that is not rendered; of other keys, that the model does not see it
_THOUGHTS = "the model does not see the thoughts, and is not trained on them"
MEANINGS = {
    "tool_calls": "the model does not see the calls of tools, and is not trained on them",
    **dict.fromkeys(("reasoning_content", "reasoning", "thinking"), _THOUGHTS),
}
# keys of a tool's result, and why nothing is lost where the results follow their calls in the same order
OF_RESULTS = {
    "name": "the call before a result names its tool",
    "tool_call_id": "the results follow their calls in the same order",
}
THOUGHT = re.compile(
    r"\s*(?:<think>|<thinking>|<thought>|\[THINK\])?(.*?)(?:</think>|</thinking>|</thought>|\[/THINK\])", re.S
)


def find_omissions(render: Render, row: Row, full: str, template: str) -> list[str]:
    """One sentence for each kind of content that the chat template does not render.

    `full` is the rendering of the row and `template` the source of the template. A conversation of user and assistant
    turns whose contents all occur in `full` needs no further rendering.
    """
    messages = row["messages"]
    found = [
        *_keys(render, messages, full),
        *_thoughts(render, messages, full),
        *_contents(render, messages, full),
    ]
    if row.get("tools") and _render(render, messages, tools=None) == full:
        found.append(f"column tools: {NOT_RENDERED}: the model does not see which tools there are")
    for option in row.get("chat_template_kwargs", {}):
        if option not in template:
            found.append(f"column chat_template_kwargs: the chat template has no option {option}")
    return found


def drop_keys(message: Message, *keys: str) -> Message:
    """The message without some of its keys."""
    return {key: value for key, value in message.items() if key not in keys}


def extra_keys(message: Message) -> list[str]:
    """The keys of a turn other than role, content and train."""
    return [key for key in message if key not in ("role", "content", "train")]


def _render(render: Render, messages: Sequence[Message], **options: Any) -> str | None:
    try:
        return render(messages, **options)
    except TemplateRefusal:  # the template needs the omitted part, so it renders it
        return None


def _keys(render: Render, messages: Sequence[Message], full: str) -> list[str]:
    found = []
    keys = dict.fromkeys(key for message in messages for key in extra_keys(message))
    lost = [key for key in keys if _render(render, [drop_keys(one, key) for one in messages]) == full]
    for key in keys:
        holders = [index for index, message in enumerate(messages) if key in message]
        if key in lost and "tool_calls" not in lost and _only_repeats_calls(messages, key):
            found.append(f"turn key {key} of tool results: {NOT_RENDERED}{HARMLESS}{OF_RESULTS[key]}")
        elif key in lost:
            found.append(f"turn key {key}: {NOT_RENDERED}: {MEANINGS.get(key, 'the model does not see it')}")
        elif len(holders) > 1 and any(
            _render(render, [drop_keys(one, key) if at == index else one for at, one in enumerate(messages)])
            == full
            for index in holders
        ):
            found.append(f"turn key {key}: {SOME}")
    return found


def _only_repeats_calls(messages: Sequence[Message], key: str) -> bool:
    """Whether a key is in the results of tools alone and has there what their calls have, in the same order."""
    calls = [call for one in messages for call in one.get("tool_calls", []) if isinstance(call, dict)]
    functions = [function for one in messages for function in _functions(one)]
    called = {
        "name": [one.get("name") for one in functions],
        "tool_call_id": [one.get("id") for one in calls],
    }
    results = [one for one in messages if one["role"] == "tool"]
    if (
        key not in called
        or len(results) > len(calls)
        or any(key in one for one in messages if one not in results)
    ):
        return False
    return all(one.get(key, name) == name for one, name in zip(results, called[key], strict=False))


def _thoughts(render: Render, messages: Sequence[Message], full: str) -> list[str]:
    """Thoughts inside the content, which some templates remove from earlier turns."""
    for index, message in enumerate(messages):
        thought = THOUGHT.match(message["content"]) if message["role"] == "assistant" else None
        if thought is None or not thought[1].strip() or message["content"].strip() in full:
            continue
        rest = {**message, "content": message["content"][thought.end() :]}
        bare = _render(render, [rest if at == index else one for at, one in enumerate(messages)])
        if bare == full or thought[1].strip() not in full:
            return [f"thoughts in content: {SOME}"]
    return []


def _contents(render: Render, messages: Sequence[Message], full: str) -> list[str]:
    """Whole turns that the template skips; each content is replaced by a unique word that must be rendered."""
    if all(one["role"] in ("user", "assistant") and one["content"].strip() in full for one in messages):
        return []
    asked = [at for at, one in enumerate(messages) if one["role"] != "assistant" and one["content"].strip()]
    probed = [
        {**one, "content": f"{PROBE}{at}{PROBE}"} if at in asked else one for at, one in enumerate(messages)
    ]
    shown = _render(render, probed)
    lost = [
        at
        for at in asked
        if (
            f"{PROBE}{at}{PROBE}" not in shown
            if shown is not None
            else messages[at]["content"].strip() not in full
        )
    ]
    roles = dict.fromkeys(messages[at]["role"] for at in lost)
    return [f"{role} turns: {NOT_RENDERED}: the model does not see them" for role in roles]


def arguments_as_objects(messages: list[Message], full: str | None) -> list[Message]:
    """Parses tool-call arguments given as JSON text if the template would quote the text again.

    OpenAI's format has arguments as JSON text; most templates serialise them, so that text would become a JSON string.
    `full` is the rendering, or None if the template refuses the conversation. Returns `messages` itself if nothing
    changes.
    """
    texts = [text for message in messages for text in _argument_texts(message)]
    if not texts or (full is not None and not any(_is_quoted(text, full) for text in texts)):
        return messages
    return [_with_objects(message) for message in messages]


def _functions(message: Message) -> list[dict[str, Any]]:
    calls = [call for call in message.get("tool_calls", []) if isinstance(call, dict)]
    return [call["function"] if isinstance(call.get("function"), dict) else call for call in calls]


def _argument_texts(message: Message) -> list[str]:
    found = [function.get("arguments") for function in _functions(message)]
    return [text for text in found if isinstance(text, str) and isinstance(_parsed(text), dict)]


def _is_quoted(text: str, full: str) -> bool:
    return any(json.dumps(text, ensure_ascii=ascii) in full for ascii in (False, True))


def _with_objects(message: Message) -> Message:
    if not _argument_texts(message):
        return message

    def read(function: dict[str, Any]) -> dict[str, Any]:
        text = function.get("arguments")
        parsed = _parsed(text) if isinstance(text, str) else None
        return {**function, "arguments": parsed} if isinstance(parsed, dict) else function

    calls = [
        {**call, "function": read(call["function"])} if isinstance(call.get("function"), dict) else read(call)
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None

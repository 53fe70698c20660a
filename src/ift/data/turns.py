"""Parses lists of turns, with role/content or from/value keys, into validated messages with a `train` flag."""

from __future__ import annotations

import json
import re
from typing import Any

from ift.data.errors import DataError, describe
from ift.data.hints import other_name
from ift.data.known_names import COLUMNS, OTHER_ROLES, ROLES, TURN_KEYS, find, has_value, names, read_flag
from ift.data.source import SourceRow
from ift.text import did_you_mean

Message = dict[str, Any]
Row = dict[str, Any]

MARKS = names(TURN_KEYS, "mark")
READ_KEYS = {"role", "from", "content", "value", "function_call", "refusal", *MARKS}
PLACEHOLDER = re.compile(r"<(image|audio|video)>")


class TurnReader:
    """Parses the turns of one column of one row."""

    def __init__(self, source: SourceRow, column: str, *, train: bool = True):
        """Stores the row, which collects the notes, and the column's name for error messages.

        `train` is whether the column's assistant turns are trained; marks of a turn take precedence.
        """
        self.source, self.column, self.train = source, column, train

    def read(self, value: Any) -> list[Message]:
        """Parses a list of turns, or a single turn.

        Returns:
            Messages with `role`, `content`, `train` and the turn's other keys that are not null (`tool_calls`, `name`,
                `reasoning_content`, ...).

        Raises:
            DataError: The value is not a list of turns, or a turn is malformed.
        """
        if isinstance(value, dict) and value:
            value = [value]
        if not isinstance(value, list | tuple):
            fix = 'write it as [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]'
            raise self.source.error(self.column, describe(value), "a list of turns", fix)
        return [self._turn(turn, number) for number, turn in enumerate(value, start=1)]

    def _error(self, number: int, key: str, found: str, expected: str, fix: str) -> DataError:
        place = f'column "{self.column}", turn {number}' + (f', key "{key}"' if key else "")
        return DataError.at(self.source.number, place, found, expected, fix)

    def _turn(self, turn: Any, number: int) -> Message:
        if not isinstance(turn, dict):
            raise self._error(
                number, "", describe(turn), "an object", "write each turn as an object with role and content"
            )
        for key in names(TURN_KEYS, "refused"):
            if has_value(turn.get(key)):
                line = find(TURN_KEYS, key)
                value = f"{describe(turn[key])} ({line.text})"
                raise self._error(number, key, value, "no such key", line.fix)
        role_key = self._one_of(turn, number, ("role", "from"))
        if turn.get(role_key) is None:
            expected = "an object with role and content, or from and value"
            both = role_key if any(one in turn for one in ("content", "value")) else "role content"
            fix = " and ".join(filter(None, (self._rename(one, turn) for one in both.split())))
            raise self._error(number, "", describe(turn), expected, fix or "say who speaks in every turn")
        role_value = turn[role_key]
        role = self._role(role_value, number, role_key)
        content_keys = ("value", "content") if role_key == "from" else ("content", "value")
        content_key = self._one_of(turn, number, content_keys)
        message: Message = {"role": role, "content": self._text(turn.get(content_key), number, content_key)}
        message |= {key: value for key, value in turn.items() if key not in READ_KEYS and has_value(value)}
        self._tool_calls(message, turn, role_value, number)
        self._refusal(message, turn)
        if message["content"] is None and "tool_calls" in message:
            message["content"] = ""
        if message["content"] is None:
            raise self._no_content(turn, number, content_key)
        if role == "user" and not message["content"].strip():
            self.source.note("a user turn has no text")
        if found := PLACEHOLDER.search(message["content"]):
            self.source.note(f"placeholders such as {found[0]} are kept as plain text")
        message["train"] = self._flag(turn, number, role)
        return message

    def _no_content(self, turn: dict[str, Any], number: int, key: str) -> DataError:
        """The error for a turn without text: its key is missing, or has no value."""
        missing = key not in turn and not self.source.fills_nulls(self.column)
        found = f"no such key, only {', '.join(map(str, turn))}" if missing else describe(turn.get(key))
        fix = self._rename(key, turn) or "fill it in or drop the row"
        return self._error(number, key, found, "a string", fix)

    def _rename(self, key: str, turn: dict[str, Any]) -> str:
        """The fix for a turn that has another key in place of a missing one; "" without one."""
        unknown = [str(one) for one in turn if one not in READ_KEYS and has_value(turn[one])]
        other = other_name(key, unknown)
        return f"rename the key {other} to {key}" if other else ""

    def _one_of(self, turn: dict[str, Any], number: int, keys: tuple[str, str]) -> str:
        """The key of a pair that has a value; the first if neither has."""
        first, second = (turn.get(key) for key in keys)
        if first is not None and second is not None and first != second:
            found, fix = f"{describe(first)}, and {keys[1]}: {describe(second)}", "keep one of them"
            raise self._error(number, keys[0], found, f"either {keys[0]} or {keys[1]}", fix)
        alone = keys[1] in turn and keys[0] not in turn
        return keys[1] if alone or (first is None and second is not None) else keys[0]

    def _role(self, role: Any, number: int, key: str) -> str:
        name = role.strip().lower() if isinstance(role, str) else ""
        if name in ROLES:
            return name
        if name not in OTHER_ROLES:
            roles = (*ROLES, *OTHER_ROLES)
            fix = f"rename the role or drop the row{did_you_mean(name, roles)}"
            raise self._error(number, key, describe(role), f"one of {', '.join(roles)}", fix)
        return OTHER_ROLES[name]

    def _text(self, content: Any, number: int, key: str) -> str | None:
        """The text of a turn, None without any; text parts are joined as chat templates write them."""
        if content is None or isinstance(content, str):
            return content
        if not isinstance(content, list | tuple):
            raise self._error(number, key, describe(content), "a string", "fill it in or drop the row")
        texts = []
        for part in content:
            kind = part.get("type", "text") if isinstance(part, dict) else "text"
            text = part.get(kind) if isinstance(part, dict) and kind in ("text", "refusal") else part
            if not isinstance(text, str):
                found = (
                    f"a part of type {kind}" if isinstance(part, dict) else f"a list with {describe(part)}"
                )
                fix = "join its text parts into one string, or leave the row out"
                raise self._error(number, key, found, "a string, or parts of text", fix)
            texts.append(text)
        return "".join(texts) if texts else None

    def _tool_calls(self, message: Message, turn: dict[str, Any], role_value: Any, number: int) -> None:
        """Normalises `tool_calls`, `function_call` and separate function-call turns to `tool_calls`."""
        calls, key = turn.get("tool_calls"), "tool_calls"
        if has_value(call := turn.get("function_call")):
            if has_value(calls):
                fix = "keep tool_calls alone"
                raise self._error(
                    number, "function_call", "both function_call and tool_calls", "one of the two", fix
                )
            calls, key = call, "function_call"
        elif isinstance(role_value, str) and role_value.strip().lower() == "function_call":
            calls, key, message["content"] = message["content"], "value", ""
        if not has_value(calls):
            message.pop("tool_calls", None)
            return
        if isinstance(calls, str):
            calls = self._json(calls, number, key)
        calls = calls if isinstance(calls, list | tuple) else [calls]
        if not all(isinstance(one, dict) for one in calls):
            expected = "a list of calls, each an object with name and arguments"
            raise self._error(number, key, describe(calls), expected, "write each call as an object")
        message["tool_calls"] = [
            one if key == "tool_calls" else {"type": "function", "function": one} for one in calls
        ]

    def _json(self, text: str, number: int, key: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            fix = "write the call as JSON"
            raise self._error(
                number, key, f"text that is not JSON ({error})", "a call as JSON", fix
            ) from error

    def _refusal(self, message: Message, turn: dict[str, Any]) -> None:
        refusal = turn.get("refusal")
        if not has_value(refusal):
            return
        if isinstance(refusal, str) and not (message["content"] or "").strip():
            message["content"] = refusal
            self.source.note("turn key refusal: trained as the answer, because content is empty")
        else:
            self.source.note("turn key refusal: not used, because content is not empty")

    def _flag(self, turn: dict[str, Any], number: int, role: str) -> bool:
        """Whether the turn is trained: its marks decide, otherwise its column."""
        trained = self.train
        marks = {key: turn[key] for key in MARKS if has_value(turn.get(key))}
        for key, value in marks.items():
            flag = read_flag(value)
            if flag is None:
                fix = "turns cannot be weighted: write true or false, or leave the key out"
                raise self._error(number, key, describe(value), "true or false (1 or 0)", fix)
            if not flag:
                self.source.untrained_mark = key
            if role == "assistant" and not flag:
                self.source.note(f"turn key {key}: marks assistant turns that are not to be trained")
            elif role != "assistant" and flag:
                self.source.note(
                    f"turn key {key}: marks {role} turns to be trained; only assistant turns are"
                )
        if role != "assistant":
            return False
        return all(read_flag(value) for value in marks.values()) if marks else trained


def build_conversation(messages: list[Message], source: SourceRow, column: str) -> Row:
    """Completes and checks a conversation: adds the system turn, earlier turns and the template's arguments.

    Returns:
        `{"messages": [...]}` and, if the row has them, `tools` and `chat_template_kwargs`.

    Raises:
        DataError: There is no turn, or no assistant turn, or a column is malformed.
    """
    if not messages:
        raise source.error(column, "an empty conversation", "at least one assistant turn", "drop the row")
    messages = with_columns(messages, source)
    if not any(message["role"] == "assistant" for message in messages):
        roles = ", ".join(message["role"] for message in messages[:6])
        raise source.error(column, f"turns of {roles} only", "at least one assistant turn", "drop the row")
    if (last := messages[-1]["role"]) != "assistant":
        source.note(f"the conversation ends with a {last} turn, of which nothing is trained")
    result: Row = {"messages": messages}
    if tools := tools_of(source):
        result["tools"] = tools
    options = source.get("chat_template_kwargs")
    if options is not None and not isinstance(options, dict):
        fix = 'write {"enable_thinking": false}'
        raise source.error("chat_template_kwargs", describe(options), "an object", fix)
    if options := {key: value for key, value in (options or {}).items() if value is not None}:
        result["chat_template_kwargs"] = options
    return result


def with_columns(messages: list[Message], source: SourceRow) -> list[Message]:
    """Turns with those in the columns `history` and `system` before them; raises DataError for a malformed column."""
    return _with_system(_history(source) + messages, source)


def turn(role: str, content: str) -> Message:
    """A turn with text only; assistant turns are trained."""
    return {"role": role, "content": content, "train": role == "assistant"}


def _with_system(messages: list[Message], source: SourceRow) -> list[Message]:
    column, system = source.first_of(find(COLUMNS, "system").names)
    if not column:
        return messages
    if not isinstance(system, str):
        raise source.error(column, describe(system), "a string or null", "write it as text")
    existing = next((one for one in messages if one["role"] in ("system", "developer")), None)
    if existing is None:
        return [turn("system", system), *messages]
    if existing["content"].strip() != system.strip():
        source.note(f"column {column}: not used, because the conversation already has a system turn")
    return messages


def _history(source: SourceRow) -> list[Message]:
    """Earlier turns, from pairs of question and answer (Alpaca) or from turns."""
    value = source.get("history")
    if not has_value(value):
        return []
    expected, fix = "a list of [question, answer] pairs, or of turns", "write it so, or drop the column"
    if isinstance(value, str):
        value = _json_column(value, "history", expected, fix, source)
    if isinstance(value, list | tuple) and all(isinstance(one, dict) for one in value):
        return TurnReader(source, "history").read(value)
    pairs = value if isinstance(value, list | tuple) else [value]
    if not all(
        isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(text, str) for text in pair)
        for pair in pairs
    ):
        raise source.error("history", describe(value), expected, fix)
    return [
        turn(role, text) for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True)
    ]


def tools_of(source: SourceRow) -> list[Any] | None:
    """The tools in the columns of a row, for the chat template; None without any."""
    column, tools = source.first_of(("tools", "functions"))
    if not column:
        return None
    fix = "give a list of JSON schemas, or such a list as JSON text"
    if isinstance(tools, str):
        tools = _json_column(tools, column, "a JSON list", fix, source)
    if not isinstance(tools, list | tuple):
        raise source.error(column, describe(tools), "a list", fix)
    if column == "functions":
        return [{"type": "function", "function": tool} for tool in tools]
    return list(tools)


def _json_column(text: str, column: str, expected: str, fix: str, source: SourceRow) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise source.error(column, f"text that is not JSON ({error})", expected, fix) from error

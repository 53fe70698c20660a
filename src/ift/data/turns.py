"""Reads lists of turns, in role/content or from/value spelling, into checked messages with a `train` flag."""

from __future__ import annotations

import json
from typing import Any

from ift.data.errors import DataError, describe

Message = dict[str, Any]
Row = dict[str, Any]

ROLES = ("system", "developer", "user", "assistant", "tool")

# ShareGPT files come in more than one spelling of who speaks
SHAREGPT_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    **{role: role for role in ROLES},
}


def read_turns(
    value: Any, row: int, column: str, *, sharegpt: bool = False, train: bool = True
) -> list[Message]:
    """Reads one column of turns.

    Args:
        value: What the column holds; anything but a list of objects is refused.
        row: Row number, counting from 1, for the message of an error.
        column: Name of the column, likewise.
        sharegpt: Accept `from`/`value` besides `role`/`content`, and the names human and gpt.
        train: Whether the assistant turns of this column are trained. A turn that carries its own boolean `train`
            key keeps it.

    Returns:
        Messages with `role`, `content`, `train` and whatever else the turn carried (`tool_calls`, `name`,
        `reasoning_content`, ...), without null values, which Arrow puts where other turns have a key.

    Raises:
        DataError: If the value is not a list of turns, or a turn is malformed.
    """
    if not isinstance(value, list | tuple):
        raise DataError.at(
            row,
            f'column "{column}"',
            describe(value),
            "a list of turns",
            'write it as [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]',
        )
    return [
        _read_turn(turn, row, f'column "{column}", turn {number}', sharegpt, train)
        for number, turn in enumerate(value, start=1)
    ]


def _read_turn(turn: Any, row: int, place: str, sharegpt: bool, train: bool) -> Message:
    if not isinstance(turn, dict):
        raise DataError.at(
            row, place, describe(turn), "an object", "write each turn as an object with role and content"
        )
    role_key, content_key = (
        ("from", "value") if sharegpt and turn.get("from") is not None else ("role", "content")
    )
    if turn.get(role_key) is None:
        keys = "from and value, or role and content" if sharegpt else "role and content"
        raise DataError.at(
            row, place, describe(turn), f"an object with {keys}", "say who speaks in every turn"
        )
    role = _read_role(turn[role_key], row, f'{place}, key "{role_key}"', sharegpt)
    message: Message = {"role": role, "content": turn.get(content_key)}
    for key, value in turn.items():
        if key not in (role_key, content_key, "train") and value is not None:
            message[key] = without_nulls(value)
    if not message.get("tool_calls"):
        message.pop("tool_calls", None)
    if message["content"] is None and role == "assistant" and "tool_calls" in message:
        message["content"] = ""
    if not isinstance(message["content"], str):
        fix = (
            "join its text parts into one string"
            if isinstance(message["content"], list)
            else "fill it in or drop the row"
        )
        raise DataError.at(
            row, f'{place}, key "{content_key}"', describe(message["content"]), "a string", fix
        )
    wanted = turn.get("train")
    message["train"] = role == "assistant" and (wanted if isinstance(wanted, bool) else train)
    return message


def _read_role(role: Any, row: int, place: str, sharegpt: bool) -> str:
    known = SHAREGPT_ROLES if sharegpt else {name: name for name in ROLES}
    if not isinstance(role, str) or role not in known:
        spoken = SHAREGPT_ROLES.get(role) if isinstance(role, str) else None
        hint = f" ({role} is {spoken} here)" if spoken else ""
        expected = f"one of {', '.join(known)}"
        raise DataError.at(row, place, describe(role), expected, f"rename the role{hint} or drop the row")
    return known[role]


def without_nulls(value: Any) -> Any:
    """Drops null entries from nested objects: Arrow fills in the keys that other rows have.

    Args:
        value: Any nested value.

    Returns:
        The same without keys whose value is null.
    """
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [without_nulls(item) for item in value]
    return value


def conversation(messages: list[Message], source: Row, row: int, column: str) -> Row:
    """Closes a conversation: checks it as a whole and adds what goes to the chat template with it.

    Args:
        messages: The turns, as `read_turns` gives them.
        source: The row they came from; its `tools` and `chat_template_kwargs` are taken along.
        row: Row number, counting from 1.
        column: Name of the column, for the message of an error.

    Returns:
        `{"messages": [...]}` and, where the row has them, `tools` and `chat_template_kwargs`.

    Raises:
        DataError: If there is no turn at all, or none of the assistant's.
    """
    place = f'column "{column}"'
    if not messages:
        raise DataError.at(row, place, "an empty conversation", "at least one assistant turn", "drop the row")
    if not any(message["role"] == "assistant" for message in messages):
        roles = ", ".join(message["role"] for message in messages[:6])
        raise DataError.at(
            row, place, f"turns of {roles} only", "at least one assistant turn", "drop the row"
        )
    result: Row = {"messages": messages}
    tools = _read_tools(source.get("tools"), row)
    if tools:
        result["tools"] = tools
    kwargs = source.get("chat_template_kwargs")
    if kwargs is not None:
        if not isinstance(kwargs, dict):
            raise DataError.at(
                row,
                'column "chat_template_kwargs"',
                describe(kwargs),
                "an object",
                'write {"enable_thinking": false}',
            )
        result["chat_template_kwargs"] = without_nulls(kwargs)
    return result


def says_nothing(row: Row) -> bool:
    """Tells whether a row in canonical form has an answer without a word, which would teach to answer with silence.

    Args:
        row: As `ift.data.conversion` gives it. A turn that calls tools, or carries anything else, is not empty.

    Returns:
        True if it has trained text or turns, and all of them are blank.
    """
    if "messages" not in row:
        return "completion" in row and not row["completion"].strip()
    trained = [turn for turn in row["messages"] if turn["train"]]
    return bool(trained) and not any(
        turn["content"].strip() or turn.keys() - {"role", "content", "train"} for turn in trained
    )


def _read_tools(tools: Any, row: int) -> list[Any] | None:
    place, fix = 'column "tools"', "give a list of JSON schemas, or such a list as JSON text"
    if tools is None or tools == "":
        return None
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError.at(row, place, f"text that is not JSON ({error})", "a JSON list", fix) from error
    if not isinstance(tools, list | tuple):
        raise DataError.at(row, place, describe(tools), "a list", fix)
    return without_nulls(list(tools))

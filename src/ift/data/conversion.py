"""Turns one row of each accepted format into the canonical form.

The canonical form is one of

* `{"messages": [{"role", "content", "train", ...}], "tools"?: [...], "chat_template_kwargs"?: {...}}`
* `{"prompt": str, "completion": str}`: plain text, no chat template
* `{"text": str}`: plain text, every token trained
* `{"input_ids": [int], "labels": [int]}`: tokenised by the user

Every function takes the row and its number, counting from 1, and raises `DataError` on anything malformed.
"""

from __future__ import annotations

from typing import Any

from ift.data.errors import DataError, describe
from ift.data.turns import Message, Row, conversation, read_turns


def from_messages(source: Row, row: int) -> Row:
    """Reads a conversational row; every assistant turn is trained.

    Args:
        source: Row with a `messages` column.
        row: Row number, counting from 1.

    Returns:
        The conversation in canonical form.
    """
    return conversation(read_turns(source.get("messages"), row, "messages"), source, row, "messages")


def from_sharegpt(source: Row, row: int) -> Row:
    """Reads a ShareGPT row (`from`/`value` or `role`/`content`); a text column `system` becomes the first turn.

    Args:
        source: Row with a `conversations` column.
        row: Row number, counting from 1.

    Returns:
        The conversation in canonical form.
    """
    turns = read_turns(source.get("conversations"), row, "conversations", sharegpt=True)
    return conversation(_system(source, row) + turns, source, row, "conversations")


def from_alpaca(source: Row, row: int) -> Row:
    """Reads an Alpaca row: one user turn (instruction, a blank line, the input if there is one), one answer.

    Args:
        source: Row with `instruction`, `output` and, if wanted, `input` and `system`.
        row: Row number, counting from 1.

    Returns:
        The conversation in canonical form.
    """
    question = _text(source, "instruction", row)
    extra = source.get("input")
    if extra is not None and not isinstance(extra, str):
        raise DataError.at(
            row, 'column "input"', describe(extra), "a string or null", "write the input as text"
        )
    if extra and extra.strip():
        question = f"{question}\n\n{extra}"
    turns = [_turn("user", question), _turn("assistant", _text(source, "output", row))]
    return conversation(_system(source, row) + turns, source, row, "instruction")


def from_prompt_completion(source: Row, row: int) -> Row:
    """Reads a prompt and its completion: text and text stay plain text, a list on either side makes a conversation.

    Args:
        source: Row with `prompt` and `completion`.
        row: Row number, counting from 1.

    Returns:
        Plain text or a conversation whose trained turns are those of the completion.
    """
    return _pair(source, "prompt", "completion", row)


def from_preference(source: Row, row: int, answer: str = "chosen") -> Row:
    """Reads one side of a preference row, by default the chosen one; the other side is not looked at.

    `chosen` may be the whole conversation (UltraFeedback-binarized: its `prompt` repeats the first turn and is not
    used), or the answer to a `prompt` of text or turns.

    Args:
        source: Row with `chosen` and, if `chosen` is only the answer, `prompt`.
        row: Row number, counting from 1.
        answer: Column of the side to read, "chosen" or "rejected".

    Returns:
        Plain text or a conversation.
    """
    side, prompt = source.get(answer), source.get("prompt")
    if isinstance(side, str) and prompt is None:
        raise DataError.at(
            row,
            'column "prompt"',
            f"null or no such column, with a text in {answer}",
            f"the text that the {answer} answer answers",
            f'split the question off into a column "prompt", or give {answer} as a list of turns',
        )
    if isinstance(side, list | tuple):
        turns = read_turns(side, row, answer)
        answer_only = bool(turns) and turns[0]["role"] in ("assistant", "tool")
        if not (answer_only and prompt):
            if isinstance(prompt, list | tuple):
                before = read_turns(prompt, row, "prompt", train=False)
                if not _starts_with(turns, before):
                    turns = before + turns
            return conversation(turns, source, row, answer)
    return _pair(source, "prompt", answer, row)


def from_text(source: Row, row: int) -> Row:
    """Reads plain text, of which every token is trained.

    Args:
        source: Row with a `text` column.
        row: Row number, counting from 1.

    Returns:
        `{"text": ...}`.
    """
    return {"text": _text(source, "text", row)}


def from_tokenised(source: Row, row: int) -> Row:
    """Reads token ids; labels come from `labels`, else from trl's mask columns, else every token is trained.

    Args:
        source: Row with `input_ids`.
        row: Row number, counting from 1.

    Returns:
        `{"input_ids": ..., "labels": ...}`.
    """
    ids = _integers(source, "input_ids", row)
    if source.get("labels") is not None:
        labels = _integers(source, "labels", row)
    else:
        labels = list(ids)
        for mask in ("completion_mask", "assistant_masks"):
            if source.get(mask) is not None:
                bits = _integers(source, mask, row)
                _same_length(ids, bits, mask, row)
                labels = [label if bit else -100 for label, bit in zip(labels, bits, strict=True)]
    _same_length(ids, labels, "labels", row)
    _in_range("input_ids", [one for one in ids if one < 0], "0 or more", row)
    _in_range("labels", [one for one in labels if one < 0 and one != -100], "0 or more, or -100", row)
    return {"input_ids": ids, "labels": labels}


def _pair(source: Row, prompt_column: str, answer_column: str, row: int) -> Row:
    prompt, answer = source.get(prompt_column), source.get(answer_column)
    if isinstance(prompt, str) and isinstance(answer, str):
        return {"prompt": prompt, "completion": answer}
    for column, value in ((prompt_column, prompt), (answer_column, answer)):
        if not isinstance(value, str | list | tuple):
            expected, fix = "a string or a list of turns", "fill it in or drop the row"
            raise DataError.at(row, f'column "{column}"', describe(value), expected, fix)
    before = (
        [_turn("user", prompt)]
        if isinstance(prompt, str)
        else read_turns(prompt, row, prompt_column, train=False)
    )
    after = (
        [_turn("assistant", answer)] if isinstance(answer, str) else read_turns(answer, row, answer_column)
    )
    if not any(message["role"] == "assistant" for message in after):
        expected = "at least one assistant turn"
        raise DataError.at(row, f'column "{answer_column}"', "no assistant turn", expected, "drop the row")
    return conversation(before + after, source, row, answer_column)


def _starts_with(turns: list[Message], before: list[Message]) -> bool:
    heads = zip(turns, before, strict=False)
    return len(turns) >= len(before) and all(
        (turn["role"], turn["content"]) == (other["role"], other["content"]) for turn, other in heads
    )


def _turn(role: str, content: str) -> Message:
    return {"role": role, "content": content, "train": role == "assistant"}


def _system(source: Row, row: int) -> list[Message]:
    system = source.get("system")
    if system is not None and not isinstance(system, str):
        raise DataError.at(row, 'column "system"', describe(system), "a string or null", "write it as text")
    return [_turn("system", system)] if system else []


def _text(source: Row, column: str, row: int) -> str:
    value = source.get(column)
    if not isinstance(value, str):
        raise DataError.at(
            row, f'column "{column}"', describe(value), "a string", "fill it in or drop the row"
        )
    return value


def _integers(source: Row, column: str, row: int) -> list[int]:
    value: Any = source.get(column)
    value = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(value, list | tuple) or not all(type(item) is int for item in value):
        fix = "drop the row, or drop the column"
        raise DataError.at(row, f'column "{column}"', describe(value), "a list of whole numbers", fix)
    return list(value)


def _same_length(ids: list[int], other: list[int], column: str, row: int) -> None:
    if len(ids) != len(other):
        expected = f"{len(ids)}, one for each of input_ids"
        raise DataError.at(row, f'column "{column}"', f"{len(other)} entries", expected, "rebuild the row")


def _in_range(column: str, wrong: list[int], expected: str, row: int) -> None:
    if wrong:
        fix = "tokenise the row again, or drop it"
        raise DataError.at(row, f'column "{column}"', describe(wrong[0]), f"{expected}, for each token", fix)

"""Converts a row of each accepted format to the canonical form.

docs/architecture.md says how to add a format. The canonical form is one of

* `{"messages": [{"role", "content", "train", ...}], "tools"?: [...], "chat_template_kwargs"?: {...}}`
* `{"prompt": str, "completion": str}`: plain text, no chat template
* `{"text": str}`: plain text, every token trained
* `{"input_ids": [int], "labels": [int]}`: tokenised by the user

Every function reads columns with `SourceRow.get` (columns that are not read are reported as not used), reports anything
unusual with `SourceRow.note`, and raises `SourceRow.error` for a malformed value.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from ift.data.errors import describe
from ift.data.hints import CHAT_ONLY
from ift.data.known_names import COLUMNS, find
from ift.data.source import SourceRow
from ift.data.turns import Message, Row, TurnReader, build_conversation, turn
from ift.labels import IGNORED
from ift.text import counted


def from_messages(source: SourceRow) -> Row:
    """Converts `messages`; every assistant turn is trained."""
    return _turns(source, "messages")


def from_sharegpt(source: SourceRow) -> Row:
    """Converts `conversations`; every assistant turn is trained."""
    return _turns(source, "conversations")


def from_alpaca(source: SourceRow) -> Row:
    """Converts an Alpaca row to one user turn (instruction, blank line, input if any) and one assistant turn."""
    question, answer = _text(source, "instruction"), _text(source, "output")
    extra = source.get("input")
    if extra is not None and not isinstance(extra, str):
        raise source.error("input", describe(extra), "a string or null", "write the input as text")
    if extra and extra.strip():
        question = f"{question}\n\n{extra}"
    elif not question.strip():
        source.drop_reason = "the question is empty" if answer.strip() else "question and answer are empty"
    return build_conversation([turn("user", question), turn("assistant", answer)], source, "instruction")


def from_prompt_completion(source: SourceRow) -> Row:
    """Converts a prompt and a completion: two strings stay plain text, a list on either side makes a conversation."""
    row = _pair(source, "prompt", "completion")
    if "messages" not in row and _repeats_prompt(row["prompt"], row["completion"]):
        source.note("completions begin with their prompt, which is trained a second time")
    return row


def from_preference(source: SourceRow, answer: str = "chosen") -> Row:
    """Converts one side of a preference row, `answer` being "chosen" or "rejected".

    `chosen` may be the whole conversation (in UltraFeedback-binarized `prompt` repeats its first turn and is not used),
    the answer to a `prompt` of text or turns, or a text that begins with the prompt.
    """
    side, prompt = source.get(answer), source.get("prompt")
    if isinstance(side, str) and prompt is None:
        raise source.error(
            "prompt", f"null or no such column, with a text in {answer}",
            f"the text that the {answer} answer replies to", _prompt_fix(source, answer),
        )  # fmt: skip
    if isinstance(side, list | tuple | dict):
        turns = TurnReader(source, answer).read(side)
        answer_only = bool(turns) and turns[0]["role"] in ("assistant", "tool")
        if not (answer_only and prompt):
            if answer_only and (column := _turns_column(source)):
                fix = f"--dataset_columns {column}=prompt"
                raise source.error("prompt", "no such column", "the turns before the answer", fix)
            if isinstance(prompt, list | tuple):
                before = TurnReader(source, "prompt", train=False).read(prompt)
                if not _starts_with(turns, before):
                    turns = before + turns
            return build_conversation(turns, source, answer)
    row = _pair(source, "prompt", answer)
    return row if "messages" in row else _without_repeated_prompt(row, source, answer)


def from_text(source: SourceRow) -> Row:
    """Converts plain text; every token is trained."""
    return {"text": _text(source, "text")}


def from_tokenised(source: SourceRow) -> Row:
    """Converts token ids; padding is removed.

    Labels come from `labels`, otherwise from masks, otherwise every token is trained.
    """
    ids = _integers(source, "input_ids")
    if source.get("labels") is not None:
        labels = _integers(source, "labels")
    else:
        labels = list(ids)
        for mask in find(COLUMNS, "completion_mask").names:
            if source.get(mask) is not None:
                bits = _integers(source, mask, flags=True)
                _same_length(source, ids, bits, mask)
                labels = [label if bit else IGNORED for label, bit in zip(labels, bits, strict=True)]
    _same_length(source, ids, labels, "labels")
    _in_range(source, "input_ids", [one for one in ids if one < 0], "0 or more")
    _in_range(
        source, "labels", [one for one in labels if one < 0 and one != IGNORED], f"0 or more, or {IGNORED}"
    )
    begin, end = _unpadded(source, ids)
    _one_document(source, ids[begin:end], begin)
    return {"input_ids": ids[begin:end], "labels": labels[begin:end]}


def _turns(source: SourceRow, column: str) -> Row:
    return build_conversation(TurnReader(source, column).read(source.get(column)), source, column)


def _pair(source: SourceRow, prompt_column: str, answer_column: str) -> Row:
    prompt, answer = source.get(prompt_column), source.get(answer_column)
    if isinstance(prompt, str) and isinstance(answer, str):
        _refuse_chat_columns(source, prompt_column, answer_column)
        if not prompt.strip() and answer.strip():
            source.note(f"column {prompt_column} is empty: the {answer_column} is trained without a prompt")
        return {"prompt": prompt, "completion": answer}
    for column, value in ((prompt_column, prompt), (answer_column, answer)):
        if not isinstance(value, str | list | tuple | dict) or value == {}:
            expected, fix = "a string or a list of turns", "fill it in or drop the row"
            raise source.error(column, describe(value), expected, fix)
    before = _read_side(source, prompt_column, "user", train=False)
    after = _read_side(source, answer_column, "assistant", train=True)
    if not any(message["role"] == "assistant" for message in after):
        expected = "at least one assistant turn"
        raise source.error(answer_column, "no assistant turn", expected, "drop the row")
    return build_conversation(before + after, source, answer_column)


def _read_side(source: SourceRow, column: str, role: str, *, train: bool) -> list[Message]:
    value = source.get(column)
    return (
        [turn(role, value)] if isinstance(value, str) else TurnReader(source, column, train=train).read(value)
    )


def _refuse_chat_columns(source: SourceRow, prompt: str, answer: str) -> None:
    """Raises DataError for a system prompt, earlier turns or tools, which plain text cannot express."""
    for column in CHAT_ONLY:
        if source.has(column):
            fix = (
                f"rename to a chat format, --dataset_columns {prompt}=instruction {answer}=output"
                if answer == "completion"
                else f"write prompt and {answer} as lists of turns"
            )
            expected = f"no such column, because {prompt} and {answer} are plain text"
            raise source.error(column, describe(source.get(column)), expected, fix)


def _prompt_fix(source: SourceRow, answer: str) -> str:
    """Suggests a fix for a preference row of plain text without a prompt."""
    question = next((one for one in ("question", "query", "problem", "instruction") if source.has(one)), "")
    if question and not any(source.has(column) for column in (*CHAT_ONLY, "input", "context")):
        return f"--dataset_columns {question}=prompt"
    if question:
        return f"write prompt, with everything before the answer, and {answer} as lists of turns"
    return f'move the question to a column "prompt", or give {answer} as a list of turns'


def _turns_column(source: SourceRow) -> str:
    return next((one for one in ("messages", "conversations") if source.has(one)), "")


def _repeats_prompt(prompt: str, answer: str) -> bool:
    """Whether an answer begins with the whole prompt; a prompt of one word ("Yes") never counts."""
    head, text = prompt.strip(), answer.lstrip()
    rest = text[len(head) :]
    closed = rest[:1].isspace() or head.endswith(":")
    return text.startswith(head) and len(head.split()) > 1 and bool(rest.strip()) and closed


def _without_repeated_prompt(row: Row, source: SourceRow, answer: str) -> Row:
    """Removes the prompt from an answer that repeats it, so that it is neither trained nor written twice."""
    other = source.get("rejected" if answer == "chosen" else "chosen")
    prompt, completion = row["prompt"], row["completion"]
    if not _repeats_prompt(prompt, completion) or (
        isinstance(other, str) and not _repeats_prompt(prompt, other)
    ):
        return row
    end = completion.index(prompt.strip()) + len(prompt.strip())
    source.note(f"column prompt: repeated at the beginning of {answer}; it is used once and not trained")
    return {"prompt": completion[:end], "completion": completion[end:]}


def _starts_with(turns: list[Message], before: list[Message]) -> bool:
    heads = zip(turns, before, strict=False)
    return len(turns) >= len(before) and all(
        (one["role"], one["content"]) == (other["role"], other["content"]) for one, other in heads
    )


def _text(source: SourceRow, column: str) -> str:
    value = source.get(column)
    if not isinstance(value, str):
        raise source.error(column, describe(value), "a string", "fill it in or drop the row")
    return value


def _integers(source: SourceRow, column: str, flags: bool = False) -> list[int]:
    value: Any = source.get(column)
    value = value.tolist() if hasattr(value, "tolist") else value
    kinds = (int, bool) if flags else (int,)
    if not isinstance(value, list | tuple) or not all(type(item) in kinds for item in value):
        fix = "drop the row, or drop the column"
        raise source.error(column, describe(value), "a list of whole numbers", fix)
    return list(value)


def _same_length(source: SourceRow, ids: list[int], other: list[int], column: str) -> None:
    if len(ids) != len(other):
        expected = f"{len(ids)}, the length of input_ids"
        raise source.error(column, counted(len(other), "entry", "entries"), expected, "rebuild the row")


def _in_range(source: SourceRow, column: str, wrong: list[int], expected: str) -> None:
    if wrong:
        fix = "tokenise the row again, or drop it"
        raise source.error(column, describe(wrong[0]), f"{expected}, for each token", fix)


def _unpadded(source: SourceRow, ids: list[int]) -> tuple[int, int]:
    """The half-open range of the tokens that `attention_mask` keeps."""
    if source.get("attention_mask") is None:
        return 0, len(ids)
    mask = _integers(source, "attention_mask", flags=True)
    _same_length(source, ids, mask, "attention_mask")
    kept = [place for place, bit in enumerate(mask) if bit]
    begin, end = (kept[0], kept[-1] + 1) if kept else (0, 0)
    if len(kept) != end - begin:
        found, fix = "0 between tokens that are attended to", "write each document as a separate row"
        raise source.error("attention_mask", found, "0 at the ends only, where padding is", fix)
    if len(kept) < len(ids):
        source.note("column attention_mask: padding is removed")
    return begin, end


def _one_document(source: SourceRow, ids: list[int], begin: int) -> None:
    """Raises DataError for a row that packs several documents: each would attend to the ones before it."""
    line = find(COLUMNS, "position_ids")
    for column in line.names:
        if source.get(column) is None:
            continue
        numbers = _integers(source, column)
        inside = numbers[begin : begin + len(ids)]
        several = len(numbers) > 1 if column == "seq_lengths" else any(
            second != first + 1 for first, second in pairwise(inside)
        )  # fmt: skip
        if several:
            raise source.error(column, "several documents in one row", "one document per row", line.fix)

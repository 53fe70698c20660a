"""Suggests how to rename the columns of a data set that matches no format, so that none is lost."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ift.data.known_names import COLUMNS, find
from ift.data.renaming import flag

# Other names of the columns of a question and an answer, best first
QUESTIONS = ("instruction", "question", "query", "problem", "prompt", "input", "human", "user")
ANSWERS = (
    "output", "answer", "response", "completion", "solution", "reply", "generation", "target", "assistant",
)  # fmt: skip
NEAR = 0.8  # similarity of a name and its misspelling, from 0 to 1
CONTEXTS = ("context", "passage", "document")
CHAT_ONLY = tuple(name for column in ("system", "history", "tools") for name in find(COLUMNS, column).names)
BAD_SIDE = ("reject", "non_", "bad", "negative", "worse", "lose")
# names that one thing has in different data sets: columns, and keys of turns
SAME = (
    tuple(name for name in QUESTIONS if name != "input"),  # Alpaca has both
    ANSWERS,
    ("messages", "conversations", "conversation", "dialog", "dialogue", "turns"),
    ("content", "value", "text", "message", "utterance"),
    ("role", "from", "speaker", "author", "sender"),
)
NO_RENAMING = (
    "rename the columns of question and answer, --dataset_columns QUESTION=instruction ANSWER=output (with the names "
    "of your columns in place of QUESTION and ANSWER), or write the rows in one of these formats"
)


def suggest_renaming(found: set[str], rows: Sequence[Mapping[str, Any]] = ()) -> str:
    """Suggests `--dataset_columns` flags, or another fix, for columns with known meanings.

    A question and an answer become one chat turn each. Case does not matter in a name. `rows` distinguish lists of
    turns from text.
    """
    turns = [column for column in sorted(found) if any(_is_turns(row.get(column)) for row in rows)]
    if not rows and "conversation" in found:
        turns = ["conversation"]
    if turns:
        fine = len(turns) == 1 and not any(word in turns[0] for word in BAD_SIDE)
        return flag([(turns[0], "messages")]) if fine else NO_RENAMING
    written = {name.casefold(): name for name in sorted(found)}
    answers = [written[name] for name in ANSWERS if name in written]
    questions = [written[name] for name in QUESTIONS if name in written and written[name] not in answers]
    both = [*questions, *(written[name] for name in CONTEXTS if name in written)]
    if len(answers) == 1 and questions and len(both) <= 2:
        pairs = [*zip(both, ("instruction", "input"), strict=False), (answers[0], "output")]
        return flag((old, new) for old, new in pairs if old != new)
    return flag([("content", "text")]) if found == {"content"} else NO_RENAMING


def other_name(wanted: str, present: Iterable[str]) -> str:
    """The name among those that are present that is probably meant by a missing one; "" without one."""
    written = {name.casefold(): name for name in present}
    near = difflib.get_close_matches(wanted, written, 1, NEAR)
    same = [name for group in SAME if wanted in group for name in group]
    return next((written[name] for name in (wanted, *near, *same) if name in written), "")


def explain_one_turn_per_row(found: Iterable[str]) -> str:
    """The problem and fix of a data set with one turn of a conversation per row; "" for other data sets."""
    columns, line = set(found), find(COLUMNS, "parent_id")
    content = columns & {"text", "content", "value"}
    if "role" not in columns or not content:
        return ""
    tree = " and parent_id" if "parent_id" in columns else ""
    return (
        f"found columns role, {', '.join(sorted(content))}{tree}: each row is one turn of a conversation, expected one "
        f"conversation per row. Fix: {line.fix}"
    )


def explain_one_object(rows: Sequence[Mapping[str, Any]]) -> str:
    """The problem and fix of a file that is one JSON object with the rows inside; "" for other data sets."""
    if len(rows) != 1:
        return ""
    values = rows[0]
    lists = [key for key, value in values.items() if _is_objects(value) and not _is_turns(value)]
    if len(lists) == 1:
        where, reached = f"a list of objects in its key {lists[0]}", f"[{json.dumps(lists[0])}]"
    elif len(values) > 1 and _is_objects([*values.values()]):
        where, reached = "an object in each of its keys", ".values()"
    else:
        return ""
    return (
        f"found one object, with {where}, expected one object per row. Fix: if those are the rows, write them one a "
        f"line (FILE is your file): python -c 'import json; [print(json.dumps(row)) for row in "
        f'json.load(open("FILE", encoding="utf-8")){reached}]\' > rows.jsonl'
    )


def _is_objects(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(one, Mapping) for one in value)


def _is_turns(value: Any) -> bool:
    """Whether a value is a list of turns that `ift.data.turns` can read."""
    return _is_objects(value) and all(
        {"role", "from"} & one.keys() and {"content", "value"} & one.keys() for one in value
    )

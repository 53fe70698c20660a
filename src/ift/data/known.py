"""THE TABLE of the turn keys, roles and columns that are known, with what is done with each. docs/data.md shows it.

What stands in no table is handled by two rules: a turn key goes to the chat template, and is counted where the
template does not write it; a column that nothing reads is listed as not used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Handling = Literal["used", "mark", "named", "refused"]


@dataclass(frozen=True)
class Known:
    """One line of the table.

    Attributes:
        names: Keys or columns that are handled alike.
        handling: "used"; "mark" (decides whether something is trained); "named" (not used, and reported with a
            count); "refused".
        text: What is done, for the documentation.
        fix: What the user can do where it is refused.
    """

    names: tuple[str, ...]
    handling: Handling
    text: str
    fix: str = ""


ROLES = ("system", "developer", "user", "assistant", "tool")

# Other names of the speakers, in lower case. A turn of `function_call` holds the call as JSON text
OTHER_ROLES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "function_call": "assistant",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "ipython": "tool",
}

MEDIA = ("image", "images", "audio", "audios", "video", "videos")
_NO_MEDIA = "models of text are trained here: leave these rows out"

TURN_KEYS = (
    Known(("role", "from"), "used", "who speaks"),
    Known(("content", "value"), "used", "text, or a list of text parts, which are joined"),
    Known(
        ("train", "training", "weight", "loss", "loss_weight", "loss_scale", "trainable"),
        "mark",
        'false (or 0, "false", "no", "off") leaves an assistant turn untrained, true (or 1) trains it; another '
        "number is refused. Only assistant turns are trained: a true mark on another turn is reported",
    ),
    Known(
        ("train_detail", "training_detail"),
        "refused",
        "marks parts of a turn",
        "split the turn's text into rows of input_ids and labels, or mark the whole turn with train",
    ),
    Known(
        ("mask", "masked"),
        "refused",
        "tools disagree whether true means trained",
        'write "train": true or "train": false instead',
    ),
    Known(
        ("tool_calls", "function_call"),
        "used",
        "calls of tools. Arguments given as JSON text become objects where the template would quote them a second time",
    ),
    Known(("refusal",), "used", "the answer, where content is empty; otherwise reported as not used"),
    Known(
        ("reasoning_content", "reasoning", "thinking"),
        "used",
        "thoughts, written by templates that know the key; reported where the template leaves them out",
    ),
    Known(MEDIA, "refused", "images, sound, video", _NO_MEDIA),
)

COLUMNS = (
    Known(
        ("system", "system_prompt", "system_message"),
        "used",
        "the first turn of a conversation; refused beside prompts of plain text; reported where the conversation has "
        "a system turn of its own",
    ),
    Known(
        ("history",),
        "used",
        "earlier turns, as pairs of question and answer or as turns, before the others of the conversation; refused "
        "beside prompts of plain text",
    ),
    Known(
        ("tools", "functions"),
        "used",
        "JSON schemas (a list, or one as JSON text) for the chat template; refused beside prompts of plain text",
    ),
    Known(
        ("chat_template_kwargs",),
        "used",
        "options of the chat template; reported where it has no such option",
    ),
    Known(
        ("label", "kto_tag"),
        "mark",
        "KTO's mark of an answer: rows with false are dropped and counted. Other text is reported as not used, other "
        "numbers are refused",
    ),
    Known(
        ("train", "training", "trainable", "weight", "loss_weight", "sample_weight"),
        "mark",
        "as on a turn: rows with false are dropped and counted",
    ),
    Known(MEDIA, "refused", "images, sound, video", _NO_MEDIA),
    Known(
        ("attention_mask",),
        "used",
        "of tokenised rows: padding (0 at either end) is cut off and counted; 0 between tokens is refused",
    ),
    Known(
        ("completion_mask", "assistant_masks", "assistant_mask", "loss_mask"),
        "used",
        "of tokenised rows without labels: tokens with 0 are not trained",
    ),
    Known(
        ("position_ids", "seq_lengths"),
        "refused",
        "of tokenised rows, where they tell of several documents in one row",
        "give each document a row of its own, and set packing to true",
    ),
    Known(
        ("rejected", "rejected_response", "rejected_messages", "margin"),
        "named",
        "the other side of a preference, used by methods of pairs only",
    ),
    Known(("score", "rating", "reward"), "named", "rows are neither chosen nor weighted by scores"),
    Known(
        ("role", "parent_id"),
        "refused",
        "beside text or content: each row is one turn of a conversation, or of a tree of them",
        'join the turns of each conversation into a list in a column "messages"; of a tree, one row for each path '
        "from the root to a leaf",
    ),
)


def names(table: tuple[Known, ...], handling: Handling) -> tuple[str, ...]:
    """All names of a table that are handled in one way."""
    return tuple(name for line in table for name in line.names if line.handling == handling)


def find(table: tuple[Known, ...], name: str) -> Known:
    """The first line of a table with a name, which must be there."""
    return next(line for line in table if name in line.names)


def has_value(value: Any) -> bool:
    """Whether something was filled in: not null, no empty text, list or object, and not NaN (a missing cell)."""
    if isinstance(value, float) and value != value:
        return False
    return value is not None and not (isinstance(value, str | list | tuple | dict) and not value)


def read_flag(value: Any) -> bool | None:
    """Reads true or false in any spelling: booleans, 1 and 0, and text such as "False", "no", "0.0".

    Returns:
        The flag; None for anything else, such as 0.5 or "maybe".
    """
    if isinstance(value, str):
        text = value.strip().lower()
        if text in ("true", "yes", "y", "t", "on", "false", "no", "n", "f", "off"):
            return text in ("true", "yes", "y", "t", "on")
        try:
            value = float(text)
        except ValueError:
            return None
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    return None

"""The tables of known turn keys, roles and columns, and how each is handled; docs/data.md shows them.

Other names follow two rules: an unknown turn key is passed to the chat template, and reported if the template does not
render it; an unknown column is reported as not used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Handling = Literal["used", "mark", "reported", "refused"]


@dataclass(frozen=True)
class KnownName:
    """One line of the table.

    Attributes:
        names: Keys or columns that are handled in the same way.
        handling: "used"; "mark" (decides whether something is trained); "reported" (not used; reported with a count);
            "refused".
        text: The handling, for the documentation.
        fix: What the user can do about a refused name.
    """

    names: tuple[str, ...]
    handling: Handling
    text: str
    fix: str = ""


ROLES = ("system", "developer", "user", "assistant", "tool")

# Other names of roles, in lower case. The content of a `function_call` turn is the call as JSON text
OTHER_ROLES = {
    "human": "user", "prompter": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant",
    "bard": "assistant", "model": "assistant", "bot": "assistant", "chatbot": "assistant", "function_call":
    "assistant", "function": "tool", "observation": "tool", "tool_response": "tool", "ipython": "tool",
}  # fmt: skip

MEDIA = ("image", "images", "audio", "audios", "video", "videos")
_NO_MEDIA = "only text models are supported: remove these rows"

TURN_KEYS = (
    KnownName(("role", "from"), "used", "the role of the speaker"),
    KnownName(("content", "value"), "used", "text, or a list of text parts, which are joined"),
    KnownName(("train", "training", "weight", "loss", "loss_weight", "loss_scale", "trainable"), "mark",
              'false (or 0, "false", "no", "off"): this assistant turn is not trained; true (or 1): it is trained; any '
              "other number is refused. Only assistant turns are trained: a true mark on another turn is reported"),
    KnownName(("train_detail", "training_detail"), "refused",
              "refused: marks on parts of a turn",
              "split the turn's text into rows of input_ids and labels, or mark the whole turn with train"),
    KnownName(("mask", "masked"), "refused",
              "refused, because tools disagree whether true means trained",
              'write "train": true or "train": false instead'),
    KnownName(("tool_calls", "function_call"), "used",
              "tool calls. Arguments given as JSON text become objects if the template would quote them a second time"),
    KnownName(("refusal",), "used", "the answer, if `content` is empty; otherwise reported as not used"),
    KnownName(("reasoning_content", "reasoning", "thinking"), "used",
              "thoughts; reported if the chat template does not render them"),
    KnownName(MEDIA, "refused", "refused: images, sound, video", _NO_MEDIA),
)  # fmt: skip

COLUMNS = (
    KnownName(("system", "system_prompt", "system_message"), "used",
              "the first turn of a conversation; refused with plain-text prompts; reported if the conversation already "
              "has a system turn"),
    KnownName(("history",), "used",
              "earlier turns, as pairs of question and answer or as turns; refused with plain-text prompts"),
    KnownName(("tools", "functions"), "used",
              "JSON schemas (a list, or one as JSON text) for the chat template; refused with plain-text prompts"),
    KnownName(("chat_template_kwargs",), "used", "options of the chat template; reported if it has no such option"),
    KnownName(("label", "kto_tag"), "mark",
              "KTO's label of an answer: rows with false are dropped and counted. Other text is reported as not used; "
              "other numbers are refused"),
    KnownName(("train", "training", "trainable", "weight", "loss_weight", "sample_weight"), "mark",
              "as for a turn: rows with false are dropped and counted"),
    KnownName(MEDIA, "refused", "refused: images, sound, video", _NO_MEDIA),
    KnownName(("attention_mask",), "used",
              "in tokenised rows: padding (0 at either end) is removed and counted; 0 between tokens is refused"),
    KnownName(("completion_mask", "assistant_masks", "assistant_mask", "loss_mask"), "used",
              "in tokenised rows without labels: tokens with 0 are not trained"),
    KnownName(("position_ids", "seq_lengths"), "refused",
              "refused in tokenised rows, if they mark several documents in one row",
              "write each document as a separate row, and set packing to true"),
    KnownName(("rejected", "rejected_response", "rejected_messages", "margin"), "reported",
              "the rejected answer of a preference pair, used by preference methods only"),
    KnownName(("score", "rating", "reward"), "reported", "not used: ift neither selects nor weights rows by scores"),
    KnownName(("role", "parent_id"), "refused",
              "refused with text or content: each row is one turn of a conversation, or of a tree of conversations",
              'join the turns of each conversation into a list in a column "messages"; for a tree, one row for each '
              "path from the root to a leaf"),
)  # fmt: skip


def names(table: tuple[KnownName, ...], handling: Handling) -> tuple[str, ...]:
    """All names of a table with this handling."""
    return tuple(name for line in table for name in line.names if line.handling == handling)


def find(table: tuple[KnownName, ...], name: str) -> KnownName:
    """The first line of a table that contains a known name."""
    return next(line for line in table if name in line.names)


def has_value(value: Any) -> bool:
    """Whether a value is set: not null, NaN (a missing cell), or an empty string, list or object."""
    if isinstance(value, float) and value != value:
        return False
    return value is not None and not (isinstance(value, str | list | tuple | dict) and not value)


def read_flag(value: Any) -> bool | None:
    """Parses true or false in any spelling (booleans, 1 and 0, "False", "no", "0.0"); None for anything else."""
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

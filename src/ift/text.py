"""Text that is shown: made harmless where it comes from elsewhere; the name that a mistyped one may stand for."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Iterable

_TURNING = re.compile("[\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff]")


def visible(text: str) -> str:
    """The text with every character that could reorder, hide or break the text around it written out as [U+202E]."""

    def shown(character: str) -> str:
        odd = unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t"
        return f"[U+{ord(character):04X}]" if odd or _TURNING.match(character) else character

    return text if text.isascii() and text.isprintable() else "".join(map(shown, text))


def did_you_mean(name: str, known: Iterable[str], shown: Callable[[str], str] = str) -> str:
    """The end of a message about an unknown name: "; did you mean sft?", or "" where no known name is near.

    Args:
        name: What was typed.
        known: The names that there are.
        shown: How the near one is written.
    """
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {shown(near[0])}?" if near else ""

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
    """The end of a message about an unknown name: "; did you mean sft?", or "" where none differs by a slip.

    Args:
        name: What was typed.
        known: The names that there are.
        shown: How the near one is written.
    """
    near = [one for one in difflib.get_close_matches(name, known, n=5) if _is_a_slip(name, one)]
    return f"; did you mean {shown(near[0])}?" if near else ""


def _is_a_slip(name: str, near: str) -> bool:
    """Whether two names differ as mistyped ones do: word by word, and in no word with a digit (bf16, fp16)."""
    first, second = (re.split(r"[-_ ]+", one.casefold()) for one in (name, near))
    if "".join(first) == "".join(second):
        return True
    return len(first) == len(second) and all(map(_is_near, first, second))


def _is_near(word: str, near: str) -> bool:
    if re.search(r"\d", word + near):
        return word == near
    return len(word) == len(near) == 1 or difflib.SequenceMatcher(None, word, near).ratio() >= 0.6

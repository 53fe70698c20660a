"""Text from elsewhere, made harmless where it is shown."""

from __future__ import annotations

import re
import unicodedata

_TURNING = re.compile("[\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff]")


def visible(text: str) -> str:
    """The text with every character that could reorder, hide or break the text around it written out as [U+202E]."""

    def shown(character: str) -> str:
        odd = unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t"
        return f"[U+{ord(character):04X}]" if odd or _TURNING.match(character) else character

    return text if text.isascii() and text.isprintable() else "".join(map(shown, text))

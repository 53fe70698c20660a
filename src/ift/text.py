"""Text for display: control characters made visible, and suggestions for mistyped names."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")
BROKEN = "\ufffd"  # what a tokenizer decodes a part of a character to
PART = "…"
TRAINED = "⟦⟧"  # enclose trained tokens where there is no colour
_BIDI_OR_INVISIBLE = re.compile("[\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff]")


def visible(text: str) -> str:
    """Writes every character that could reorder, hide or break the surrounding text as [U+202E]."""

    def shown(character: str) -> str:
        odd = unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t"
        return f"[U+{ord(character):04X}]" if odd or _BIDI_OR_INVISIBLE.match(character) else character

    return text if text.isascii() and text.isprintable() else "".join(map(shown, text))


def token_texts(tokenizer: Any, ids: Sequence[int], guesses: Sequence[int]) -> list[tuple[str, str]]:
    """The text of each token and of the guess in its place, decoded with what precedes them.

    A character that spans several tokens is the text of the last of them, and the others have "". The guess is "" where
    it is the token, and has `PART` for a part of a character.
    """
    found: list[tuple[str, str]] = []
    context, read = (
        0,
        0,
    )  # tokens from `read` on belong to an unfinished character; those before are decoded with them

    def decoded(tokens: Sequence[int]) -> str:
        return str(tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))

    for end, (token, guess) in enumerate(zip(ids, guesses, strict=True), start=1):
        before = decoded(ids[context:read])
        text = decoded(ids[context:end])[len(before) :]
        other = "" if guess == token else decoded([*ids[context : end - 1], guess])[len(before) :]
        other = visible(re.sub(f"{BROKEN}+", PART, other))
        if text.endswith(BROKEN) and end < len(ids):
            text = ""
        else:
            context, read = read, end
        found.append((visible(text), other))
    return found


def quoted(error: object) -> str:
    """The message of a foreign error, to be followed by words of ours: on one line, without a full stop at its end.

    An error without a message is named by its class.
    """
    return " ".join(str(error).split()).rstrip(". ") or type(error).__name__


def sentence(error: object) -> str:
    """`quoted` with a full stop, unless the message ends with another mark, as in "did you mean sft?"."""
    text = quoted(error)
    return text if text.endswith(("?", "!", ".)")) else f"{text}."


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun, "1 row" or "1,234 rows"; `plural` where an s at the end does not make it."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def bracketed(tokens: Sequence[Item], trained: Sequence[bool], bracket: Callable[[str], Item]) -> list[Item]:
    """`tokens` with brackets before and after each run of trained ones, for a display without colour.

    `bracket` makes an item of an opening or closing bracket.
    """
    found: list[Item] = []
    before = False
    for token, now in zip(tokens, trained, strict=True):
        if now != before:
            found.append(bracket(TRAINED[0] if now else TRAINED[1]))
        found.append(token)
        before = now
    return [*found, bracket(TRAINED[1])] if before else found


def did_you_mean(name: str, known: Iterable[str], shown: Callable[[str], str] = str) -> str:
    """The end of a message about an unknown name: "; did you mean sft?", or "" if no known name is a likely typo.

    `shown` formats the suggestion.
    """
    near = [one for one in difflib.get_close_matches(name, known, n=5) if _is_typo(name, one)]
    return f"; did you mean {shown(near[0])}?" if near else ""


def _is_typo(name: str, near: str) -> bool:
    """Whether two names differ as a typo would: word by word, and not in digits, which change the meaning."""
    first, second = (re.split(r"[-_ ]+", one.casefold()) for one in (name, near))
    if "".join(first) == "".join(second):
        return True
    return len(first) == len(second) and all(map(_is_near, first, second))


def _is_near(word: str, near: str) -> bool:
    if re.search(r"\d", word + near):  # bf16 is not fp16; gsm8kk is gsm8k
        same_digits = re.findall(r"\d", word) == re.findall(r"\d", near)
        return same_digits and (word.startswith(near) or near.startswith(word))
    return len(word) == len(near) == 1 or difflib.SequenceMatcher(None, word, near).ratio() >= 0.6

"""Scores that compare two texts: equal, contained, equal JSON values, words in common. All are in 0..1."""

from __future__ import annotations

import json
import re
import string
import unicodedata
from collections import Counter
from decimal import Decimal
from typing import Any

_OPENING, _CLOSING = "\"'`«»“”‘’„([{<*_", "\"'`«»“”‘’)]}>*_.,;:!?。、"
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised_text(text: str) -> str:
    """A text in the form in which texts are compared.

    NFKC, small letters, single spaces; no quotes, brackets, `*` and `_` at the ends, and no sentence marks at the end.
    A text that is nothing else stays.
    """
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return plain.lstrip(_OPENING + " ").rstrip(_CLOSING + " ") or plain


def unfenced(text: str) -> str:
    """The content of a text that is one Markdown code block; any other text as it is."""
    lines = text.strip().splitlines()
    fenced = len(lines) > 2 and lines[0].startswith("```") and lines[-1].strip() == "```"
    return "\n".join(lines[1:-1]) if fenced else text


def same_text(answer: str, reference: str) -> float:
    """Whether two texts are equal after `normalised_text`."""
    return float(normalised_text(answer) == normalised_text(reference))


def contains(answer: str, reference: str) -> float:
    """Whether an answer contains the reference, both normalised; a number is not found inside a longer number."""
    inside, whole = normalised_text(reference), normalised_text(answer)
    before = r"(?<!\d)(?<!\d[.,])" if inside[:1].isdigit() else ""
    after = r"(?![.,]?\d)" if inside[-1:].isdigit() else ""
    return float(re.search(before + re.escape(inside) + after, whole) is not None)


def same_json(answer: str, reference: str) -> float:
    """Whether two texts hold the same JSON value; an answer that is no JSON is wrong."""
    try:
        return float(parse_json(answer) == parse_json(reference))
    except (ValueError, RecursionError):
        return 0.0


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    A number is ("number", its exact value): `true` and 1 differ, 1 and 1.0 do not.

    Raises:
        ValueError: It is no JSON; NaN and Infinity are none.
        RecursionError: It is nested too deeply.
    """

    def number(digits: str) -> tuple[str, Decimal]:
        try:
            return "number", Decimal(digits)
        except ArithmeticError as error:
            raise ValueError(f"{digits:.20}: a number out of range") from error

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON")

    return json.loads(unfenced(text), parse_int=number, parse_float=number, parse_constant=refuse)


def token_f1(answer: str, reference: str) -> float:
    """F1 of the words in common, as in SQuAD: small letters, no punctuation, no articles."""
    first, second = (
        _ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split() for text in (answer, reference)
    )
    common = sum((Counter(first) & Counter(second)).values())
    if not first or not second:
        return float(first == second)
    return 2 * common / (len(first) + len(second))

"""Extracts the final answer of a text: `#### N`, a boxed expression, or a regular expression."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from ift.labels import IGNORED
from ift.text import counted

HASHES, BOXED = "####", "boxed"
_HASHES = re.compile(r"^####[ \t]*(\S.*?)[ \t]*$", re.MULTILINE)
_BOX = re.compile(r"\\f?boxed\s*\{")
_SEPARATOR = re.compile(r"(?<=\d),(?=\d{3})")


@dataclass(frozen=True)
class FinalAnswer:
    r"""Extracts final answers by a pattern.

    Attributes:
        pattern: "####" (the last line `#### N`), "boxed" (the last `\boxed{...}`), or a regular expression, whose last
            match counts: its first group, or all of it without groups.
        cased: Whether `Red` and `red` differ.
    """

    pattern: str
    cased: bool = False

    def find(self, text: str) -> str | None:
        """The normalised final answer of a text; None without one."""
        if self.pattern == BOXED:
            found = _boxed(text)
        else:
            matches = [*(_HASHES if self.pattern == HASHES else re.compile(self.pattern)).finditer(text)]
            found = matches[-1][1 if matches[-1].re.groups else 0] if matches else None
        return None if found is None else normalised(found, self.cased)


def final_answer_of(targets: Sequence[str], pattern: str | None = None) -> FinalAnswer | None:
    """The `FinalAnswer` that finds a final answer in every target.

    Args:
        targets: Target answers.
        pattern: As in `FinalAnswer`, or "none"; None tries `####` and then a box.

    Returns:
        None if `pattern` is "none", or is None and not all targets have either form.

    Raises:
        ValueError: The pattern is not a regular expression, or a target does not match it.
    """
    if pattern == "none":
        return None
    if pattern is None:
        known = (FinalAnswer(HASHES), FinalAnswer(BOXED))
        return next((one for one in known if all(one.find(target) is not None for target in targets)), None)
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"--answer_pattern {pattern!r} is no regular expression: {error}") from error
    found = FinalAnswer(pattern)
    without = [target for target in targets if found.find(target) is None]
    if without:
        shown = " ".join(without[0].split())[-80:]
        raise ValueError(
            f"--answer_pattern {pattern}: {len(without)} of {counted(len(targets), 'target answer')} "
            f"{'has' if len(without) == 1 else 'have'} no match, such as the one that ends in {shown!r}. The targets "
            "(references) must match the pattern as the answers do. Change it, or leave it out"
        )
    return found


def normalised(answer: str, cased: bool = False) -> str:
    """A number in its shortest decimal form, without `$` and thousands separators; other text case-folded."""
    plain = " ".join(answer.split()).rstrip(".").strip("$ ")
    text = plain if cased else plain.casefold()
    try:
        number = Decimal(_SEPARATOR.sub("", plain))
    except InvalidOperation:
        return text
    if not number.is_finite() or abs(number.adjusted()) > 30:  # 1e999999 would be written with all its digits
        return text
    return "0" if not number else format(number.normalize(), "f")


def _boxed(text: str) -> str | None:
    """The content of the last box, with balanced braces."""
    boxes = [*_BOX.finditer(text)]
    if not boxes:
        return None
    depth, start = 1, boxes[-1].end()
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[start:place]
    return None


def last_answer(ids: Sequence[int], labels: Sequence[int]) -> tuple[list[int], list[int]]:
    """Splits a row at its last run of trained tokens: the ids before it (the prompt), and its ids (the answer)."""
    end = max(place for place, label in enumerate(labels) if label != IGNORED) + 1
    start = end
    while start and labels[start - 1] != IGNORED:
        start -= 1
    return list(ids[:start]), list(ids[start:end])

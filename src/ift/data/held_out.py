"""Which rows are held out for evaluation: a seeded sample in which rows with the same prompt stay on one side."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from ift.data.errors import DataError
from ift.data.formats import DETECTION_ROWS, Format, column_names, detect_format, first_rows
from ift.data.prepared import Part
from ift.data.source import SourceRow
from ift.data.turns import Row
from ift.labels import IGNORED


def prompt_key(text: str) -> str:
    """What two prompts share that are the same, white space and case aside."""
    return " ".join(text.split()).casefold()


def split_parts(parts: Sequence[Part], size: int, seed: int) -> tuple[list[Part], list[Part], str]:
    """The parts without `size` rows, the parts with these rows alone, and a note on rows with the same prompt.

    Rows are held out from all parts in proportion to their numbers of rows. Rows with one prompt stay on one side, for
    which fewer rows may be held out; where each prompt has more rows than `size`, they do not. The note is "" where
    every row has a prompt of its own.
    """
    keys = [key for number, part in enumerate(parts) for key in _keys(part, number)]
    drawn = _draw(keys, [len(part.rows) for part in parts], size, seed)
    shared = {key for index, key in enumerate(keys) if index in drawn} & {
        key for index, key in enumerate(keys) if index not in drawn
    }
    train: list[Part] = []
    evaluation: list[Part] = []
    first = 0
    for part in parts:
        sides: tuple[list[int], list[int]] = ([], [])
        for index in range(len(part.rows)):
            sides[first + index in drawn].append(index)
        for into, kept in zip((train, evaluation), sides, strict=True):
            numbers = tuple(index + 1 for index in kept)
            into.append(replace(part, rows=part.rows.select(kept), numbers=numbers))
        first += len(part.rows)
    if shared:
        note = "training rows have the same prompts, because each prompt has more rows than are held out"
    else:
        note = "rows with the same prompt stay together" if len(set(keys)) < len(keys) else ""
    return train, evaluation, note


def _draw(keys: Sequence[Hashable], rows: Sequence[int], size: int, seed: int) -> set[int]:
    """The indices of `size` rows, or slightly fewer, of parts with these numbers of `rows`."""
    draw = random.Random(seed)
    part_of = [part for part, number in enumerate(rows) for _ in range(number)]
    quotas = _quotas(rows, size)
    first: list[int] = []
    start = 0
    for number, quota in zip(rows, quotas, strict=True):
        first += draw.sample(range(start, start + number), quota)
        start += number
    groups: dict[Hashable, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    if len(groups) == len(keys):
        return set(first)
    taken: set[int] = set()
    left = Counter(dict(enumerate(quotas)))
    for index in [*first, *draw.sample(range(len(keys)), len(keys))]:
        group = groups[keys[index]]
        if index not in taken and (needed := Counter(part_of[one] for one in group)) <= left:
            taken.update(group)
            left -= needed
    return taken or set(first)


def _quotas(rows: Sequence[int], size: int) -> list[int]:
    """How many of `size` rows are held out from each part: its share, rounded so that they add up to `size`."""
    shares = [size * number / sum(rows) for number in rows]
    quotas = [int(share) for share in shares]
    by_rest = sorted(range(len(rows)), key=lambda part: quotas[part] - shares[part])
    for part in by_rest[: size - sum(quotas)]:
        quotas[part] += 1
    return quotas


def _keys(part: Part, number: int) -> Iterator[Hashable]:
    """What the prompt of each row is compared by; of a row that cannot be read, its own place."""
    rows: Any = part.rows.with_format(None)
    try:
        form = detect_format(column_names(rows), first_rows(rows, DETECTION_ROWS))
    except DataError:  # refused when the rows are prepared, unless a setting names their column
        form = None
    for index, row in enumerate(rows):
        yield (_prompt(form, row, index) if form else None) or (number, index)


def _prompt(form: Format, row: Any, index: int) -> Hashable:
    try:
        read = form.converter(SourceRow(row, index + 1))
    except DataError:
        return None
    return _before_the_answer(read)


def _before_the_answer(row: Row) -> Hashable:
    """The part of a row in canonical form that comes before what is trained; the whole row if nothing does."""
    if "input_ids" in row:
        labels = row["labels"]
        start = next((place for place, label in enumerate(labels) if label != IGNORED), 0)
        return tuple(row["input_ids"][:start] or row["input_ids"])
    if "messages" not in row:
        return prompt_key(row.get("prompt") or "") or prompt_key(
            row.get("completion") or row.get("text") or ""
        )
    asked = []
    for turn in row["messages"]:
        if turn["role"] == "assistant" and turn.get("train", True):
            break
        asked.append((turn["role"], prompt_key(turn["content"] or "")))
    return tuple(asked)

"""Scans the prepared rows once for duplicates, prompts, token ids and answer ends."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ift.data import DataReport, Prepared
from ift.data.samples import ids_key, row_key, row_sides
from ift.labels import IGNORED

STREAM_ROWS = 1000  # rows of a stream that are checked
BATCH = 1000


@dataclass
class RowScan:
    """The result of a scan.

    Row numbers count the kept rows of all parts together, from 1; `Prepared.name_of` says where such a row is from.

    Attributes:
        rows: Number of rows scanned.
        keys: Hash of every row's ids and labels, in order; of a pair both sides count, also in the next two.
        first: Hash of a row's ids -> the first such row.
        duplicates: (row, the earlier row with the same ids).
        prompts: Hash of the ids before the first trained token -> the first such row; rows without a prompt are left
            out.
        several: Of the prompts that are followed by different answers (in a conversation the first trained one counts)
            -> the first two such rows.
        largest_id: Largest of all token ids and labels, of both sides for pairs; -1 without any.
        double_bos: Rows that begin with the beginning-of-sequence token twice.
        without_bos: Rows that do not begin with it.
        untrained_end: Rows that were not cut and have no end-of-turn id among their labels.
        rendered: Names of the parts in which some prompt of plain text holds a special token, as text that was made
            with a template does.
        joined: Rows of plain text whose answer goes on in the last word or sentence of the prompt, without a space.
    """

    rows: int = 0
    keys: list[bytes] = field(default_factory=list)
    first: dict[bytes, int] = field(default_factory=dict)
    duplicates: list[tuple[int, int]] = field(default_factory=list)
    prompts: dict[bytes, int] = field(default_factory=dict)
    several: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    largest_id: int = -1
    double_bos: list[int] = field(default_factory=list)
    without_bos: list[int] = field(default_factory=list)
    untrained_end: list[int] = field(default_factory=list)
    rendered: set[str] = field(default_factory=set)
    joined: list[int] = field(default_factory=list)


def scan_rows(
    prepared: Prepared, tokenizer: Any, ends: set[int], progress: Callable[[int], object] = lambda rows: None
) -> RowScan:
    """Scans every prepared row, of a stream the first `STREAM_ROWS`.

    Prompts, answers and their ends are those of the chosen side for pairs. `ends` are the ids that end a turn;
    `progress` is called with the number of rows of each batch.
    """
    found, bos = RowScan(), tokenizer.bos_token_id
    parts = _part_of_each_row(prepared.report)
    marks = set(tokenizer.all_special_ids) - {bos, tokenizer.unk_token_id}
    answers: dict[bytes, bytes] = {}  # the first one to each prompt
    rows = prepared.dataset.take(STREAM_ROWS) if prepared.report.streaming else prepared.dataset
    for batch in rows.iter(batch_size=BATCH):
        before = found.rows
        for values in zip(*batch.values(), strict=True):
            row = dict(zip(batch, values, strict=True))
            sides = row_sides(row)
            found.rows += 1
            number, part = found.rows, next(parts)
            whole, trained = (np.asarray(one, dtype=np.int64) for one in sides[0])
            plain = part.prompts == "plain text"
            found.keys.append(row_key(row, labels=True))
            earlier = found.first.setdefault(row_key(row), number)
            if earlier != number:
                found.duplicates.append((number, earlier))
            start = int((trained != IGNORED).argmax())
            if start:
                prompt, untrained_after = ids_key(whole[:start]), np.flatnonzero(trained[start:] == IGNORED)
                answer = ids_key(
                    whole[start : start + untrained_after[0]] if untrained_after.size else whole[start:]
                )
                asked = found.prompts.setdefault(prompt, number)
                if answers.setdefault(prompt, answer) != answer:
                    found.several.setdefault(prompt, (asked, number))
                if plain and not marks.isdisjoint(whole[:start].tolist()):
                    found.rendered.add(part.name)
                if plain and _joined(*tokenizer.convert_ids_to_tokens(whole[start - 1 : start + 1].tolist())):
                    found.joined.append(number)
            found.largest_id = max(
                found.largest_id, *(max(one, default=-1) for side in sides for one in side)
            )
            if bos is not None and whole[:1].tolist() != [bos]:
                found.without_bos.append(number)
            if bos is not None and whole[:2].tolist() == [bos, bos]:
                found.double_bos.append(number)
            if len(whole) != prepared.report.max_length and not ends & set(trained.tolist()):
                found.untrained_end.append(number)
        progress(found.rows - before)
    return found


def _part_of_each_row(report: DataReport) -> Iterator[DataReport]:
    """The report of the part that each kept row belongs to; of a mixture that is a stream, of the whole."""
    if report.streaming:
        return itertools.repeat(report)
    return itertools.chain.from_iterable(
        itertools.repeat(one, one.rows_kept) for one in report.parts or (report,)
    )


def _joined(before: str, after: str) -> bool:
    """Whether the second token goes on where the first ends: `?` and `We`, not `?` and `ĠWe`, nor `=` and `7`."""
    ends = before[-1:].isascii() and (before[-1:].isalnum() or before[-1:] in ".?!")
    return bool(ends and after[:1].isascii() and after[:1].isalnum())

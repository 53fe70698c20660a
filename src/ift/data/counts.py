"""Per-row counts, stored in columns next to the token ids, and the report that is computed from them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ift.data.errors import DataError
from ift.data.report import DataReport, RowLengths, cut_away, rows_by_text
from ift.labels import IGNORED
from ift.text import counted

if TYPE_CHECKING:
    from datasets import Dataset

# Column -> type: tokens before truncation, tokens, trained tokens, trained tokens lost, whether the row was truncated,
# whether its end is trained, `TokenisedRow.merged`, why it is dropped, notes about it
COUNTS = {
    "ift_length": "int64",
    "ift_total": "int64",
    "ift_trained": "int64",
    "ift_lost": "int64",
    "ift_cut": "bool",
    "ift_ends": "bool",
    "ift_merged": "int64",
    "ift_reason": "string",
    "ift_notes": "string",
}
NOTE_SEPARATOR = "\n"


def count_trained(labels: Sequence[int]) -> int:
    """Counts the labels other than -100; the first token of a row never counts, as nothing predicts it."""
    return sum(label != IGNORED for label in labels[1:])


def features(columns: Sequence[str]) -> Any:
    """Features of a prepared data set: integer lists in `columns`, and the columns of counts."""
    from datasets import Features, List, Value

    lists = {column: List(Value("int64")) for column in columns}
    return Features({**lists, **{column: Value(kind) for column, kind in COUNTS.items()}})


def drop_untrained(
    mapped: Dataset, base: DataReport, what: str, numbers: Sequence[int] | None = None
) -> tuple[Dataset, DataReport, RowLengths]:
    """Drops the rows with a reason to be dropped and completes the report; raises DataError if no row is left.

    The lengths are those of all rows, dropped ones included.

    `mapped` has prepared rows with their counts; `what` is "rows" or "pairs"; `numbers` are those of the rows, None for
    1, 2, 3 and so on.
    """
    found = {column: list(mapped[column]) for column in COUNTS}
    kept = [index for index, reason in enumerate(found["ift_reason"]) if not reason]

    def total(column: str) -> int:
        return sum(found[column][index] for index in kept)

    named = list(numbers or range(1, len(mapped) + 1))
    report = replace(
        base,
        rows_read=len(mapped),
        rows_kept=len(kept),
        dropped=rows_by_text(([reason] for reason in found["ift_reason"]), numbers),
        notes=rows_by_text((notes.split(NOTE_SEPARATOR) for notes in found["ift_notes"]), numbers),
        rows_cut=total("ift_cut"),
        long_rows=_long_rows(found["ift_length"], base.limit.tokens, numbers),
        total_tokens=total("ift_total"),
        trained_tokens=total("ift_trained"),
        trained_tokens_lost=sum(found["ift_lost"]),
        rows_without_end=len(kept) - total("ift_ends"),
        merged_boundaries=total("ift_merged"),
        unended_rows=tuple(named[index] for index in kept if not found["ift_ends"][index]),
        merged_rows=tuple(named[index] for index in kept if found["ift_merged"][index]),
    )
    if not kept:
        raise _all_dropped(report, what)
    lengths = RowLengths(found["ift_length"])
    if what == "rows":  # for pairs only the length of the longer side is known
        answers = [one + lost for one, lost in zip(found["ift_trained"], found["ift_lost"], strict=True)]
        prompts = [whole - answer for whole, answer in zip(found["ift_length"], answers, strict=True)]
        lengths = RowLengths(found["ift_length"], prompts, answers)
    return mapped.select(kept).remove_columns(list(COUNTS)), replace(report, **lengths.quantiles()), lengths


def _long_rows(lengths: Sequence[int], limit: int | None, numbers: Sequence[int] | None) -> tuple[int, ...]:
    named = zip(numbers or itertools.count(1), lengths, strict=False)
    return () if limit is None else tuple(number for number, length in named if length > limit)


def _all_dropped(report: DataReport, what: str) -> DataError:
    """The error for a data set without any remaining row, with the reasons."""
    found = [*report.dropped.items(), *report.notes.items()]
    reasons = (
        "; ".join(f"{reason}: {counted(len(rows), 'row')}" for reason, rows in found)
        or "the data set is empty"
    )
    cut = any(cut_away(reason) for reason in report.dropped)
    fix = (
        "raise --max_length"
        if cut
        else "check that the rows have answers and that the chat template renders them (--chat_template_path gives "
        "another)"
    )
    read = counted(report.rows_read, what.removesuffix("s"))
    return DataError(f"{report.name} data: none of {read} is left ({reasons}). Fix: {fix}")

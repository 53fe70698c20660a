"""What is counted about each prepared row, in columns beside its ids, and the report made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ift.data.errors import DataError
from ift.data.masks import UNTRAINED
from ift.data.report import DataReport, by_text, quantiles

if TYPE_CHECKING:
    from datasets import Dataset

# Column -> its type: tokens before cutting, tokens, trained tokens, trained tokens lost, whether the row was cut,
# whether its end is trained, merged borders, why it is dropped, what is reported about it
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
    """Counts the tokens that a causal model learns from: those with a label, without the first of the row.

    Args:
        labels: Labels of one row, -100 where untrained.

    Returns:
        Their number.
    """
    return sum(label != UNTRAINED for label in labels[1:])


def features(columns: Sequence[str]) -> Any:
    """The features of a prepared data set: lists of integers in `columns`, and the counts."""
    from datasets import Features, List, Value

    lists = {column: List(Value("int64")) for column in columns}
    return Features({**lists, **{column: Value(kind) for column, kind in COUNTS.items()}})


def keep_trained(mapped: Dataset, base: DataReport, what: str) -> tuple[Dataset, DataReport]:
    """Drops the rows that have a reason to be dropped, and counts everything.

    Args:
        mapped: The prepared rows with their counts.
        base: The report so far.
        what: "rows" or "pairs", for the message of an error.

    Returns:
        The rows kept, without the counts, and the whole report.

    Raises:
        DataError: No row is left.
    """
    found = {column: list(mapped[column]) for column in COUNTS}
    kept = [index for index, reason in enumerate(found["ift_reason"]) if not reason]

    def total(column: str) -> int:
        return sum(found[column][index] for index in kept)

    report = replace(
        base,
        rows_read=len(mapped),
        rows_kept=len(kept),
        dropped=by_text([reason] for reason in found["ift_reason"]),
        notes=by_text(notes.split(NOTE_SEPARATOR) for notes in found["ift_notes"]),
        rows_cut=total("ift_cut"),
        total_tokens=total("ift_total"),
        trained_tokens=total("ift_trained"),
        trained_tokens_lost=sum(found["ift_lost"]),
        rows_without_end=len(kept) - total("ift_ends"),
        merged_boundaries=total("ift_merged"),
        lengths=quantiles(found["ift_length"]),
    )
    if not kept:
        raise _nothing_left(report, what)
    if what == "rows":  # of a pair only the longer side's length is counted
        answers = [one + lost for one, lost in zip(found["ift_trained"], found["ift_lost"], strict=True)]
        prompts = [whole - answer for whole, answer in zip(found["ift_length"], answers, strict=True)]
        report = replace(report, prompt_lengths=quantiles(prompts), answer_lengths=quantiles(answers))
    return mapped.select(kept).remove_columns(list(COUNTS)), report


def _nothing_left(report: DataReport, what: str) -> DataError:
    """The error of a data set of which no row is left, with everything that is known about its rows."""
    found = [*report.dropped.items(), *report.notes.items()]
    reasons = "; ".join(f"{reason}: {len(rows)} rows" for reason, rows in found) or "the data set is empty"
    cut = any("max_length" in reason for reason in report.dropped)
    fix = (
        "raise --max_length"
        if cut
        else "check that the rows hold answers and that the chat template writes them"
    )
    return DataError(f"{report.name} data: none of {report.rows_read} {what} is left ({reasons}). Fix: {fix}")

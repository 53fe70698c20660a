"""Prepares rows in any accepted format as token ids and labels; counts what is dropped, truncated or not used."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ift.data.counts import COUNTS, NOTE_SEPARATOR, count_trained, drop_untrained, features
from ift.data.errors import DataError, RowFault, RowsRefused, call_for_each
from ift.data.formats import (
    DETECTION_ROWS,
    Format,
    column_names,
    detect_format,
    first_rows,
    other_format,
    rename_columns,
    unformatted,
)
from ift.data.lengths import LengthLimit, length_limit
from ift.data.masks import RowTokenizer, TokenisedRow, TrainOn
from ift.data.origin import CHECKED_ROWS, Origin, RowPreparation, map_rows
from ift.data.prepared import Part, Prepared
from ift.data.report import CUT_EMPTY, NOT_RENDERED, TEMPLATE_REASON, DataReport, mixture_report
from ift.data.source import SourceRow, columns_with_filled_nulls
from ift.data.templates import ensure_chat_template
from ift.data.turns import Row
from ift.labels import IGNORED

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PrepareRow(RowPreparation):
    """Prepares one row; a class, so that it can be pickled for worker processes. Attributes as in `prepare_dataset`."""

    form: Format
    tokenise: RowTokenizer
    limit: LengthLimit
    name: str
    features: Mapping[str, Any]
    numbers: tuple[int, ...] | None = None
    origin: Origin | None = None

    def prepare(self, row: Any, index: int) -> dict[str, Any]:
        """Token ids, labels and counts of a row; raises DataError for a malformed one."""
        number, max_length = self.number(index), self.limit.max_length
        source = SourceRow(row, number, self.features)
        try:
            canonical = self.form.read(source)
            if source.untrained_mark and self.tokenise.train_on == "all":
                problem = f"found turns that {source.untrained_mark} marks as not to be trained"
                rule = "and completion_only_loss is false, which trains every token"
                raise DataError.of(RowFault(number, "", problem, rule, "leave one of the two out"))
            done = self.tokenise(canonical, number)
        except DataError as error:
            if error.fault is None or not (hint := other_format(self.form, row)):
                raise
            raise DataError.of(replace(error.fault, fix=error.fault.fix + hint)) from error
        ids, labels = done.input_ids[:max_length], done.labels[:max_length]
        trained, before = count_trained(labels), count_trained(done.labels)
        reason = source.drop_reason or _nothing_to_learn(canonical, done, trained)
        notes = [*source.notes, *done.notes]
        if done.empty and before:
            notes.append("empty assistant turns: not trained")
        return {
            "input_ids": ids,
            "labels": labels,
            "ift_length": len(done.input_ids),
            "ift_total": len(ids),
            "ift_trained": trained,
            "ift_lost": before - trained,
            "ift_cut": len(ids) < len(done.input_ids),
            "ift_ends": done.ends and all(label == IGNORED for label in done.labels[len(ids) :]),
            "ift_merged": done.merged,
            "ift_reason": reason,
            "ift_notes": NOTE_SEPARATOR.join(notes),
        }


def _nothing_to_learn(row: Row, done: TokenisedRow, trained: int) -> str:
    """Why a row has no trained token; "" if it has one."""
    if not done.input_ids:
        return "empty"
    if not count_trained(done.labels):
        if done.empty and any(NOT_RENDERED in note for note in done.notes):
            return TEMPLATE_REASON
        return f"the {'text' if 'text' in row else 'answer'} is empty" if done.empty else "nothing to learn"
    return "" if trained else CUT_EMPTY


def _format_of(
    dataset: Dataset | IterableDataset, columns: Sequence[str], text_field: str, name: str
) -> Format:
    """The format of the first rows; raises DataError if `text_field` is set for a format that is not plain text."""
    first = first_rows(dataset, DETECTION_ROWS)
    try:
        form = detect_format(columns, first)
    except DataError as error:
        raise RowsRefused(f"{name} data: {error}") from error
    if text_field != "text" and form.name != "text":
        raise DataError(
            f"{name} data: dataset_text_field names a column of plain text, and the format is {form.name}. "
            "Fix: leave dataset_text_field out, or take the other columns out"
        )
    return form


def prepare_dataset(
    dataset: Dataset | IterableDataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None = None,
    positions: tuple[str, int] | None = None,
    train_on: TrainOn = "completions",
    num_proc: int | None = None,
    text_field: str = "text",
    name: str = "train",
    numbers: tuple[int, ...] | None = None,
    origin: Origin | None = None,
) -> Prepared:
    """Tokenises a data set and labels the trained tokens, as a tokenised data set for trl's `SFTTrainer`.

    Args:
        dataset: Rows in an accepted format. A stream is prepared lazily.
        tokenizer: The model's tokenizer. If it has no chat template and the rows are conversations, it gets the default
            one, in place; the report says so.
        max_length: Rows are truncated at their end to this many tokens; None for no limit.
        positions: Name and number of the model's positions, as in `known_positions`; rows beyond them are reported.
        train_on: "completions" trains completions and assistant turns, "all" every token.
        num_proc: Worker processes; not used for a stream.
        text_field: trl's `dataset_text_field`, the column of plain text.
        name: Name of the data in reports and errors.
        numbers: As in `Part`; None for a stream.
        origin: As in `Part`.

    Returns:
        The rows that have trained tokens, and the report, which counts the dropped ones.

    Raises:
        RowsRefused: Malformed rows; the message names the first ten. A stream raises DataError at the first.
        DataError: The format is unknown, or no row is left.
    """
    from datasets import IterableDataset

    dataset = _with_text_field(unformatted(dataset, name), text_field, name)
    columns = column_names(dataset)
    form = _format_of(dataset, columns, text_field, name)
    default_template = form.conversational and ensure_chat_template(tokenizer)
    tokenise, filled = RowTokenizer(tokenizer, train_on), columns_with_filled_nulls(dataset)
    limit, columns_made = length_limit(max_length, positions), features(("input_ids", "labels"))
    prepare = PrepareRow(form, tokenise, limit, name, filled, numbers, origin)
    base = DataReport(
        name=name,
        format=form.name,
        explanation=_explain(form, train_on),
        max_length=max_length,
        limit=limit,
        default_template=default_template,
    )
    options: dict[str, Any] = {"with_indices": True, "remove_columns": columns, "features": columns_made}
    if isinstance(dataset, IterableDataset):
        return _prepare_stream(dataset, prepare, replace(base, streaming=True), options)
    mapped = map_rows(dataset, prepare, **options, num_proc=num_proc, desc=f"Preparing {name} data")
    return Prepared(*drop_untrained(mapped, base, "rows", numbers), numbers, origin, loaded=dataset)


def _prepare_stream(
    dataset: IterableDataset, prepare: PrepareRow, report: DataReport, options: dict[str, Any]
) -> Prepared:
    """Rows that are prepared when they are read; the rows as loaded are prepared once more if they are asked for."""
    rows = dataset.map(prepare, **options).filter(_HasSomethingToLearn(report.name), with_indices=True)
    kept = dataset.filter(lambda row, index: not prepare(row, index)["ift_reason"], with_indices=True)
    return Prepared(rows.remove_columns(list(COUNTS)), report, loaded=kept)


def prepare_mixture(
    parts: Sequence[Part], tokenizer: PreTrainedTokenizerBase, *, name: str = "train", **options: Any
) -> Prepared:
    """Prepares data sets of possibly different formats separately and joins them in order.

    `options` and errors are those of `prepare_dataset`.
    """
    return join_parts(
        parts,
        name,
        lambda part, called: prepare_dataset(
            part.rows, tokenizer, name=called, numbers=part.numbers, origin=part.origin, **options
        ),
    )


def join_parts(parts: Sequence[Part], name: str, prepare: Callable[[Part, str], Prepared]) -> Prepared:
    """Prepares each part by `prepare(part, name)` and concatenates them; raises DataError if there are none."""
    if not parts:
        raise DataError(
            f"{name} data: found no data sets, expected at least one. Fix: set dataset_name or datasets"
        )

    def prepare_part(part: Part) -> Prepared:
        with part.renaming.advising():
            done = prepare(part, name if len(parts) == 1 else f"{name} {part.name}")
        return replace(done, renaming=part.renaming)

    if len(parts) == 1:
        return prepare_part(parts[0])
    from datasets import concatenate_datasets

    done = call_for_each(parts, prepare_part, first_rows_of)
    joined = concatenate_datasets([part.dataset for part in done])
    report = mixture_report(name, [part.report for part in done], [part.lengths for part in done])
    return Prepared(joined, report, parts=tuple(done))


def first_rows_of(part: Part) -> Part:
    """The first `CHECKED_ROWS` rows of a part."""
    return replace(part, rows=part.rows.take(CHECKED_ROWS))


class _HasSomethingToLearn:
    """Filters the rows of a stream: logs and drops rows without trained tokens, and logs each note once."""

    def __init__(self, name: str):
        self.name = name
        self.logged: set[str] = set()

    def __call__(self, row: dict[str, Any], index: int) -> bool:
        for note in set(row["ift_notes"].split(NOTE_SEPARATOR)) - self.logged - {""}:
            self.logged.add(note)
            logger.warning("%s data: %s (row %d is the first)", self.name, note, index + 1)
        if row["ift_reason"]:
            logger.warning("%s data: row %d dropped: %s", self.name, index + 1, row["ift_reason"])
        return not row["ift_reason"]


def _with_text_field(dataset: Any, text_field: str, name: str) -> Any:
    """Renames the column of trl's `dataset_text_field` to "text"; DataError without rows or without that column."""
    if not first_rows(dataset, 1):
        raise DataError(
            f"{name} data: found no rows, expected at least one. Fix: check the file and the split"
        )
    columns = column_names(dataset)
    if text_field == "text":
        return dataset
    if text_field not in columns:
        raise DataError(
            f'{name} data: dataset_text_field names "{text_field}", found columns {", ".join(columns)}. '
            "Fix: name one of these"
        )
    if "text" in columns:
        dataset = dataset.rename_columns({"text": "text (not dataset_text_field)"})
    return rename_columns(dataset, {text_field: "text"})


def _explain(form: Format, train_on: TrainOn) -> str:
    return (
        form.explanation
        if train_on == "completions"
        else f"{form.explanation}; completion_only_loss is false: training on every token"
    )

"""From rows in any accepted format to token ids and labels; everything dropped, cut or not used is counted."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from ift.data.counts import COUNTS, NOTE_SEPARATOR, count_trained, features, keep_trained
from ift.data.errors import DataError
from ift.data.formats import Format, column_names, detect_format, first_rows, rename_columns
from ift.data.masks import UNTRAINED, RowTokenizer, TokenisedRow, TrainOn
from ift.data.report import DataReport, mixture_report
from ift.data.source import SourceRow, columns_with_filled_nulls
from ift.data.templates import ensure_chat_template
from ift.data.turns import Row

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

TruncationMode = Literal["keep_start", "keep_end"]
_DETECTION_ROWS = 5  # rows that the detection of the format sees


@dataclass(frozen=True)
class Prepared:
    """Rows ready for the trainer.

    Attributes:
        dataset: `input_ids` and `labels` (-100 where nothing is trained), cut to `max_length`.
        report: What became of the rows.
    """

    dataset: Dataset | IterableDataset
    report: DataReport


@dataclass(frozen=True)
class Part:
    """One data set of a mixture.

    Attributes:
        name: How it is called in reports.
        rows: The rows as loaded.
    """

    name: str
    rows: Dataset | IterableDataset


@dataclass(frozen=True)
class _PrepareRow:
    """Prepares one row; a class, so that worker processes can be handed it.

    Attributes:
        form: Format of the data set.
        tokenise: Ids and labels of a canonical row.
        max_length: Rows are cut to this many tokens; None if they are not cut.
        truncation_mode: Which end stays.
        name: Of the data set, for messages.
        features: See `columns_with_filled_nulls`.
    """

    form: Format
    tokenise: RowTokenizer
    max_length: int | None
    truncation_mode: TruncationMode
    name: str
    features: Mapping[str, Any]

    def __call__(self, row: Any, index: int) -> dict[str, Any]:
        source = SourceRow(row, index + 1, self.features)
        try:
            canonical = self.form.read(source)
            if source.marked and self.tokenise.train_on == "all":
                raise DataError(
                    f"row {index + 1}: found turns that {source.marked} marks as not to be trained, and "
                    "completion_only_loss is false, which trains every token. Fix: leave one of the two out"
                )
            done = self.tokenise(canonical, index + 1)
        except DataError as error:
            raise DataError(f"{self.name} data, {error}{_other_format(self.form, row)}") from error
        cut = slice(None)
        if self.max_length is not None:
            keeps_start = self.truncation_mode == "keep_start"
            cut = slice(None, self.max_length) if keeps_start else slice(-self.max_length, None)
        ids, labels = done.input_ids[cut], done.labels[cut]
        trained, before = count_trained(labels), count_trained(done.labels)
        tail = done.labels[len(ids) :] if self.truncation_mode == "keep_start" else []
        reason = source.untrained or _nothing_to_learn(canonical, done, trained)
        notes = [*source.notes, *done.notes]
        if done.silent and before:
            notes.append("empty assistant turns: not trained")
        return {
            "input_ids": ids,
            "labels": labels,
            "ift_length": len(done.input_ids),
            "ift_total": len(ids),
            "ift_trained": trained,
            "ift_lost": before - trained,
            "ift_cut": len(ids) < len(done.input_ids),
            "ift_ends": done.ends and all(label == UNTRAINED for label in tail),
            "ift_merged": done.merged,
            "ift_reason": reason,
            "ift_notes": NOTE_SEPARATOR.join(notes),
        }


def _nothing_to_learn(row: Row, done: TokenisedRow, trained: int) -> str:
    """Why a row has nothing to learn, empty if it has."""
    if not done.input_ids:
        return "empty"
    if not count_trained(done.labels):
        return f"the {'text' if 'text' in row else 'answer'} is empty" if done.silent else "nothing to learn"
    return "" if trained else "nothing to learn after cutting at max_length"


def prepare_dataset(
    dataset: Dataset | IterableDataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None = None,
    train_on: TrainOn = "completions",
    truncation_mode: TruncationMode = "keep_start",
    num_proc: int | None = None,
    text_field: str = "text",
    name: str = "train",
) -> Prepared:
    """Tokenises a data set and labels what is trained, as trl's `SFTTrainer` takes a tokenised data set.

    Args:
        dataset: Rows in an accepted format. A stream is prepared as it is read.
        tokenizer: The model's tokenizer. One without a chat template gets the default one if the rows are
            conversations; the report says so.
        max_length: Cut rows to this many tokens; None leaves them whole.
        train_on: "completions" trains completions and assistant turns, "all" every token.
        truncation_mode: Which end of a row stays when it is cut, "keep_start" or "keep_end".
        num_proc: Worker processes; not used for a stream.
        text_field: trl's `dataset_text_field`, the column of plain text.
        name: What to call the data in reports and errors.

    Returns:
        The rows and the report about them. Rows that have nothing to learn are dropped, counted and named.

    Raises:
        DataError: If the format is unknown, a row is malformed, or no row is left.
    """
    from datasets import IterableDataset

    if not first_rows(dataset, 1):
        raise DataError(
            f"{name} data: found no rows, expected at least one. Fix: check the file and the split"
        )
    dataset = _with_text_field(dataset, text_field, name)
    columns = column_names(dataset)
    form = detect_format(columns, first_rows(dataset, _DETECTION_ROWS))
    if text_field != "text" and form.name != "text":
        raise DataError(
            f"{name} data: dataset_text_field names a column of plain text, and the format is {form.name}. "
            "Fix: leave dataset_text_field out, or take the other columns out"
        )
    default_template = form.conversational and ensure_chat_template(tokenizer)
    tokenise, filled = RowTokenizer(tokenizer, train_on), columns_with_filled_nulls(dataset)
    prepare = _PrepareRow(form, tokenise, max_length, truncation_mode, name, filled)
    base = DataReport(
        name=name,
        format=form.name,
        explanation=_explain(form, train_on),
        max_length=max_length,
        default_template=default_template,
    )
    options: dict[str, Any] = {
        "with_indices": True,
        "remove_columns": columns,
        "features": features(("input_ids", "labels")),
    }
    if isinstance(dataset, IterableDataset):
        rows = dataset.map(prepare, **options).filter(_HasSomethingToLearn(name), with_indices=True)
        return Prepared(rows.remove_columns(list(COUNTS)), replace(base, streaming=True))
    mapped = dataset.map(prepare, **options, num_proc=num_proc, desc=f"Preparing {name} data")
    return Prepared(*keep_trained(mapped, base, "rows"))


def prepare_mixture(
    parts: Sequence[Part], tokenizer: PreTrainedTokenizerBase, *, name: str = "train", **options: Any
) -> Prepared:
    """Prepares data sets of possibly different formats, each by itself, and joins them.

    Args:
        parts: The data sets, in the order in which they are joined.
        tokenizer: As for `prepare_dataset`.
        name: What to call the whole.
        **options: Further options of `prepare_dataset`.

    Returns:
        The joined rows and a report that holds the parts' reports.

    Raises:
        DataError: As `prepare_dataset`, for the part at fault, or if there are no parts.
    """
    if not parts:
        raise DataError(
            f"{name} data: found no data sets, expected at least one. Fix: set dataset_name or datasets"
        )
    if len(parts) == 1:
        return prepare_dataset(parts[0].rows, tokenizer, name=name, **options)
    from datasets import concatenate_datasets

    done = [prepare_dataset(part.rows, tokenizer, name=f"{name} {part.name}", **options) for part in parts]
    joined = concatenate_datasets([part.dataset for part in done])
    return Prepared(joined, mixture_report(name, [part.report for part in done]))


class _HasSomethingToLearn:
    """Lets through the rows of a stream that have something to learn; logs the others, and each note once."""

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
    """The data set with trl's `dataset_text_field` as its column of text."""
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


def _other_format(form: Format, row: Mapping[str, Any]) -> str:
    """A hint where a malformed row would be one of another format."""
    try:
        other = detect_format([column for column, value in row.items() if value is not None], [row])
    except DataError:
        return ""
    if other.reads is form.reads:
        return ""
    return (
        f" (This row looks like {other.name}, and a data set has one format. Give each format a file of its own, and "
        "name the files under datasets: in the YAML file)"
    )


def _explain(form: Format, train_on: TrainOn) -> str:
    return (
        form.explanation
        if train_on == "completions"
        else f"{form.explanation}; completion_only_loss is false: training on every token"
    )

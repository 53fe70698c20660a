"""From rows in any accepted format to token ids and labels, with nothing dropped or cut in silence."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from ift.data.errors import DataError
from ift.data.formats import Format, column_names, detect_format, first_rows
from ift.data.masks import UNTRAINED, RowTokenizer, TrainOn
from ift.data.report import DataReport, mixture_report, quantiles
from ift.data.templates import ensure_chat_template
from ift.data.turns import says_nothing

if TYPE_CHECKING:
    from datasets import Dataset, Features, IterableDataset
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

Keep = Literal["keep_start", "keep_end"]
_LOOK_AT = 5  # rows that the detection of the format sees
_COUNTS = (
    "ift_length",
    "ift_total",
    "ift_trained",
    "ift_lost",
    "ift_cut",
    "ift_ends",
    "ift_merged",
    "ift_reason",
)


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


class _PrepareRow:
    """Prepares one row; a class, so that worker processes can be handed it."""

    def __init__(self, form: Format, tokenise: RowTokenizer, max_length: int | None, keep: Keep, name: str):
        self.form, self.tokenise, self.max_length, self.keep, self.name = (
            form,
            tokenise,
            max_length,
            keep,
            name,
        )

    def __call__(self, row: Any, index: int) -> dict[str, Any]:
        try:
            canonical = self.form.convert(dict(row), index + 1)
            done = self.tokenise(canonical, index + 1)
        except DataError as error:
            raise DataError(f"{self.name} data, {error}{_other_format(self.form, row)}") from error
        cut = slice(None)
        if self.max_length is not None:
            cut = slice(None, self.max_length) if self.keep == "keep_start" else slice(-self.max_length, None)
        ids, labels = done.input_ids[cut], done.labels[cut]
        trained, before = count_trained(labels), count_trained(done.labels)
        was_cut = len(ids) < len(done.input_ids)
        reason = ""
        if not done.input_ids:
            reason = "empty"
        elif not before:
            reason = "nothing to learn"
        elif not trained:
            reason = "nothing to learn after cutting at max_length"
        elif self.tokenise.train_on == "completions" and says_nothing(canonical):
            reason = "the answer is empty"
        tail = done.labels[len(ids) :] if self.keep == "keep_start" else []
        ends = done.ends and all(label == UNTRAINED for label in tail)
        return {
            "input_ids": ids,
            "labels": labels,
            "ift_length": len(done.input_ids),
            "ift_total": len(ids),
            "ift_trained": trained,
            "ift_lost": before - trained,
            "ift_cut": was_cut,
            "ift_ends": ends,
            "ift_merged": done.merged,
            "ift_reason": reason,
        }


def prepare_dataset(
    dataset: Dataset | IterableDataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None = None,
    train_on: TrainOn = "completions",
    truncation_mode: Keep = "keep_start",
    num_proc: int | None = None,
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
        name: What to call the data in reports and errors.

    Returns:
        The rows and the report about them. Rows that have nothing to learn are dropped, counted and named.

    Raises:
        DataError: If the format is unknown, a row is malformed, or no row is left.
    """
    from datasets import IterableDataset

    first = first_rows(dataset, _LOOK_AT)
    if not first:
        raise DataError(
            f"{name} data: found no rows, expected at least one. Fix: check the file and the split"
        )
    columns = column_names(dataset)
    form = detect_format(columns, first)
    default_template = form.conversational and ensure_chat_template(tokenizer)
    prepare = _PrepareRow(form, RowTokenizer(tokenizer, train_on), max_length, truncation_mode, name)
    base = DataReport(
        name=name,
        format=form.name,
        explanation=_explain(form, train_on),
        max_length=max_length,
        default_template=default_template,
    )
    options: dict[str, Any] = {"with_indices": True, "remove_columns": columns, "features": _features()}
    if isinstance(dataset, IterableDataset):
        rows = dataset.map(prepare, **options).filter(_Keep(name), with_indices=True)
        return Prepared(rows.remove_columns(list(_COUNTS)), replace(base, streaming=True))
    mapped = dataset.map(prepare, **options, num_proc=num_proc, desc=f"Preparing {name} data")
    kept = [index for index, reason in enumerate(mapped["ift_reason"]) if not reason]
    report = _count(mapped, kept, base)
    if not kept:
        reasons = "; ".join(f"{reason}: {len(rows)} rows" for reason, rows in report.dropped.items())
        raise DataError(
            f"{name} data: none of {report.rows_read} rows is left ({reasons}). "
            "Fix: raise --max_length, or check that the rows hold answers"
        )
    return Prepared(mapped.select(kept).remove_columns(list(_COUNTS)), report)


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


def count_trained(labels: Sequence[int]) -> int:
    """Counts the tokens that a causal model learns from: those with a label, without the first of the row.

    Args:
        labels: Labels of one row, -100 where untrained.

    Returns:
        Their number.
    """
    return sum(label != UNTRAINED for label in labels[1:])


class _Keep:
    """Lets through the rows of a stream that have something to learn and logs the others."""

    def __init__(self, name: str):
        self.name = name

    def __call__(self, row: dict[str, Any], index: int) -> bool:
        if row["ift_reason"]:
            logger.warning("%s data: row %d dropped: %s", self.name, index + 1, row["ift_reason"])
        return not row["ift_reason"]


def _other_format(form: Format, row: Mapping[str, Any]) -> str:
    """A hint where a malformed row would be one of another format."""
    try:
        other = detect_format([column for column, value in row.items() if value is not None], [row])
    except DataError:
        return ""
    if other.convert is form.convert:
        return ""
    return (
        f" (This row looks like {other.name}, and a data set has one format. Give each format a file of its own, and "
        "name the files under datasets: in the YAML file)"
    )


def _explain(form: Format, train_on: TrainOn) -> str:
    return (
        form.explanation
        if train_on == "completions"
        else f"{form.explanation} (here: every token, train_on is all)"
    )


def _features() -> Features:
    from datasets import Features, List, Value

    kinds = {"ift_cut": "bool", "ift_ends": "bool", "ift_reason": "string"}
    counts = {column: Value(kinds.get(column, "int64")) for column in _COUNTS}
    return Features({"input_ids": List(Value("int64")), "labels": List(Value("int64")), **counts})


def _count(mapped: Dataset, kept: list[int], base: DataReport) -> DataReport:
    columns = {column: list(mapped[column]) for column in _COUNTS}
    dropped: dict[str, list[int]] = {}
    for index, reason in enumerate(columns["ift_reason"]):
        if reason:
            dropped.setdefault(reason, []).append(index + 1)
    answers = [kept + lost for kept, lost in zip(columns["ift_trained"], columns["ift_lost"], strict=True)]
    prompts = [whole - answer for whole, answer in zip(columns["ift_length"], answers, strict=True)]
    return replace(
        base,
        rows_read=len(mapped),
        rows_kept=len(kept),
        dropped={reason: tuple(rows) for reason, rows in dropped.items()},
        rows_cut=sum(columns["ift_cut"][index] for index in kept),
        total_tokens=sum(columns["ift_total"][index] for index in kept),
        trained_tokens=sum(columns["ift_trained"][index] for index in kept),
        trained_tokens_lost=sum(columns["ift_lost"]),
        rows_without_end=sum(not columns["ift_ends"][index] for index in kept),
        merged_boundaries=sum(columns["ift_merged"][index] for index in kept),
        lengths=quantiles(columns["ift_length"]),
        prompt_lengths=quantiles(prompts),
        answer_lengths=quantiles(answers),
    )

"""Splits the user's rows once for a whole study into training rows and held-out rows, on which no method trains."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ift.data import DataError, Part, prepare_dataset
from ift.data.held_out import prompt_key
from ift.data.pairs import prepare_pairs
from ift.data.report import row_numbers
from ift.data.samples import SIDES
from ift.lab.compare.split import Split
from ift.labels import IGNORED
from ift.text import counted

COLUMNS = "columns"  # of a held-out row: all columns of the row as loaded, as JSON
SPLIT_SEED = 0  # decides which rows are held out, the same for every method, seed and repeated command
VALIDATION_SHARE, VALIDATION_AT_MOST = 0.1, 200
TEST_SHARE, TEST_AT_MOST = 0.2, 500


@dataclass(frozen=True)
class _Row:
    """One row that can be trained.

    Attributes:
        part: The number of its part.
        prepared_index: Its index among the prepared rows of the part.
        loaded_index: Its index among the rows of the part as loaded.
        prompt: Its prompt as text, for comparison.
        fits: Whether the whole row fits into `max_length`.
    """

    part: int
    prepared_index: int
    loaded_index: int
    prompt: str
    fits: bool


@dataclass(frozen=True)
class _Source:
    """Parts from which rows are taken.

    Attributes:
        parts: The parts as loaded.
        prepared: The parts as token ids, with the numbers of their rows.
        groups: The rows that are not taken yet, by prompt; the prompts are in a shuffled order.
        notes: Remarks on the chat template, and on dropped test rows.
    """

    parts: Sequence[Part]
    prepared: list[Any]
    groups: dict[str, list[_Row]]
    notes: list[str]

    @property
    def rows(self) -> list[_Row]:
        """All rows that have not been taken, in the shuffled order of their prompts."""
        return [row for group in self.groups.values() for row in group]

    @property
    def fitting(self) -> int:
        """How many rows `take` can take at most."""
        return sum(len(group) for group in self.groups.values() if all(row.fits for row in group))

    def take(self, wanted: int) -> list[_Row]:
        """Take whole groups of fitting rows until there are `wanted` rows; an empty list if there are too few."""
        taken: list[_Row] = []
        for prompt in [*self.groups]:
            if len(taken) >= wanted:
                break
            if all(row.fits for row in self.groups[prompt]):
                taken += self.groups.pop(prompt)
        return taken if len(taken) >= wanted else []

    def select_prepared(self, rows: Sequence[_Row]) -> Any:
        """The rows as token ids, in one data set."""
        from datasets import concatenate_datasets

        chosen = [[row.prepared_index for row in rows if row.part == part] for part in range(len(self.parts))]
        return concatenate_datasets(
            [part.select(indices) for part, indices in zip(self.prepared, chosen, strict=True)]
        )

    def rows_as_loaded(self, rows: Sequence[_Row]) -> list[dict[str, Any]]:
        """All columns of rows, in the order of `select_prepared`."""
        return [
            part.rows[row.loaded_index]
            for number, part in enumerate(self.parts)
            for row in rows
            if row.part == number
        ]

    def select_loaded(self, rows: Sequence[_Row]) -> list[Part]:
        """The rows as loaded, without parts from which no row is wanted."""
        chosen = [[row.loaded_index for row in rows if row.part == part] for part in range(len(self.parts))]
        return [
            replace(part, rows=part.rows.select(indices), numbers=tuple(index + 1 for index in indices))
            for part, indices in zip(self.parts, chosen, strict=True)
            if indices
        ]


def split_rows(
    train: Sequence[Part],
    test: Sequence[Part] | None,
    tokenizer: Any,
    *,
    max_length: int | None,
    train_on: Any = "completions",
    text_field: str = "text",
    train_rows: int | None = None,
    validation_rows: int | None = None,
    test_rows: int | None = None,
    keep_columns: bool = False,
) -> Split:
    """Hold rows out for validation and test; rows with the same prompt always stay on one side.

    Only rows that fit into `max_length` are held out, because a truncated target cannot be scored. The choice depends
    only on the rows, the tokenizer and the sizes.

    Args:
        train: The training rows as loaded, no streams.
        test: The rows of a test split; None takes test rows from `train`.
        tokenizer: The tokenizer of the model; it gets the default chat template if it needs one and has none.
        max_length: As in training.
        train_on: As in training.
        text_field: As in training.
        train_rows: Maximum number of training rows; None: all.
        validation_rows: Number of validation rows; None: a tenth of the rows, at most 200.
        test_rows: Number of test rows; None: a fifth of the rows, or the whole test split; at most 500. Fewer than a
            test split has are evenly spread over it, the rows that a time budget with this number scores.
        keep_columns: Whether held-out rows keep the columns with which they were loaded, for scores.

    Raises:
        DataError: Streams, malformed rows, or too few rows.
    """
    how = {"train_on": train_on, "text_field": text_field}
    source = _source("train", train, tokenizer, max_length, how)
    total, notes = len(source.rows), source.notes
    if validation_rows is None:
        validation_rows = min(VALIDATION_AT_MOST, max(1, round(total * VALIDATION_SHARE)))
    of_train = test_rows or min(TEST_AT_MOST, max(1, round(total * TEST_SHARE)))
    wanted = {"test": of_train, "validation": validation_rows}
    test_source = source if test is None else _source("test", test, tokenizer, max_length, how)
    if test is not None:  # all that fit; `first` selects from them below, as a time budget does
        wanted["test"] = max(min(TEST_AT_MOST, test_source.fitting), test_rows or 1)
    chosen = {"test": test_source.take(wanted["test"])}
    if test is not None:
        double = sum(len(source.groups.pop(row.prompt, [])) for row in chosen["test"])
        left_out = f"{counted(double, 'training row')} left out: the test rows have the same prompts"
        notes += [*test_source.notes, *([left_out] if double else [])]
    chosen["validation"] = source.take(wanted["validation"])
    if not (chosen["test"] and (chosen["validation"] or not validation_rows) and source.rows):
        raise _too_few(total, wanted, max_length)
    left = _training_rows(source.rows, train_rows)
    held_out = {"validation": (source, chosen["validation"]), "test": (test_source, chosen["test"])}
    split = _built(source, left, held_out, tokenizer, max_length, notes)
    split = _with_columns(split, held_out) if keep_columns else split
    if test is not None and test_rows:
        split = split.first(len(split.validation), test_rows)
    notes.append(_sizes(split.train_rows, len(split.validation), len(split.test), test is not None))
    return split


def _sizes(train: int, validation: int, test: int, of_the_test_split: bool) -> str:
    validated = f"{validation:,} for validation, " if validation else ""
    return (
        f"{counted(train, 'row')} to train on, {validated}{test:,} to test on"
        + " (of the test split)" * of_the_test_split
        + ("" if validation else "; none for validation: there are no settings to choose")
    )


def _too_few(total: int, wanted: Mapping[str, int], max_length: int | None) -> DataError:
    test, validation = (f"{wanted[name]:,}" for name in ("test", "validation"))
    held_out = f"{test} for the test" + (f" and {validation} for validation" if wanted["validation"] else "")
    return DataError(
        f"{counted(total, 'row')} that can be trained: too few to hold out {held_out} (held-out rows must fit "
        f"max_length {max_length}, and rows with the same prompt stay together). Fix: more rows, or lower --test_rows "
        "and --validation_rows, or raise --max_length"
    )


def _training_rows(left: list[_Row], wanted: int | None) -> list[_Row]:
    if wanted is not None and wanted > len(left):
        raise DataError(
            f"--train_rows {wanted:,}: {counted(len(left), 'row is', 'rows are')} left for training. "
            "Fix: lower it"
        )
    return sorted(left[:wanted], key=lambda row: (row.part, row.loaded_index))


def _built(
    source: _Source,
    left: list[_Row],
    held_out: dict[str, tuple[_Source, list[_Row]]],
    tokenizer: Any,
    max_length: int | None,
    notes: list[str],
) -> Split:
    """The split of the chosen rows with its hashes; if the rows are pairs, with the held-out pairs."""
    ids = {name: place.select_prepared(rows) for name, (place, rows) in held_out.items()}
    rows_of = {"train": (source, left), **held_out}
    pairs, rejected = {}, dict[str, list[Any]]()
    if has_pairs(source.parts):
        rejected = {
            name: [one.get("rejected") for one in place.rows_as_loaded(rows)]
            for name, (place, rows) in rows_of.items()
        }
        for name, (place, rows) in held_out.items():
            if not rows:
                continue
            parts = place.select_loaded(rows)
            pairs[name] = prepare_pairs(parts, tokenizer, max_length=max_length, name=name).dataset
    prepared = {"train": source.select_prepared(left), **ids}
    hashes = {name: _sha256(rows, rejected.get(name)) for name, rows in prepared.items()}
    return Split(source.select_loaded(left), ids["validation"], ids["test"], pairs, hashes, notes)


def _with_columns(split: Split, held_out: dict[str, tuple[_Source, list[_Row]]]) -> Split:
    """The split with the field `COLUMNS` in its held-out rows, included in their hashes."""
    columns = {
        name: [json.dumps(one, default=str) for one in place.rows_as_loaded(rows)]
        for name, (place, rows) in held_out.items()
    }
    hashes = {
        f"{name} columns": hashlib.sha256("\n".join(found).encode()).hexdigest()
        for name, found in columns.items()
    }
    kept = {name: getattr(split, name).add_column(COLUMNS, found) for name, found in columns.items() if found}
    return replace(split, **kept, sha256=split.sha256 | hashes)


def has_pairs(parts: Sequence[Part]) -> bool:
    """Whether every part has a chosen and a rejected answer."""
    return all(set(SIDES) <= set(part.rows.column_names or []) for part in parts)


def _source(
    name: str, parts: Sequence[Part], tokenizer: Any, max_length: int | None, how: Mapping[str, Any]
) -> _Source:
    """The parts as token ids, their rows by prompt, and notes on dropped rows; `how`: options of `prepare_dataset`."""
    from datasets import Dataset

    prepared, groups, notes = [], dict[str, list[_Row]](), []
    for number, part in enumerate(parts):
        if not isinstance(part.rows, Dataset):
            raise DataError(
                f"{name} data: a stream cannot be split for a comparison. Fix: set dataset_streaming to false"
            )
        done = prepare_dataset(part.rows, tokenizer, name=name, origin=part.origin, **how)
        if done.report.default_template:
            notes.append("the tokenizer has no chat template: the default one (User: / Assistant:) is used")
        dropped = {row for numbers in done.report.dropped.values() for row in numbers}
        if name == "test":  # the check of the training rows names those that are dropped
            notes += [
                f"{part.name}: {counted(len(numbers), 'row is', 'rows are')} dropped: {reason} (the first is row "
                f"{numbers[0]})"
                for reason, numbers in done.report.dropped.items()
            ]
        kept = [index for index in range(len(part.rows)) if index + 1 not in dropped]
        prepared.append(done.dataset.add_column("row", [index + 1 for index in kept]))
        for index, row in enumerate(done.dataset):
            if not any(label != IGNORED for label in row["labels"][1:max_length]):
                continue  # truncation leaves nothing to learn: training drops the row too
            begin = next(place for place, label in enumerate(row["labels"]) if label != IGNORED)
            prompt = prompt_key(tokenizer.decode(row["input_ids"][:begin] or row["input_ids"]))
            fits = max_length is None or len(row["input_ids"]) <= max_length
            groups.setdefault(prompt, []).append(_Row(number, index, kept[index], prompt, fits))
    order = list(groups)
    random.Random(SPLIT_SEED).shuffle(order)
    return _Source(parts, prepared, {prompt: groups[prompt] for prompt in order}, notes)


def _sha256(rows: Any, rejected: Sequence[Any] | None) -> str:
    """A hash of token ids and labels, and of the rejected answers if the rows are pairs."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row["input_ids"], row["labels"]]).encode())
    for answer in rejected or ():
        digest.update(json.dumps(answer, default=str).encode())
    return digest.hexdigest()


def name_promptless(rows: Sequence[Mapping[str, Any]], prompts: Sequence[list[int]]) -> str:
    """Name the held-out rows without a prompt that a model can answer; "" if all rows have one."""
    found = [row["row"] for row, prompt in zip(rows, prompts, strict=True) if not prompt]
    if not found:
        return ""
    has = "has" if len(found) == 1 else "have"
    return f"{len(found)} of {counted(len(rows), 'held-out row')} {has} no prompt ({row_numbers(found)})"

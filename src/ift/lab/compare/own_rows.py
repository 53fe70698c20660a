"""Rows of the user's own, split once for a whole study: training rows, and held-out ones that no method has seen."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ift.data import DataError, Part, prepare_dataset
from ift.data.masks import UNTRAINED
from ift.data.pairs import SIDES, prepare_pairs

SPLIT_SEED = 0  # of which rows are held out: the same for every method, seed and repeated command
VALIDATION_SHARE, VALIDATION_AT_MOST = 0.1, 200
TEST_SHARE, TEST_AT_MOST = 0.2, 500


@dataclass(frozen=True)
class Split:
    """What a study trains and scores on.

    Attributes:
        train: Rows as loaded, in their order.
        validation: Held-out rows: `input_ids`, `labels`, and `row`, the number that the row has where it came from.
        test: The same, never used to choose anything.
        pairs: By split the held-out pairs of `prepare_pairs`; empty without pairs.
        sha256: By split, of the token ids and labels.
        notes: What was decided, one line each.
    """

    train: list[Part]
    validation: Any
    test: Any
    pairs: dict[str, Any]
    sha256: dict[str, str]
    notes: list[str]

    @property
    def train_rows(self) -> int:
        """Rows of all parts."""
        return sum(len(part.rows) for part in self.train)

    def save(self, folder: Path) -> None:
        """Write everything below `folder`, `split.json` last: where it is, all is there."""
        done = folder / "split.json"
        if done.exists() and json.loads(done.read_text())["sha256"] == self.sha256:
            return
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        names = []
        for number, part in enumerate(self.train):
            part.rows.save_to_disk(str(folder / f"train-{number}"))
            names.append(part.name)
        for name, rows in {"validation": self.validation, "test": self.test}.items():
            rows.save_to_disk(str(folder / name))
        for name, rows in self.pairs.items():
            rows.save_to_disk(str(folder / f"{name}-pairs"))
        done.write_text(
            json.dumps({"sha256": self.sha256, "train": names, "pairs": [*self.pairs]}, indent=1) + "\n"
        )

    @classmethod
    def load(cls, folder: Path) -> Split:
        """Read what `save` wrote."""
        from datasets import load_from_disk

        about = json.loads((folder / "split.json").read_text())
        train = [
            Part(name, load_from_disk(str(folder / f"train-{number}")))
            for number, name in enumerate(about["train"])
        ]
        validation, test = (load_from_disk(str(folder / name)) for name in ("validation", "test"))
        pairs = {name: load_from_disk(str(folder / f"{name}-pairs")) for name in about["pairs"]}
        return cls(train, validation, test, pairs, about["sha256"], [])


@dataclass(frozen=True)
class _Row:
    """One row that can be trained.

    Attributes:
        part: Number of its part.
        place: Among that part's prepared rows.
        source: Among that part's rows as loaded.
        prompt: As text, to be compared.
        fits: Whether it fits `max_length` whole.
    """

    part: int
    place: int
    source: int
    prompt: str
    fits: bool


def split_rows(
    train: Sequence[Part],
    test: Sequence[Part] | None,
    tokenizer: Any,
    *,
    max_length: int | None,
    train_on: Any = "completions",
    train_rows: int | None = None,
    validation_rows: int | None = None,
    test_rows: int | None = None,
) -> Split:
    """Hold rows out for validation and test; rows with the same prompt never stand on two sides.

    Held out are rows that fit `max_length` whole: a cut target cannot be scored. The choice depends on the rows, the
    tokenizer and the sizes alone.

    Args:
        train: Training rows as loaded, no streams.
        test: Rows of a test split; None takes them from `train`.
        tokenizer: Of the model; one without a chat template gets the default one where it is needed.
        max_length: As in training.
        train_on: As in training.
        train_rows: At most so many training rows; None leaves all.
        validation_rows: None holds out a tenth, at most 200.
        test_rows: None holds out a fifth, at most 500; of a test split all, at most 500.

    Raises:
        DataError: Streams, malformed rows, or too few rows.
    """
    prepared, rows, notes = _prepared("train", train, tokenizer, max_length, train_on)
    groups, keys = _groups(rows)
    total = len(rows)
    wanted = {
        "test": test_rows or min(TEST_AT_MOST, max(1, round(total * TEST_SHARE))),
        "validation": validation_rows or min(VALIDATION_AT_MOST, max(1, round(total * VALIDATION_SHARE))),
    }
    if test is None:
        test_source, test_parts, chosen_test = prepared, train, _take(groups, keys, wanted["test"])
    else:
        test_source, found, test_notes = _prepared("test", test, tokenizer, max_length, train_on)
        notes += test_notes
        wanted["test"] = test_rows or min(TEST_AT_MOST, sum(row.fits for row in found))
        test_parts, chosen_test = test, _take(*_groups(found), wanted["test"])
        double = sum(len(groups.pop(row.prompt, [])) for row in chosen_test)
        if double:
            notes.append(f"{double:,} training rows left out: the test rows have the same prompts")
    chosen_validation = _take(groups, keys, wanted["validation"])
    left = [row for key in keys for row in groups.get(key, [])]
    if not (chosen_test and chosen_validation and left):
        raise DataError(
            f"{total:,} rows that can be trained are too few to hold out {wanted['test']:,} for the test and "
            f"{wanted['validation']:,} for validation (of rows that fit max_length {max_length}, no prompt on two "
            "sides). Fix: give more rows, lower --test_rows and --validation_rows, or raise --max_length"
        )
    if train_rows is not None and train_rows > len(left):
        raise DataError(
            f"--train_rows {train_rows:,}: {len(left):,} rows are left beside validation and test. Fix: lower it"
        )
    left = sorted(left[:train_rows], key=lambda row: (row.part, row.source))
    held_out = {
        "validation": (prepared, train, chosen_validation),
        "test": (test_source, test_parts, chosen_test),
    }
    ids = {name: _joined(source, chosen) for name, (source, _, chosen) in held_out.items()}
    parts = _select(train, left)
    pairs = {}
    if has_pairs(train):
        for name, (_, source, chosen) in held_out.items():
            pairs[name] = prepare_pairs(
                _select(source, chosen), tokenizer, max_length=max_length, name=name
            ).dataset
    hashes = {name: _sha256(rows) for name, rows in {"train": _joined(prepared, left), **ids}.items()}
    notes.append(
        f"{len(left):,} rows train, {len(chosen_validation):,} choose settings, {len(chosen_test):,} test"
        + ("" if test is None else " (of the test split)")
    )
    return Split(parts, ids["validation"], ids["test"], pairs, hashes, notes)


def has_pairs(parts: Sequence[Part]) -> bool:
    """Whether every part has a chosen and a rejected answer."""
    return all(set(SIDES) <= set(part.rows.column_names or []) for part in parts)


def _prepared(
    name: str, parts: Sequence[Part], tokenizer: Any, max_length: int | None, train_on: Any
) -> tuple[list[Any], list[_Row], list[str]]:
    """The parts as token ids, with the numbers of their rows; one `_Row` for each; notes on what was dropped."""
    from datasets import Dataset

    found, rows, notes = [], [], []
    for number, part in enumerate(parts):
        if not isinstance(part.rows, Dataset):
            raise DataError(
                f"{name} data: a stream cannot be split for a comparison. Fix: set dataset_streaming to false"
            )
        done = prepare_dataset(part.rows, tokenizer, name=name, train_on=train_on)
        if done.report.default_template:
            notes.append("the tokenizer has no chat template: the default one (User: / Assistant:) is used")
        dropped = {row for numbers in done.report.dropped.values() for row in numbers}
        notes += [
            f"{name} {part.name}: {len(numbers):,} rows dropped: {reason} (row {numbers[0]} is the first)"
            for reason, numbers in done.report.dropped.items()
        ]
        kept = [place for place in range(len(part.rows)) if place + 1 not in dropped]
        found.append(done.dataset.add_column("row", [place + 1 for place in kept]))
        for place, row in enumerate(done.dataset):
            prompt = tokenizer.decode(row["input_ids"][: first_trained(row["labels"])] or row["input_ids"])
            fits = max_length is None or len(row["input_ids"]) <= max_length
            rows.append(_Row(number, place, kept[place], " ".join(prompt.split()).casefold(), fits))
    return found, rows, notes


def first_trained(labels: Sequence[int]) -> int:
    """Place of the first label."""
    return next(place for place, label in enumerate(labels) if label != UNTRAINED)


def _groups(rows: Sequence[_Row]) -> tuple[dict[str, list[_Row]], list[str]]:
    """Rows by prompt, and the prompts in a shuffled order."""
    groups: dict[str, list[_Row]] = {}
    for row in rows:
        groups.setdefault(row.prompt, []).append(row)
    keys = list(groups)
    random.Random(SPLIT_SEED).shuffle(keys)
    return groups, keys


def _take(groups: dict[str, list[_Row]], keys: list[str], wanted: int) -> list[_Row]:
    """Move whole groups, in the order of the keys, out of `groups` until `wanted` rows are there."""
    taken: list[_Row] = []
    for key in keys:
        if len(taken) >= wanted:
            break
        if key in groups and all(row.fits for row in groups[key]):
            taken += groups.pop(key)
    return taken if len(taken) >= wanted else []


def _joined(prepared: Sequence[Any], rows: Sequence[_Row]) -> Any:
    from datasets import concatenate_datasets

    return concatenate_datasets(
        [
            part.select([row.place for row in rows if row.part == number])
            for number, part in enumerate(prepared)
        ]
    )


def _select(parts: Sequence[Part], rows: Sequence[_Row]) -> list[Part]:
    """The rows as loaded; parts of which none is wanted are left out."""
    chosen = [[row.source for row in rows if row.part == number] for number in range(len(parts))]
    return [
        Part(part.name, part.rows.select(places))
        for part, places in zip(parts, chosen, strict=True)
        if places
    ]


def _sha256(rows: Any) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row["input_ids"], row["labels"]]).encode())
    return digest.hexdigest()

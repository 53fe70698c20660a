"""Loads training and evaluation rows from trl's arguments: splits, mixtures, and held-out training rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ift.data.entry_names import READERS, entry_names
from ift.data.errors import DataError, call_for_each
from ift.data.folders import resolve_data_files
from ift.data.formats import column_names, rename_columns
from ift.data.held_out import split_parts
from ift.data.loading import (
    choose_split,
    files_left_out,
    is_local,
    load_files,
    load_with_origin,
    quiet,
    split_names,
)
from ift.data.malformed import Preparation, all_malformed_rows
from ift.data.origin import Origin
from ift.data.prepare import Part
from ift.data.renaming import Renaming, check_names
from ift.data.tables import table_notes
from ift.text import counted

if TYPE_CHECKING:
    from transformers import TrainingArguments
    from trl import DatasetMixtureConfig, ScriptArguments

Refusal = Callable[
    [Mapping[str, str]], AbstractContextManager[None]
]  # `all_malformed_rows` of columns to rename
EVALUATION_SHARE = 0.05
EVALUATION_ROWS = 1000  # at most


@dataclass(frozen=True)
class LoadedData:
    """Training and evaluation rows as loaded, for `prepare_mixture`.

    Attributes:
        train: Parts of the training data; one, except for a mixture.
        evaluation: Parts of the evaluation data; None without evaluation.
        notes: Decisions made while loading, one line each, to be shown to the user.
    """

    train: list[Part]
    evaluation: list[Part] | None = None
    notes: list[str] = field(default_factory=list)


def load_train_and_eval(
    script_args: ScriptArguments,
    mixture_args: DatasetMixtureConfig | None,
    training_args: TrainingArguments,
    *,
    columns: Mapping[str, str] | None = None,
    pairs: bool = False,
    preparation: Preparation | None = None,
) -> LoadedData:
    """Loads the data sets that trl's arguments name.

    Args:
        script_args: `dataset_name`, `dataset_config`, `dataset_train_split`, `dataset_test_split`, `dataset_streaming`.
        mixture_args: A `datasets:` list; if it has entries, `script_args` names no data. `test_split_size` holds out
            training rows of either: a share below 1, or a number of rows.
        training_args: `eval_strategy` and `seed`.
        columns: Columns to rename, old to new.
        pairs: Whether the rows are read as preference pairs, for the refusal of malformed ones.
        preparation: As in `all_malformed_rows`.

    Returns:
        Training rows, and evaluation rows if `eval_strategy` asks for them: the evaluation split or, without one or
            with `test_split_size`, a seeded sample of the training rows (by default 5 %, at most 1,000 rows) that is
            not trained.

    Raises:
        RowsRefused: Rows of text files that cannot be read; the message also names the malformed ones among the others.
        DataError: A path, split or column does not exist, or evaluation rows cannot be held out.
    """
    wanted = evaluates(training_args)
    how: dict[str, Any] = {"columns": columns, "pairs": pairs, "preparation": preparation}
    data = load_splits(script_args, mixture_args, wanted, **how)
    share = None if mixture_args is None else mixture_args.test_split_size
    if data.evaluation is None and (wanted or share is not None):
        data = hold_out_evaluation(data, training_args.seed, share)
    if wanted or share is None:
        return data
    note = (
        "the rows held out are not evaluated, because eval_strategy is no (--eval_strategy epoch evaluates)"
    )
    return replace(data, evaluation=None, notes=[*data.notes, note])


def load_splits(
    script_args: ScriptArguments,
    mixture_args: DatasetMixtureConfig | None,
    evaluation: bool,
    *,
    columns: Mapping[str, str] | None = None,
    pairs: bool = False,
    preparation: Preparation | None = None,
) -> LoadedData:
    """Loads training rows and, if `evaluation` is true and the data has one, the evaluation split; nothing is held out.

    Arguments and errors are otherwise those of `load_train_and_eval`.
    """
    columns = columns or {}
    refusal = partial(all_malformed_rows, pairs=pairs, preparation=preparation)
    if mixture_args is not None and mixture_args.datasets:
        return _load_mixture(mixture_args, columns, refusal)
    if script_args.dataset_name is None:
        raise DataError("no data: found neither dataset_name nor datasets. Fix: give --dataset_name")
    held_out = mixture_args is not None and mixture_args.test_split_size is not None
    return _load_single(script_args, evaluation, held_out, columns, refusal)


def evaluates(training_args: TrainingArguments) -> bool:
    """Whether a run's arguments ask for evaluation."""
    strategy = training_args.eval_strategy
    return str(getattr(strategy, "value", strategy)) != "no"


def _load_single(
    script_args: ScriptArguments,
    evaluates: bool,
    held_out: bool,
    columns: Mapping[str, str],
    refusal: Refusal,
) -> LoadedData:
    """As `load_splits`, for one data set; `held_out`: `test_split_size` takes the place of an evaluation split."""
    name, config = str(script_args.dataset_name), script_args.dataset_config
    streaming = script_args.dataset_streaming
    notes, renaming = files_left_out(name, config), Renaming(columns)

    def load(split: str) -> list[Part]:
        with renaming.advising(), refusal(columns):
            rows, origin = load_with_origin(name, config=config, split=split, streaming=streaming)
        notes.extend(table_notes(origin.files))
        return [Part(split, rename_columns(rows, columns), origin=origin, renaming=renaming)]

    available = split_names(name, config)
    train_split = _choose_split(script_args.dataset_train_split, "train", available, notes)
    evaluation, wanted = None, script_args.dataset_test_split
    if not evaluates and wanted != "test":
        notes.append(f"dataset_test_split {wanted}: not used, because eval_strategy is no")
    present = choose_split(wanted, available)
    if held_out:
        if wanted != "test":
            raise DataError(
                f"dataset_test_split {wanted} and test_split_size both name the evaluation rows. Fix: leave one out"
            )
        if present is not None:
            notes.append(f'split "{present}": not used, because test_split_size holds out training rows')
    elif evaluates and (wanted != "test" or present is not None):
        split = _choose_split(wanted, "test", available, notes)
        if split == train_split:
            raise DataError(
                f'{name}: the split "{split}" is requested for both training and evaluation. '
                "Fix: name another --dataset_test_split"
            )
        evaluation = load(split)
    return LoadedData(load(train_split), evaluation, notes)


def _choose_split(wanted: str, use: str, available: Sequence[str], notes: list[str]) -> str:
    """The existing split for a wanted one; a slice such as `train[:100]` is returned as it is."""
    if "[" in wanted or "+" in wanted:
        return wanted
    split = choose_split(wanted, available)
    if split is None:
        fix = f"name one with --dataset_{use}_split"
        if Path(wanted).expanduser().exists():
            fix = (
                "a split is a name such as test. For rows in two files, put them into one folder as train and test (or "
                f"validation) with the endings that they have, give the folder as --dataset_name, and leave "
                f"--dataset_{use}_split out"
            )
        raise DataError(f'found no split "{wanted}", only {", ".join(available)}. Fix: {fix}')
    if split != wanted:
        notes.append(f'no split "{wanted}": using "{split}" (found {", ".join(available)})')
    return split


def _load_mixture(
    mixture_args: DatasetMixtureConfig, columns: Mapping[str, str], refusal: Refusal
) -> LoadedData:
    entries, separators = mixture_args.datasets, list[str]()
    present: dict[str, list[str]] = {}  # columns of the data sets that are renamed as `columns` says

    def load(named: tuple[str, Any]) -> Part:
        name, entry = named
        own = getattr(entry, "dataset_columns", None)  # trl's entries have none
        wanted = columns if own is None else own
        with Renaming(wanted, name).advising(), refusal(wanted):
            rows, origin = _load_entry(entry, mixture_args.streaming)
        separators.extend(table_notes(origin.files))
        if entry.columns is not None:
            rows = rows.select_columns(entry.columns)
        if own is None and columns:
            present[name] = column_names(rows)
        renamed = {a: b for a, b in wanted.items() if own is not None or a in present[name]}
        rows = rename_columns(rows, renamed, f"datasets, {name}: dataset_columns")
        return Part(name, rows, origin=origin, renaming=Renaming(renamed, name))

    parts = call_for_each(zip(entry_names(entries), entries, strict=True), load)
    check_names(columns, present)
    fractions = [entry.fraction for entry in entries]
    left_out = [*separators, *(line for entry in entries for line in files_left_out(entry.path, entry.name))]
    if all(fraction is None for fraction in fractions):
        return LoadedData(parts, None, left_out)
    if any(fraction is None for fraction in fractions):
        raise DataError(
            "datasets: found a fraction for some entries only. Fix: set it for every entry or for none"
        )
    if mixture_args.streaming:
        raise DataError("datasets: found a fraction with streaming. Fix: leave one of the two out")
    if any(fraction <= 0 for fraction in fractions):
        raise DataError(
            "datasets: found a fraction that is not above 0. Fix: leave that data set out instead"
        )
    shares = [fraction / sum(fractions) for fraction in fractions]
    total = min(len(part.rows) / share for part, share in zip(parts, shares, strict=True))
    sizes = [round(share * total) for share in shares]
    notes = list(left_out)
    chosen = []
    for part, size in zip(parts, sizes, strict=True):
        notes.append(f"{part.name}: {size:,} of {counted(len(part.rows), 'row')}, by its fraction")
        if size:
            chosen.append(replace(part, rows=part.rows.select(range(size))))
    return LoadedData(chosen, None, notes)


def _load_entry(entry: Any, streaming: bool) -> tuple[Any, Origin]:
    """The rows of an entry, and where they are from."""
    if entry.data_dir is None and entry.data_files is None:
        return load_with_origin(entry.path, config=entry.name, split=entry.split, streaming=streaming)
    if entry.path in READERS or is_local(entry.path):
        base = Path() if entry.path in READERS else Path(entry.path).expanduser()
        base = base / Path(entry.data_dir or "").expanduser()
        if entry.data_files is None:
            return load_with_origin(str(base), config=entry.name, split=entry.split, streaming=streaming)
        files = resolve_data_files(entry.data_files, base)
        rows = load_files(files, entry.split, streaming=streaming)
        return rows, Origin(entry.path, files, entry.split)
    from datasets import load_dataset

    where = {"data_dir": entry.data_dir, "data_files": entry.data_files}
    with quiet():
        rows = load_dataset(entry.path, entry.name, **where, split=entry.split, streaming=streaming)
    return rows, Origin(entry.path, split=entry.split)


def hold_out_evaluation(data: LoadedData, seed: int, share: float | None = None) -> LoadedData:
    """Moves a seeded sample of the training rows to the evaluation set; see `split_parts`."""
    from datasets import Dataset

    if not all(isinstance(part.rows, Dataset) for part in data.train):
        without = "set eval_strategy to no" if share is None else "leave test_split_size out"
        raise DataError(
            "rows of a stream cannot be held out for evaluation. Fix: name an evaluation split with "
            f"--dataset_test_split, or {without}"
        )
    total = sum(len(part.rows) for part in data.train)
    size = (
        min(EVALUATION_ROWS, round(total * EVALUATION_SHARE))
        if share is None
        else round(total * share if share < 1 else share)
    )
    size = max(1, size)
    if size >= total:
        raise DataError(
            f"cannot hold out {size:,} of {counted(total, 'row')} for evaluation. Fix: "
            + ("give more rows" if share is None else "a smaller test_split_size")
            + ", or an evaluation split"
        )
    train, evaluation, same_prompts = split_parts(data.train, size, seed)
    size = sum(len(part.rows) for part in evaluation)
    why = "no evaluation split" if share is None else f"test_split_size {share:g}"
    note = f"{why}: {size:,} of {counted(total, 'row')} held out from the training data, not trained (seed {seed})"
    note += f"; {same_prompts}" if same_prompts else ""
    return LoadedData(
        [part for part in train if part.numbers],
        [part for part in evaluation if part.numbers],
        [*data.notes, note],
    )

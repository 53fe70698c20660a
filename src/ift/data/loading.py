"""Loads rows from the Hub, a local folder or a local file; what looks local is never looked for on the Hub."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ift.data.errors import DataError
from ift.data.files import check_encoding, explain
from ift.data.hub import ask_once, remedy

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

# File endings that are read, and the reader
READERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}

# Splits taken when the usual name does not exist, in this order: UltraChat-200k, UltraFeedback-binarized, others
OTHER_NAMES = {
    "train": ("train_sft", "train_prefs"),
    "test": ("test_sft", "test_prefs", "validation", "eval"),
}


def is_local(name: str) -> bool:
    """Tells a local path from a Hub id.

    Args:
        name: What the user gave.

    Returns:
        True if it exists, or if it is written as only a path can be.
    """
    if Path(name).expanduser().exists():
        return True
    looks = name.startswith((".", "/", "~")) or "\\" in name or name.endswith("/") or name.count("/") > 1
    return looks or Path(name).suffix.lower() in READERS


def split_names(name: str, config: str | None = None) -> list[str]:
    """Lists the splits of a data set without loading its rows.

    Args:
        name: Hub id, local folder or local file.
        config: Configuration of a data set that has several.

    Returns:
        Names of the splits; a file has one, called train.

    Raises:
        DataError: If there is no such path.
    """
    if not is_local(name):
        from datasets import get_dataset_split_names

        return list(_from_hub(name, lambda: get_dataset_split_names(name, config)))
    path = _existing(name)
    if path.is_file():
        return ["train"]
    if (path / "dataset_dict.json").exists():
        return list(json.loads((path / "dataset_dict.json").read_text())["splits"])
    if (path / "state.json").exists():
        return ["train"]
    from datasets import get_dataset_split_names

    return list(_reading(path, lambda: get_dataset_split_names(str(path), config)))


def choose_split(wanted: str, available: Sequence[str]) -> str | None:
    """Finds the split to load for a wanted name.

    Args:
        wanted: Name of a split; for "train" and "test" the names that UltraChat and UltraFeedback use will do.
        available: Splits that exist.

    Returns:
        One of `available`, or None.
    """
    for candidate in (wanted, *OTHER_NAMES.get(wanted, ())):
        if candidate in available:
            return candidate
    return None


def load_rows(
    name: str, *, config: str | None = None, split: str = "train", streaming: bool = False
) -> Dataset | IterableDataset:
    """Loads one split.

    Args:
        name: Hub id, local folder (data files, or written by `save_to_disk`), or a .jsonl, .json, .parquet or .csv
            file.
        config: Configuration of a data set that has several.
        split: Name of the split; parts such as `train[:100]` work where `datasets` supports them.
        streaming: Read rows as they are needed.

    Returns:
        The rows as they are stored.

    Raises:
        DataError: If the path or the split does not exist, or a file cannot be read; a broken line of a .jsonl file
            is named by its number.
    """
    from datasets import load_dataset

    if "[" not in split and "+" not in split:
        available = split_names(name, config)
        chosen = choose_split(split, available)
        if chosen is None:
            raise DataError(
                f'{name}: found no split "{split}", only {", ".join(available)}. '
                "Fix: name one of these with --dataset_train_split or --dataset_test_split"
            )
        split = chosen
    if not is_local(name):
        return _from_hub(name, lambda: load_dataset(name, config, split=split, streaming=streaming))
    path = _existing(name)
    if path.is_file():
        options = {"data_files": {"train": str(path)}, "split": split, "streaming": streaming}
        return _reading(path, lambda: load_dataset(_reader(path), **options), streaming)
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return _saved(path, split, streaming)
    return _reading(
        path, lambda: load_dataset(str(path), config, split=split, streaming=streaming), streaming
    )


def _existing(name: str) -> Path:
    path = Path(name).expanduser()
    if not path.exists():
        raise DataError(
            f"{name}: no such file or folder (looked for {path.absolute()}). "
            "Fix: correct the path; a Hub id is written owner/name, without a file ending"
        )
    if path.is_file():
        _reader(path)
    return path


def _reader(path: Path) -> str:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(
            f"{path}: found a file that ends in {path.suffix or 'nothing'}, expected {', '.join(READERS)}. "
            "Fix: write it as one of these"
        )
    if path.stat().st_size == 0:
        raise DataError(f"{path}: found an empty file, expected rows. Fix: check how it was written")
    return reader


def _saved(path: Path, split: str, streaming: bool) -> Dataset | IterableDataset:
    from datasets import DatasetDict, load_from_disk

    if "[" in split or "+" in split:
        raise DataError(
            f'{path}: found split "{split}", expected a plain name: this folder was written by save_to_disk, which '
            "has no parts of splits. Fix: name a whole split"
        )
    loaded = load_from_disk(str(path))
    rows = loaded[split] if isinstance(loaded, DatasetDict) else loaded
    return rows.to_iterable_dataset() if streaming else rows


def _reading(path: Path, load: Callable[[], Any], streaming: bool = False) -> Any:
    """Calls a reader of `datasets` and, if it fails, finds out which line of which file is at fault."""
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    for file in [] if streaming else files:  # which may be too large to be read twice
        check_encoding(file)
    try:
        with quiet():
            return load()
    except DataError:
        raise
    except Exception as error:
        for file in files:
            explain(file)
        said = " ".join(str(error.__cause__ or error).split()).rstrip(".") or type(error).__name__
        if "corresponds to no data" in said:
            raise DataError(
                f"{path}: found no rows, expected at least one. Fix: check how it was written"
            ) from error
        raise DataError(
            f"{path}: cannot be read: {said}. Fix: check the file; rows must have the same columns"
        ) from error


def _from_hub(name: str, load: Callable[[], Any]) -> Any:
    """Calls what asks the Hub; what fails there names the data set, and what to do without a network."""
    ask_once()
    try:
        with quiet():
            return load()
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{name}: no data set from the Hub: {said}. {remedy(name, 'dataset')}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """`datasets` logs what it raises as well, and tells a server of every load, of local files too: neither, here."""
    from datasets import config

    logger = logging.getLogger("datasets")
    before = logger.level, config.HF_UPDATE_DOWNLOAD_COUNTS
    logger.setLevel(logging.CRITICAL)
    config.HF_UPDATE_DOWNLOAD_COUNTS = False
    try:
        yield
    finally:
        logger.setLevel(before[0])
        config.HF_UPDATE_DOWNLOAD_COUNTS = before[1]

"""Loads rows from the Hub, a local folder or a local file; what looks local is never looked for on the Hub."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ift.data.errors import DataError, describe

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

        return list(get_dataset_split_names(name, config))
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
        return load_dataset(name, config, split=split, streaming=streaming)
    path = _existing(name)
    if path.is_file():
        options = {"data_files": {"train": str(path)}, "split": split, "streaming": streaming}
        return _reading(path, lambda: load_dataset(_reader(path), **options))
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return _saved(path, split, streaming)
    return _reading(path, lambda: load_dataset(str(path), config, split=split, streaming=streaming))


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


def _reading(path: Path, load: Any) -> Any:
    """Calls a reader of `datasets` and, if it fails, finds out which line of which file is at fault."""
    try:
        return load()
    except DataError:
        raise
    except Exception as error:
        files = [path] if path.is_file() else sorted(path.rglob("*.jsonl"))
        for file in files:
            if file.suffix.lower() == ".jsonl" or (file.suffix.lower() == ".json" and _is_lines(file)):
                check_json_lines(file)
        cause = error.__cause__ or error
        raise DataError(
            f"{path}: cannot be read: {cause}. Fix: check the file; rows must have the same columns"
        ) from error


def _is_lines(file: Path) -> bool:
    with file.open("rb") as lines:
        return lines.read(256).lstrip()[:1] == b"{"


def check_json_lines(file: Path) -> None:
    """Finds the first line of a file that is not a JSON object.

    Args:
        file: Path of a .jsonl file.

    Raises:
        DataError: If there is one; file, line and what is wrong with it are named.
    """
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                raise DataError(
                    f"{file}, line {number}: found text that is not JSON ({error}), expected one JSON object. "
                    "Fix: write each row as one object on a line of its own"
                ) from error
            if not isinstance(value, dict):
                raise DataError(
                    f"{file}, line {number}: found {describe(value)}, expected one JSON object. "
                    "Fix: write each row as one object on a line of its own"
                )

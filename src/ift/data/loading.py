"""Loads rows from the Hub, a local folder or local files; what looks local is never looked for on the Hub."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ift.data.errors import DataError
from ift.data.folders import ENDINGS, Folder, look_into
from ift.data.hub import ask_once, remedy
from ift.data.text_rows import load_texts, stream_texts

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

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
    return looks or Path(name).suffix.lower() in ENDINGS


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
    if (path / "dataset_dict.json").exists():
        return list(json.loads((path / "dataset_dict.json").read_text())["splits"])
    return ["train"] if path.is_file() or _is_saved(path) else list(look_into(path, config).splits)


def files_left_out(name: str, config: str | None = None) -> list[str]:
    """Names the files of a local folder that are not read.

    Args:
        name: Hub id, local folder or local file.
        config: Configuration of a data set that has several.

    Returns:
        At most one line, to be shown.
    """
    path = Path(name).expanduser()
    if not path.is_dir() or _is_saved(path):
        return []
    return [f"{name}: {line}" for line in look_into(path, config).note()]


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

    if not _is_part(split):
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
    if _is_saved(path):
        return _saved(path, split, streaming)
    folder = Folder({"train": [path]}) if path.is_file() else look_into(path, config)
    return load_files(folder.splits, split, streaming=streaming)


def load_files(
    files: Mapping[str, Sequence[Path]], split: str = "train", *, streaming: bool = False
) -> Dataset | IterableDataset:
    """Loads one split of local files.

    Args:
        files: The files of each split: all .parquet, or none.
        split: Name of a split, or parts such as `train[:100]`.
        streaming: Read rows as they are needed.

    Returns:
        The rows as they are stored.

    Raises:
        DataError: There is no such split, or a file cannot be read; file and line are named where they are known.
    """
    if not _is_part(split):
        if split not in files:
            raise DataError(f'found no split "{split}", only {", ".join(files)}. Fix: name one of these')
        return _read(files[split], streaming)
    from datasets import ReadInstruction, concatenate_datasets

    if streaming:
        raise DataError(f'found split "{split}" with streaming, which has no parts. Fix: name a whole split')
    rows: dict[str, Any] = {name: _read(files[name], False) for name in files if name in split}
    try:
        parts = ReadInstruction.from_spec(split).to_absolute({name: len(one) for name, one in rows.items()})
    except (ValueError, AssertionError, KeyError) as error:
        raise DataError(
            f'split "{split}": {error}. Fix: write train[:100], train[50%:] or the like'
        ) from error
    return concatenate_datasets([rows[one.splitname].select(range(one.from_, one.to)) for one in parts])


def _is_part(split: str) -> bool:
    return "[" in split or "+" in split


def _existing(name: str) -> Path:
    path = Path(name).expanduser()
    if not path.exists():
        raise DataError(
            f"{name}: no such file or folder (looked for {path.absolute()}). "
            "Fix: correct the path; a Hub id is written owner/name, without a file ending"
        )
    if path.is_file():
        _check_file(path)
    return path


def _check_file(path: Path) -> None:
    if path.suffix.lower() not in ENDINGS:
        raise DataError(
            f"{path}: found a file that ends in {path.suffix or 'nothing'}, expected {', '.join(ENDINGS)}. "
            "Fix: write it as one of these"
        )
    if path.stat().st_size == 0:
        raise DataError(f"{path}: found an empty file, expected rows. Fix: check how it was written")


def _is_saved(path: Path) -> bool:
    """Whether `save_to_disk` wrote a folder."""
    return (path / "dataset_dict.json").exists() or (path / "state.json").exists()


def _saved(path: Path, split: str, streaming: bool) -> Dataset | IterableDataset:
    from datasets import DatasetDict, load_from_disk

    if _is_part(split):
        raise DataError(
            f'{path}: found split "{split}", expected a plain name: this folder was written by save_to_disk, which '
            "has no parts of splits. Fix: name a whole split"
        )
    loaded = load_from_disk(str(path))
    rows = loaded[split] if isinstance(loaded, DatasetDict) else loaded
    return rows.to_iterable_dataset() if streaming else rows


def _read(files: Sequence[Path], streaming: bool) -> Any:
    """The rows of files in their order."""
    for file in files:
        _check_file(file)
    kinds = {file.suffix.lower() == ".parquet" for file in files}
    if len(kinds) > 1:
        raise DataError(
            f"{files[0].parent}: found .parquet files beside {', '.join(ENDINGS)}. Fix: give each kind a folder, "
            "and name the folders under datasets: in the YAML file"
        )
    if kinds == {True}:
        return _parquet(files, streaming)
    with quiet():
        return stream_texts(files) if streaming else load_texts(files)


def _parquet(files: Sequence[Path], streaming: bool) -> Any:
    from datasets.data_files import DataFilesDict, DataFilesList
    from datasets.packaged_modules.parquet.parquet import Parquet

    # given as resolved files: as strings, their names would be taken for patterns
    versions = [(str(file.stat().st_mtime_ns),) for file in files]
    paths = DataFilesList([str(file.absolute()) for file in files], versions)
    try:
        with quiet():
            builder = Parquet(data_files=DataFilesDict({"train": paths}))
            if streaming:
                return builder.as_streaming_dataset("train")
            builder.download_and_prepare()
            return builder.as_dataset("train")
    except Exception as error:
        said = " ".join(str(error.__cause__ or error).split()).rstrip(".") or type(error).__name__
        shown = ", ".join(map(str, files[:3]))
        raise DataError(
            f"{shown}: cannot be read: {said}. Fix: check the file; all files must have the same columns"
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

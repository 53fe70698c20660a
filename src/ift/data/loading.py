"""Loads rows from the Hub, a local folder or local files; a name that looks local is never looked up on the Hub."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ift.data.encodings import check_is_text
from ift.data.errors import DataError
from ift.data.folders import ENDINGS, DataFiles, list_data_files
from ift.data.hub import download_hint, go_offline_if_unreachable, nearby
from ift.data.origin import Origin
from ift.data.text_datasets import load_text_files, stream_text_files
from ift.text import quoted

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

WORKBOOKS = (".xlsx", ".xls", ".ods")  # endings of files that are refused, and not looked up on the Hub
# Splits used if the usual name does not exist, in this order: UltraChat-200k, UltraFeedback-binarized, others
OTHER_NAMES = {
    "train": ("train_sft", "train_prefs"),
    "test": ("test_sft", "test_prefs", "validation", "eval"),
}


def is_local(name: str) -> bool:
    """Whether a name is a local path: it exists, or only a path can be written that way."""
    if Path(name).expanduser().exists():
        return True
    looks = name.startswith((".", "/", "~")) or "\\" in name or name.endswith("/") or name.count("/") > 1
    return looks or Path(name).suffix.lower() in (*ENDINGS, *WORKBOOKS)


def split_names(name: str, config: str | None = None) -> list[str]:
    """Lists the splits of a local or Hub data set without loading its rows; a single file has one, "train".

    Raises:
        DataError: The path does not exist.
    """
    if not is_local(name):
        from datasets import get_dataset_split_names

        return list(_from_hub(name, lambda: get_dataset_split_names(name, config)))
    path = _existing_path(name)
    if (path / "dataset_dict.json").exists():
        return list(json.loads((path / "dataset_dict.json").read_text())["splits"])
    return ["train"] if path.is_file() or _is_saved(path) else list(list_data_files(path, config).splits)


def files_left_out(name: str, config: str | None = None) -> list[str]:
    """At most one line, naming the files of a local folder that are not read."""
    path = Path(name).expanduser()
    if not path.is_dir() or _is_saved(path):
        return []
    return [f"{name}: {line}" for line in list_data_files(path, config).note()]


def choose_split(wanted: str, available: Sequence[str]) -> str | None:
    """The available split for a wanted name, or None; "train" and "test" also match the names of other data sets."""
    for candidate in (wanted, *OTHER_NAMES.get(wanted, ())):
        if candidate in available:
            return candidate
    return None


def load_rows(
    name: str, *, config: str | None = None, split: str = "train", streaming: bool = False
) -> Dataset | IterableDataset:
    """Loads one split of a Hub id, a local folder (data files, or written by `save_to_disk`) or a local file.

    `config` names one of several configurations; slices such as `train[:100]` work if `datasets` supports them;
    `streaming` reads rows lazily.

    Raises:
        UnreadableRows: Rows of text files that cannot be read; the message names the first ten.
        DataError: The path or the split does not exist, or a file cannot be read.
    """
    return load_with_origin(name, config=config, split=split, streaming=streaming)[0]


def load_with_origin(
    name: str, *, config: str | None = None, split: str = "train", streaming: bool = False
) -> tuple[Dataset | IterableDataset, Origin]:
    """As `load_rows`, with the files of the rows."""
    from datasets import load_dataset

    if not _is_slice(split):
        available = split_names(name, config)
        chosen = choose_split(split, available)
        if chosen is None:
            raise DataError(
                f'{name}: found no split "{split}", only {", ".join(available)}. '
                "Fix: name one of these with --dataset_train_split or --dataset_test_split"
            )
        split = chosen
    if not is_local(name):
        rows = _from_hub(name, lambda: load_dataset(name, config, split=split, streaming=streaming))
        return rows, Origin(name, split=split)
    path = _existing_path(name)
    if _is_saved(path):
        return _load_saved(path, split, streaming), Origin(name, split=split)
    folder = DataFiles({"train": [path]}) if path.is_file() else list_data_files(path, config)
    return load_files(folder.splits, split, streaming=streaming), Origin(name, folder.splits, split)


def load_files(
    files: Mapping[str, Sequence[Path]], split: str = "train", *, streaming: bool = False
) -> Dataset | IterableDataset:
    """Loads one split (or slices such as `train[:100]`) of local files, which are all .parquet or none.

    Raises:
        DataError: The split does not exist, or a file cannot be read.
    """
    if not _is_slice(split):
        if split not in files:
            raise DataError(f'found no split "{split}", only {", ".join(files)}. Fix: name one of these')
        return _read_files(files[split], streaming)
    from datasets import ReadInstruction, concatenate_datasets

    if streaming:
        raise DataError(f'found split "{split}" with streaming, which has no slices. Fix: name a whole split')
    rows: dict[str, Any] = {name: _read_files(files[name], False) for name in files if name in split}
    try:
        parts = ReadInstruction.from_spec(split).to_absolute({name: len(one) for name, one in rows.items()})
    except (ValueError, AssertionError, KeyError) as error:
        raise DataError(
            f'split "{split}": {quoted(error)}. Fix: write train[:100], train[50%:] or the like'
        ) from error
    return concatenate_datasets([rows[one.splitname].select(range(one.from_, one.to)) for one in parts])


def _is_slice(split: str) -> bool:
    return "[" in split or "+" in split


def _existing_path(name: str) -> Path:
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
        check_is_text(path)
        raise DataError(
            f"{path}: found a file that ends in {path.suffix or 'nothing'}, expected {', '.join(ENDINGS)}. "
            "Fix: write it as one of these"
        )
    if path.stat().st_size == 0:
        raise DataError(f"{path}: found an empty file, expected rows. Fix: check how it was written")


def _is_saved(path: Path) -> bool:
    """Whether `save_to_disk` wrote the folder."""
    return (path / "dataset_dict.json").exists() or (path / "state.json").exists()


def _load_saved(path: Path, split: str, streaming: bool) -> Dataset | IterableDataset:
    from datasets import DatasetDict, load_from_disk

    if _is_slice(split):
        raise DataError(
            f'{path}: found split "{split}", expected a plain name: this folder was written by save_to_disk, which '
            "has no parts of splits. Fix: name a whole split"
        )
    loaded = load_from_disk(str(path))
    rows = loaded[split] if isinstance(loaded, DatasetDict) else loaded
    return rows.to_iterable_dataset() if streaming else rows


def _read_files(files: Sequence[Path], streaming: bool) -> Any:
    """The rows of files, in order."""
    for file in files:
        _check_file(file)
    kinds = {file.suffix.lower() == ".parquet" for file in files}
    if len(kinds) > 1:
        raise DataError(
            f"{files[0].parent}: found .parquet files together with {', '.join(ENDINGS)}. Fix: move each file type "
            "to a separate folder, and name the folders under datasets: in the YAML file"
        )
    if kinds == {True}:
        return _read_parquet(files, streaming)
    with quiet():
        return stream_text_files(files) if streaming else load_text_files(files)


def _read_parquet(files: Sequence[Path], streaming: bool) -> Any:
    from datasets.data_files import DataFilesDict, DataFilesList
    from datasets.packaged_modules.parquet.parquet import Parquet

    # given as resolved files, because strings would be interpreted as glob patterns
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
        shown = ", ".join(map(str, files[:3]))
        raise DataError(
            f"{shown}: cannot be read: {quoted(error.__cause__ or error)}. Fix: check the file; all files "
            "must have the same columns"
        ) from error


def _from_hub(name: str, load: Callable[[], Any]) -> Any:
    """Calls a function that accesses the Hub; errors name the data set and a fix."""
    go_offline_if_unreachable()
    try:
        with quiet():
            return load()
    except Exception as error:
        if near := nearby(name):
            raise DataError(f"{name}: no such file or folder, and no data set on the Hub{near}?") from error
        raise DataError(
            f"{name}: cannot load this data set from the Hub: {quoted(error)}. {download_hint(name, 'dataset')}"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Stops `datasets` from logging the errors that it raises, and from reporting every load to the Hub."""
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

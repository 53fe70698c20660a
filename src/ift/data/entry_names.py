"""The names of a mixture's entries in reports and errors: their files, folders or Hub ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ift.data.loading import is_local

READERS = (
    "json",
    "csv",
    "parquet",
)  # an entry's path may be one of these readers of `datasets`, with data_files


def entry_names(entries: Sequence[Any]) -> list[str]:
    """The names of a mixture's entries in reports; those of the same name have their paths and splits too."""
    names = [_entry_name(entry, short=True) for entry in entries]
    return [
        f"{_entry_name(entry, short=False)} {entry.split}" if names.count(name) > 1 else name
        for name, entry in zip(names, entries, strict=True)
    ]


def _entry_name(entry: Any, *, short: bool) -> str:
    """An entry's files, its folder, or its Hub id with the files; `short` without the folders they are in."""
    local = entry.path in READERS or is_local(entry.path)
    if entry.data_files is not None:
        files = _paths_in(entry.data_files)
        names = [Path(file).name if short else file for file in files[:3]] + ["..."] * (len(files) > 3)
        parents = [] if local and (short or entry.path in READERS) else [entry.path]
        return " ".join([*parents, ", ".join(names)])
    path = entry.data_dir if entry.path in READERS and entry.data_dir else entry.path
    return Path(path).name if local and short else path


def _paths_in(data_files: Any) -> list[str]:
    """All paths of a `data_files` entry: text, a list, or a mapping of splits."""
    if isinstance(data_files, str):
        return [data_files]
    if isinstance(data_files, dict):
        return [path for paths in data_files.values() for path in _paths_in(paths)]
    return [path for one in data_files for path in _paths_in(one["path"] if isinstance(one, dict) else one)]

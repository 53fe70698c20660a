"""Atomic writing, reading of JSON Lines, and checks of target paths."""

from __future__ import annotations

import codecs
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, content: str | bytes, *, sync: bool = False) -> None:
    """Writes a file under a temporary name and renames it: readers see the old file or the new one.

    Args:
        path: The file; its folder must exist.
        content: All of it; a string is written as UTF-8.
        sync: Whether to return only when the file and its name are on the disk, safe from a loss of power.

    Raises:
        OSError: It cannot be written; the old file is unchanged, and no other file is left.
    """
    content = content.encode() if isinstance(content, str) else content
    # unique: another process may write the same file
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("xb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):  # it was not created
            partial.unlink()
        raise
    if sync:
        sync_to_disk(path.parent)


def sync_to_disk(path: Path) -> None:
    """Returns when a file's content, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def numbered_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Yields number (from 1) and bytes of the non-empty lines of a JSON Lines file.

    Only a line feed ends a line: U+2028 and U+0085 are content of strings. A byte order mark is removed.
    """
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line := line.removeprefix(codecs.BOM_UTF8).strip():
                yield number, line


def keep_lines(file: Path, step: float) -> None:
    """Drops the lines of a JSON Lines file whose `step` is greater than `step`, and incomplete lines."""
    kept = [line for _, line in numbered_lines(file) if _step_of(line) <= step]
    file.write_bytes(b"".join(line + b"\n" for line in kept))


def _step_of(line: bytes) -> float:
    """Step of a line; infinity for a line that an interrupted run left incomplete."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def check_target(
    path: Path, inputs: Iterable[Path] = (), replaces: Callable[[bytes], bool] = lambda start: True
) -> None:
    """Refuses a file that cannot be written, before there is something to write.

    Args:
        path: The file.
        inputs: Files and folders that are read.
        replaces: Given the first 4,096 bytes of an existing file, whether it may be replaced: because the command wrote
            it, and would write it again.

    Raises:
        ValueError: `path` exists and may not be replaced, is a folder, would replace one of the inputs, or is not
            writable.
    """
    for one in inputs:
        inside = one.is_dir() and path.resolve().is_relative_to(one.resolve())
        if inside or (path.exists() and one.exists() and path.samefile(one)):
            raise ValueError(f"{path}: this would replace an input, {one}. Fix: write to another file")
    if path.is_dir():
        raise ValueError(f"{path}: found a folder, expected a file. Fix: name a file in it")
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(4096)
        if not replaces(start):
            raise ValueError(
                f"{path}: this file exists, and it would be replaced by another one. Fix: choose another path, or "
                "delete the file"
            )
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: found a device or pipe, expected a file. Fix: choose another path")
    nearest = next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())
    if nearest.is_file() and nearest != path.absolute():
        raise ValueError(f"{path}: {nearest} is a file, expected a folder. Fix: choose another path")
    folder = nearest.parent if nearest.is_file() else nearest
    if not os.access(folder, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise ValueError(f"{path}: not writable for this user. Fix: choose another path")

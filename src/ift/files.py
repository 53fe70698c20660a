"""Files: written so that they are whole or not there, JSON lines read by their line feeds, targets checked first."""

from __future__ import annotations

import codecs
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, content: str | bytes, *, sync: bool = False) -> None:
    """Writes a file aside and moves it into its place: a reader, or a killed run, has the old file or the new one.

    Args:
        path: The file; its folder is there.
        content: All of it; a text is written as UTF-8.
        sync: Whether the file and its place in the folder are on the disk, safe from a loss of power, on return.

    Raises:
        OSError: It cannot be written; the old file stands, and nothing beside it.
    """
    content = content.encode() if isinstance(content, str) else content
    # a name of its own: another process may be at the same file
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("xb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):  # it was not made
            partial.unlink()
        raise
    if sync:
        sync_to_disk(path.parent)


def sync_to_disk(path: Path) -> None:
    """Returns when what a file or a folder holds is on the disk; of a folder, the names in it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def numbered_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Reads the lines of a file of JSON lines: the one reader of such files.

    A line feed alone ends a line: U+2028 or U+0085 inside a string are content. A byte order mark is taken away.

    Args:
        file: The file; it is read as its lines are asked for.

    Yields:
        The number of each line that holds something, counted from 1, and its bytes.
    """
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line := line.removeprefix(codecs.BOM_UTF8).strip():
                yield number, line


def keep_lines(file: Path, step: float) -> None:
    """Drops the lines of a file of JSON lines whose `step` is beyond a step, and those that are cut off."""
    kept = [line for _, line in numbered_lines(file) if _step_of(line) <= step]
    file.write_bytes(b"".join(line + b"\n" for line in kept))


def _step_of(line: bytes) -> float:
    """Step of a line; infinity for one that a stopped run left half written."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def check_target(path: Path, inputs: Iterable[Path] = ()) -> None:
    """Refuses a file that cannot be written, before there is something to write.

    Args:
        path: The file to write; it and its folder may be absent.
        inputs: Files, or folders with all that is in them, that the file must not replace.

    Raises:
        ValueError: It is a folder or one of the inputs, or its place cannot be written to.
    """
    for one in inputs:
        inside = one.is_dir() and path.resolve().is_relative_to(one.resolve())
        if inside or (path.exists() and one.exists() and path.samefile(one)):
            raise ValueError(f"{path}: this would replace an input, {one}. Fix: write to another file")
    if path.is_dir():
        raise ValueError(f"{path}: found a folder, expected a file. Fix: name a file in it")
    nearest = next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())
    if nearest.is_file() and nearest != path.absolute():
        raise ValueError(f"{path}: {nearest} is a file, expected a folder. Fix: write to another place")
    folder = nearest.parent if nearest.is_file() else nearest
    if not os.access(folder, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise ValueError(f"{path}: cannot be written to by this user. Fix: write to another place")

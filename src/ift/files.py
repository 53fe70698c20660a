"""Files that are whole or not there, whatever ends the process that writes them."""

from __future__ import annotations

import os
import secrets
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

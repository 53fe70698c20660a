"""JSON files and files of JSON lines, whole or not there; their folder is made."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ift.files import write_atomically


def write_json(path: Path, value: Any, *, sync: bool = False, **options: Any) -> None:
    """Writes one value.

    Args:
        path: The file.
        value: What `json.dumps` takes.
        sync: See `write_atomically`.
        options: Of `json.dumps`; the indent is 1 unless given.
    """
    _write(path, json.dumps(value, **{"indent": 1, **options}) + "\n", sync)


def write_json_lines(path: Path, rows: Iterable[Any], *, sync: bool = False, **options: Any) -> None:
    """Writes one value in each line; arguments as for `write_json`, without indent."""
    _write(path, "".join(json.dumps(row, **options) + "\n" for row in rows), sync)


def _write(path: Path, text: str, sync: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text, sync=sync)

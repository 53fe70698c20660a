"""Writes JSON files and files of JSON lines atomically; makes their folder if necessary."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ift.files import write_atomically


def write_json(path: Path, value: Any, *, sync: bool = False, **options: Any) -> None:
    """Write one value; `sync` as for `write_atomically`, `options` as for `json.dumps` (default indent: 1)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(value, **{"indent": 1, **options}) + "\n", sync=sync)


def write_json_lines(path: Path, rows: Iterable[Any], *, sync: bool = False, **options: Any) -> None:
    """Write one value per line; arguments as for `write_json`, without indent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(json.dumps(row, **options) + "\n" for row in rows), sync=sync)

"""JSON files and files of JSON lines, whole or not there; their folder is made."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ift.files import write_atomically


def write_json(path: Path, value: Any, *, sync: bool = False, **options: Any) -> None:
    """Writes one value; `sync` as for `write_atomically`, `options` of `json.dumps` (the indent is 1 unless given)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(value, **{"indent": 1, **options}) + "\n", sync=sync)


def write_json_lines(path: Path, rows: Iterable[Any], *, sync: bool = False, **options: Any) -> None:
    """Writes one value in each line; arguments as for `write_json`, without indent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "".join(json.dumps(row, **options) + "\n" for row in rows), sync=sync)

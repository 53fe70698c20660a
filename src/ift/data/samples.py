"""Random samples of a data set, and the ids and labels of a prepared row."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any


def sample_rows(rows: Any, count: int, seed: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields up to `count` rows in random order, with their numbers from 1; for a stream, the first ones."""
    if not hasattr(rows, "__len__"):
        yield from enumerate(rows.take(count), start=1)
        return
    for index in random.Random(seed).sample(range(len(rows)), min(count, len(rows))):
        yield index + 1, rows[index]


def ids_and_labels(row: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """Token ids and labels of a prepared row or batch; for pairs, those of the chosen side."""
    side = "chosen_" if "chosen_input_ids" in row else ""
    return list(row[f"{side}input_ids"]), list(row[f"{side}labels"])

"""Some rows of a data set, chosen by a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any


def sample_rows(rows: Any, count: int, seed: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a data set with their numbers from 1: `count` of them, or all where there are fewer, in random order.

    Args:
        rows: a data set; of a stream, which has no length, the first `count` rows come in their order.
        count: how many.
        seed: chooses them; the same seed, the same rows.
    """
    if not hasattr(rows, "__len__"):
        yield from enumerate(rows.take(count), start=1)
        return
    for index in random.Random(seed).sample(range(len(rows)), min(count, len(rows))):
        yield index + 1, rows[index]

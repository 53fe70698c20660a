"""Random samples of a data set; the ids and labels of a prepared row, and its hash."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

SIDES = ("chosen", "rejected")


def sample_rows(rows: Any, count: int, seed: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields up to `count` rows in random order, with their numbers from 1; for a stream, the first ones."""
    if not hasattr(rows, "__len__"):
        yield from enumerate(rows.take(count), start=1)
        return
    for index in random.Random(seed).sample(range(len(rows)), min(count, len(rows))):
        yield index + 1, rows[index]


def ids_and_labels(row: Mapping[str, Any]) -> tuple[list[int], list[int]]:
    """Token ids and labels of a prepared row; for pairs, those of the chosen side."""
    return row_sides(row)[0]


def row_sides(row: Mapping[str, Any]) -> list[tuple[list[int], list[int]]]:
    """Token ids and labels of a prepared row, as one entry; of a pair, those of the chosen and the rejected side."""
    names = [f"{side}_" for side in SIDES] if "chosen_input_ids" in row else [""]
    return [(list(row[f"{name}input_ids"]), list(row[f"{name}labels"])) for name in names]


def row_key(row: Mapping[str, Any], *, labels: bool = False) -> bytes:
    """16 bytes that identify the token ids of a prepared row, of both sides for a pair; with `labels` also these."""
    keys = [ids_key([*ids, *trained] if labels else ids) for ids, trained in row_sides(row)]
    return keys[0] if len(keys) == 1 else _digest(b"".join(keys))


def ids_key(ids: Sequence[int] | np.ndarray) -> bytes:
    """16 bytes that identify a sequence of token ids."""
    import numpy as np  # not for `ift --help`

    return _digest(np.asarray(ids, dtype=np.int64).tobytes())


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()

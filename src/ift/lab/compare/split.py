"""The split of the user's rows, as a study stores it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ift.data import Part
from ift.lab.report.json_files import write_json


@dataclass(frozen=True)
class Split:
    """The rows that a study trains and scores on."""

    train: list[Part]  # rows as loaded, in their order
    # held-out rows: `input_ids`, `labels`, `row` (the row's number in its part) and, if they are kept, `COLUMNS`
    validation: Any  # may have no rows
    test: Any  # the same, never used to choose anything
    pairs: dict[str, Any]  # by split the held-out pairs of `prepare_pairs`; empty without pairs
    sha256: dict[
        str, str
    ]  # by split, of token ids and labels, of rejected answers, and of columns if they are kept
    notes: list[str]  # what was decided, one line each

    @property
    def train_rows(self) -> int:
        """The number of training rows of all parts."""
        return sum(len(part.rows) for part in self.train)

    def save(self, folder: Path) -> None:
        """Write everything below `folder`. `split.json` is written last, so that a split with this file is complete."""
        done = folder / "split.json"
        if done.exists() and json.loads(done.read_text())["sha256"] == self.sha256:
            return
        shutil.rmtree(folder, ignore_errors=True)
        folders = {f"train-{number}": part.rows for number, part in enumerate(self.train)}
        folders |= (
            {"validation": self.validation} if len(self.validation) else {}
        )  # datasets cannot read no rows
        folders["test"] = self.test
        folders |= {f"{name}-pairs": rows for name, rows in self.pairs.items()}
        with without_datasets_bars():
            for name, rows in folders.items():
                rows.save_to_disk(str(folder / name))
        names = [part.name for part in self.train]
        write_json(done, {"sha256": self.sha256, "train": names, "pairs": [*self.pairs]})

    @classmethod
    def load(cls, folder: Path) -> Split:
        """Read a split that `save` has written."""
        from datasets import load_from_disk

        about = json.loads((folder / "split.json").read_text())
        train = [
            Part(name, load_from_disk(str(folder / f"train-{number}")))
            for number, name in enumerate(about["train"])
        ]
        test = load_from_disk(str(folder / "test"))
        held_out = folder / "validation"
        validation = load_from_disk(str(held_out)) if held_out.is_dir() else test.select([])
        pairs = {name: load_from_disk(str(folder / f"{name}-pairs")) for name in about["pairs"]}
        return cls(train, validation, test, pairs, about["sha256"], [])

    def first(self, validation_rows: int, test_rows: int) -> Split:
        """The split with at most so many held-out rows, evenly spread."""
        wanted = {"validation": validation_rows, "test": test_rows}
        rows = {name: _spread(getattr(self, name), count) for name, count in wanted.items()}
        pairs = {name: _spread(found, wanted[name]) for name, found in self.pairs.items()}
        hashes = {
            name: hashlib.sha256(f"{self.sha256[name]} {len(found)}".encode()).hexdigest()
            for name, found in rows.items()
            if len(found) < len(getattr(self, name))
        }
        return replace(self, **rows, pairs=pairs, sha256=self.sha256 | hashes)


@contextmanager
def without_datasets_bars() -> Iterator[None]:
    """While active, the library datasets shows no progress bars.

    The bar of `save_to_disk` ignores TQDM_DELAY, and ends without a line feed.
    """
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def _spread(rows: Any, wanted: int) -> Any:
    return (
        rows.select([place * len(rows) // wanted for place in range(wanted)]) if wanted < len(rows) else rows
    )

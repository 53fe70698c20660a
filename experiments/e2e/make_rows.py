"""E2E (facts about a restaurant to text): the data set's own files to rows for `ift`.

`python make_rows.py devset.csv testset_w_refs.csv rows` writes rows/train.jsonl (480 inputs with one reference each)
and rows/test.jsonl (120 other inputs with all their references). Fixed seeds decide which inputs and references are
taken.
"""

from __future__ import annotations

import csv
import json
import random
import sys
from pathlib import Path
from typing import Any

TRAIN_ROWS, TEST_ROWS = 480, 120
REQUEST = "Describe this restaurant in one or two sentences.\n"


def write_rows(dev: Path, test: Path, folder: Path) -> None:
    """Writes train.jsonl from the file `dev` and test.jsonl from the file `test` to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    train, held_out = read(dev), read(test)
    inputs = list(train)
    random.Random(0).shuffle(inputs)
    with (folder / "train.jsonl").open("w", encoding="utf-8") as file:
        for one in inputs[:TRAIN_ROWS]:
            file.write(json.dumps(row(one, random.Random(one).choice(train[one]))) + "\n")
    inputs = list(held_out)
    random.Random(1).shuffle(inputs)
    with (folder / "test.jsonl").open("w", encoding="utf-8") as file:
        for one in inputs[:TEST_ROWS]:
            file.write(json.dumps(row(one, held_out[one][0]) | {"references": held_out[one]}) + "\n")


def read(file: Path) -> dict[str, list[str]]:
    """Input -> its references, in the order of the file."""
    found: dict[str, list[str]] = {}
    with file.open(encoding="utf-8-sig", newline="") as opened:
        for line in csv.DictReader(opened):
            found.setdefault(line["mr"], []).append(line["ref"])
    return found


def row(meaning: str, reference: str) -> dict[str, Any]:
    """A row for `ift train`: a conversational prompt and completion."""
    return {
        "prompt": [{"role": "user", "content": REQUEST + meaning}],
        "completion": [{"role": "assistant", "content": reference}],
    }


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python make_rows.py devset.csv testset_w_refs.csv FOLDER")
    write_rows(*map(Path, sys.argv[1:]))

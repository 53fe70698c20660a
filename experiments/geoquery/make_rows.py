"""GeoQuery (questions about US geography to SQL): the data set's own files to rows for `ift`.

`python make_rows.py geography.json geography.sqlite rows` writes rows/train.jsonl and rows/test.jsonl, the train and
test parts of the question split. The variables of each question and its query are filled in. Rows whose query fails or
has an empty result on the database are left out and counted: a wrong answer could not be told from a right one.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections import Counter
from pathlib import Path
from typing import Any

SYSTEM = "Write one SQL query for this question about US geography."


def write_rows(questions: Path, database: Path, folder: Path) -> Counter[str]:
    """Writes train.jsonl and test.jsonl to `folder`; returns how many rows were kept and left out in each part."""
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    counts: Counter[str] = Counter()
    # The questions' own databases may hold texts that are not UTF-8.
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        connection.text_factory = bytes
        for entry in json.loads(questions.read_text(encoding="utf-8")):
            for sentence in entry["sentences"]:
                part = sentence["question-split"]
                if part not in parts:
                    counts[f"{part}: not used"] += 1
                    continue
                query = filled(entry["sql"][0], sentence["variables"])
                if not has_result(connection, query):
                    counts[f"{part}: left out"] += 1
                    continue
                question = filled(sentence["text"], sentence["variables"])
                counts[f"{part}: kept"] += 1
                parts[part].append(row(question, query))
    for part, rows in parts.items():
        with (folder / f"{part}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(one) + "\n" for one in rows)
    return counts


def filled(text: str, variables: dict[str, str]) -> str:
    """`text` with each variable's name replaced by its value, longer names first (var10 before var1)."""
    for name in sorted(variables, key=len, reverse=True):
        text = text.replace(name, variables[name])
    return text


def has_result(connection: sqlite3.Connection, query: str) -> bool:
    """Whether the query runs and gives at least one row."""
    try:
        return connection.execute(query).fetchone() is not None
    except sqlite3.Error:
        return False


def row(question: str, query: str) -> dict[str, Any]:
    """A row for `ift train`: a conversational prompt and completion."""
    return {
        "prompt": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": query}],
    }


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python make_rows.py geography.json geography.sqlite FOLDER")
    for name, count in sorted(write_rows(*map(Path, sys.argv[1:])).items()):
        print(f"{name}: {count}")

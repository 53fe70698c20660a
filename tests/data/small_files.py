"""Small files of rows, and the arguments that name them."""

import json
from types import SimpleNamespace


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def numbered(count, first=0):
    return [{"text": f"row {number}"} for number in range(first, first + count)]


def arguments(name=None, *, train="train", test="test", streaming=False, strategy="no", seed=7):
    return (
        SimpleNamespace(
            dataset_name=name,
            dataset_config=None,
            dataset_train_split=train,
            dataset_test_split=test,
            dataset_streaming=streaming,
        ),
        None,
        SimpleNamespace(eval_strategy=strategy, seed=seed),
    )


def texts(parts):
    return [row["text"] for part in parts for row in part.rows]

"""The tables of the demo in docs/results.md: five seeds of `ift demo`; `folder` is "as-released" or nothing."""

from __future__ import annotations

import json
import statistics
from typing import Any

from ift.lab.report import mean_interval
from page_tables import RECORDS, table


def results(folder: str = "") -> str:
    """Scores over seeds, and the paired difference, each with its 95 % interval."""
    records = _records(folder)
    rows, scores = [], {}
    for name in records[0]["results"]:
        found = [record["results"][name] for record in records]
        scores[name] = [one["exact_match"] for one in found]
        shown, by_seed = _percent(scores[name]), ", ".join(f"{score:.1%}" for score in scores[name])
        if len(set(scores[name])) == 1:  # the base does not depend on the seed
            shown, by_seed = f"{scores[name][0]:.1%}", "the same model"
        ended = f"{statistics.mean(one['stopped'] for one in found):.1%}"
        length = f"{statistics.mean(one['mean_length'] for one in found):.1f}"
        rows.append([name, shown, by_seed, ended, length])
    paired = [ift - sft for ift, sft in zip(scores["ift"], scores["sft"], strict=True)]
    rows.append(["ift - sft, paired by seed", _percent(paired, "+"), "", "", ""])
    first = f"over {len(records)} seeds"
    return table([first, "exact match", "by seed", "stops with its end token", "answer tokens"], rows)


def rates(folder: str = "") -> str:
    """Validation scores by method and learning rate, mean over seeds, and how often each rate was chosen."""
    records, rows = _records(folder), []
    for method in ("sft", "ift"):
        found = [record["results"][method] for record in records]
        for rate in found[0]["validation"]:
            share = statistics.mean(one["validation"][rate] for one in found)
            times = sum(one["learning_rate"] == rate for one in found)
            rows.append([method, rate, f"{share:.1%}", f"{times} of {len(records)}"])
    return table(["method", "learning rate", "validation, mean over seeds", "chosen"], rows)


def _records(folder: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (RECORDS / folder / "demo.jsonl").read_text().splitlines()]


def _percent(values: list[float], sign: str = "") -> str:
    found = mean_interval(values)
    return f"{found.mean:{sign}.1%} ± {found.half:.1%}"

"""The tables of docs/regimes.md, and the numbers of its figure."""

from __future__ import annotations

import json
from statistics import fmean

from ift.lab.report.intervals import Estimate, paired_difference
from page_tables import RECORDS, table

WHEN = {"early": "early", "end": "at the end", "sampled": "at the end, sampled"}
SPLITS = ("test", "longer")
Scores = dict[str, dict[tuple[str, str], dict[int, float]]]  # contender -> (when, split) -> seed -> per cent


def scores(regime: str) -> Scores:
    """Exact match in per cent of the runs of a regime."""
    found: Scores = {}
    n = 0
    for line in (RECORDS / "regimes.jsonl").read_text().splitlines():
        run = json.loads(line)
        if run["regime"] != regime:
            continue
        n = run.get("n", n)
        for when, right in run["right"].items():
            for split, count in right.items():
                of_seed = found.setdefault(run["contender"], {}).setdefault((when, split), {})
                of_seed[run["seed"]] = 100 * count / n
    return found


def differences(regime: str) -> dict[tuple[str, str], dict[str, Estimate]]:
    """(when, split) -> contender -> its mean difference from SFT in points, paired by seed."""
    found = scores(regime)
    return {
        column: {
            name: difference
            for name, runs in found.items()
            if name != "sft" and (difference := paired_difference(runs[column], found["sft"][column]))
        }
        for column in found["sft"]
    }


def regime(name: str) -> str:
    """Exact match of SFT, and what the others have more."""
    found, apart = scores(name), differences(name)
    header = ["", *(f"{split}, {WHEN[when]}" for when, split in apart), "seeds"]
    rows = []
    for contender, runs in found.items():
        cells = []
        for column in apart:
            if contender == "sft":
                cells.append(f"{fmean(runs[column].values()):.1f} %")
            else:
                one = apart[column][contender]
                cells.append(f"{one.mean:+.1f}" + (f" ± {one.half:.1f}" if one.half is not None else ""))
        rows.append([contender, *cells, str(len(next(iter(runs.values()))))])
    return table(header, rows)

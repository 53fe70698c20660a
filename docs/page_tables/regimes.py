"""The tables of docs/regimes.md, and the numbers of its figure."""

from __future__ import annotations

import json
from statistics import fmean
from typing import Any

from ift.lab.report.intervals import Estimate, paired_difference
from page_tables import RECORDS, table
from page_tables.results import grouped

WHEN = {
    "early": "early",
    "end": "at the end",
    "sampled": "at the end, sampled",
    "planted": "after a planted error",
}
# what docs/regimes.md calls variants, and the control of the cost of one
VARIANTS = (
    "ift sure", "ift close", "ift falling lambda", "ift two deep", "ift clean and mixed", "sft 5/3 of the steps",
    "ift gamma by length", "ift batch mean", "ift released but the end",
)  # fmt: skip
SPLITS = ("test", "longer")
STEPS = 5  # few solutions have more
MIXED = "added by the mix after a wrong guess"
Scores = dict[str, dict[tuple[str, str], dict[int, float]]]  # contender -> (when, split) -> seed -> per cent


def scores(regime: str) -> Scores:
    """Exact match in per cent of the runs of a regime."""
    found: Scores = {}
    n = 0
    for line in (RECORDS / "regimes.jsonl").read_text().splitlines():
        of_contender = json.loads(line)
        if of_contender["regime"] != regime:
            continue
        n = of_contender.get("n", n)
        found[of_contender["contender"]] = {
            (when, split): dict(
                zip(of_contender["seeds"], (100 * count / n for count in counts), strict=True)
            )
            for when, of in of_contender["right"].items()
            for split, counts in of.items()
        }
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


def regime(name: str, *chosen: str) -> str:
    """Exact match of SFT, and what the others have more; of the moments in `chosen`, or of all."""
    found, apart = scores(name), differences(name)
    columns = [column for column in apart if not chosen or column[0] in chosen]
    contenders = [one for one in found if one not in VARIANTS]
    header = ["", *(f"{split}, {WHEN.get(when, when)}" for when, split in columns), "seeds"]
    rows = []
    for contender in contenders:
        runs = found[contender]
        cells = [
            f"{fmean(runs[column].values()):.1f} %"
            if contender == "sft"
            else difference(apart[column][contender])
            for column in columns
        ]
        rows.append([contender, *cells, str(len(runs[columns[0]]))])
    return table(header, rows)


def difference(one: Estimate, digits: int = 1) -> str:
    """A mean with its interval."""
    return f"{one.mean:+.{digits}f}" + (f" ± {one.half:.{digits}f}" if one.half is not None else "")


def variants(name: str, *chosen: str) -> str:
    """What the variants of IFT, and IFT itself, have more than SFT; of the moments in `chosen`, or of all."""
    found, apart = scores(name), differences(name)
    apart = {column: of for column, of in apart.items() if not chosen or column[0] in chosen}
    rows = [
        [one, *(difference(of[one]) for of in apart.values()), str(len(next(iter(found[one].values()))))]
        for one in ("ift", *VARIANTS)
        if one in found
    ]
    return table(["", *(f"{split}, {WHEN.get(when, when)}" for when, split in apart), "seeds"], rows)


def classes(regime: str, *names: str) -> str:
    """Loss by class of token: SFT's losses, and what the others have more; without names also what the mix adds."""
    found: dict[str, dict[str, dict[int, float]]] = {}  # column -> contender -> seed -> nats
    for line in (RECORDS / "token-classes.jsonl").read_text().splitlines():
        run = json.loads(line)
        if run["regime"] == regime:
            for column, value in nats(run, names):
                found.setdefault(column, {}).setdefault(run["contender"], {})[run["seed"]] = value
    contenders = [*next(iter(found.values()))]
    cells = [[column_cell(column, name, of) for column, of in found.items()] for name in contenders]
    return table(["", *found], [[name, *of] for name, of in zip(contenders, cells, strict=True)])


def nats(run: dict[str, Any], names: tuple[str, ...]) -> list[tuple[str, float]]:
    """Column and value of one run."""
    moments = ("early", "end")
    losses = [
        (f"{name}, {WHEN[when]}", run[when]["classes"][name]["mean"])
        for when in moments
        for name in names or ("predicted", "mispredicted")
    ]
    mixed = [
        (f"{MIXED}, {WHEN[when]}", run[when]["mixed"]["after a wrong guess"]["mean"]) for when in moments
    ]
    return losses if names else losses + mixed


def column_cell(column: str, contender: str, of: dict[str, dict[int, float]]) -> str:
    """A loss of SFT, a difference from it, or what the mix adds, which is a difference between two inputs already."""
    mean = fmean(of[contender].values())
    if column.startswith(MIXED):
        return f"{mean:+.3f}"
    apart = None if contender == "sft" else paired_difference(of[contender], of["sft"])
    return difference(apart, 3) if apart else f"{mean:.3f}"


def positions(study: str, split: str) -> str:
    """Of the answers right up to a step, the share that go wrong there: SFT's, and what the others have more."""
    found: dict[str, list[dict[int, float]]] = {}  # contender -> step -> seed -> per cent
    for variant in grouped(study, "sft").variants:
        if variant.label in ("sft", "ift", "sft+ift"):
            shares = {
                seed: wrong_at(run.error_steps[split], run.scores[split]["n"])
                for seed, run in variant.runs.items()
            }
            found[variant.label] = [{seed: of[step] for seed, of in shares.items()} for step in range(STEPS)]
    rows = []
    for contender, steps in found.items():
        apart = [paired_difference(of, sft) for of, sft in zip(steps, found["sft"], strict=True)]
        means = [f"{fmean(of.values()):.1f} %" for of in steps]
        rows.append(
            [
                contender,
                *(means if contender == "sft" else [difference(one) if one else "–" for one in apart]),
            ]
        )
    return table(["", *(f"step {step + 1}" for step in range(STEPS))], rows)


def wrong_at(counts: list[int], n: float) -> list[float]:
    """Per step, the per cent of the answers not yet wrong that go wrong there; of n answers, counts first go wrong."""
    right, shares = n, []
    for count in counts[:STEPS]:
        shares.append(100 * count / right)
        right -= count
    return shares


def calibration(regime: str) -> str:
    """Calibration and drawn answers at the end of training: SFT's, and what the others have more."""
    columns = {
        "calibration error, points": ("calibration", "error", 100),
        "drawn answers that are right, points": ("drawn", "right", 100),
        "problems with a right one of four, points": ("drawn", "any right", 100),
        "different answers of four": ("drawn", "different", 1),
    }
    found: dict[str, dict[str, dict[int, float]]] = {}  # column -> contender -> seed -> value
    for line in (RECORDS / "calibration.jsonl").read_text().splitlines():
        run = json.loads(line)
        if run["regime"] == regime:
            for column, (part, name, unit) in columns.items():
                of = found.setdefault(column, {}).setdefault(run["contender"], {})
                of[run["seed"]] = unit * run["end"][part][name]
    rows = []
    for contender in next(iter(found.values())):
        apart = [paired_difference(of[contender], of["sft"]) for of in found.values()]
        means = [f"{fmean(of[contender].values()):.2f}" for of in found.values()]
        cells = means if contender == "sft" else [difference(one, 2) if one else "–" for one in apart]
        rows.append([contender, *cells])
    return table(["", *found], rows)

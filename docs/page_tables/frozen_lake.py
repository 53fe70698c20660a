"""The tables of docs/frozen_lake.md, from docs/records/frozen-lake.json."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from ift.lab.frozen_lake.pictures import LABELS
from page_tables import RECORDS, table

SHOWN = ("dpo", "ift", "ift_scale", "orpo", "sft")


@cache
def record() -> dict[str, Any]:
    """The record of `ift frozen-lake`."""
    found: dict[str, Any] = json.loads((RECORDS / "frozen-lake.json").read_text())
    return found


def scaled(found: dict[str, float], digits: int = 1, scale: float = 1000) -> str:
    """A mean with half of its interval."""
    return f"{scale * found['mean']:.{digits}f} ± {scale * found['ci95']:.{digits}f}"


def methods() -> str:
    """Every method after the last step of the default, nearest first."""
    ordered = sorted(record()["summary"].items(), key=lambda one: one[1]["mse_all"]["mean"])
    rows = []
    for name, found in [("before", record()["before"]), *ordered]:
        errors = [scaled(found[key]) for key in ("mse_all", "mse_non_terminal", "mse_off_trajectory")]
        arrives = [f"{found[f'success_{kind}_slippery']['mean']:.3f}" for kind in ("sampled", "greedy")]
        others = [f"{found['cells_explored']['mean']:.1f}", f"{found['own_ground']['mean']:.3f}"]
        rows.append([LABELS.get(name, name), *errors, *arrives, *others])
    header = [
        "",
        "all rows",
        "non-terminal",
        "cells that the target does not visit",
        "arrives, sampled",
        "arrives, greedy",
    ]
    return table([*header, "cells explored", "own ground"], rows)


def steps() -> str:
    """The error of each method after more steps."""
    shown = (0, 10, 20, 30, 50, 100)
    rows = []
    for name, curves in record()["curves"].items():
        curve = curves["mse_all"]
        rows.append(
            [LABELS[name]]
            + [f"{1000 * curve['mean'][step]:.1f} ± {1000 * curve['ci95'][step]:.1f}" for step in shown]
        )
    return table(["step", *map(str, shown)], rows)


def pairs() -> str:
    """Paired differences."""
    found = record()["paired_differences_mse_all"]
    cells = [[name.replace("-", " - "), scaled(value, 2)] for name, value in found.items()]
    return table(["error, agent by agent", "mean ± 95 % interval"], cells)


def full_order() -> str:
    """Share of the agents with the paper's full order after the last step, for both gradients of IFT."""
    rows = [
        [LABELS["ift"], f"{record()['order_share']:.1%}"],
        [LABELS["ift_scale"], f"{record()['order_shares']['ift_scale'][-1]:.1%}"],
    ]
    return table(["IFT", f"agents with the full order, of {record()['agents']}"], rows)


def orders() -> str:
    """Share of the agents with the paper's order after some steps, for both gradients of IFT."""
    shown = (5, 8, 10, 12, 15, 20)
    rows = [
        [LABELS[ift], *(f"{record()['order_shares'][ift][step]:.0%}" for step in shown)]
        for ift in ("ift", "ift_scale")
    ]
    return table(["agents in order after step", *map(str, shown)], rows)


def variants() -> str:
    """IFT with one thing changed."""
    rows = [
        [
            row["value"],
            scaled(row["ift"]),
            *(f"{row[key]['mean']:.3f}" for key in ("own_ground", "success_sampled_slippery")),
        ]
        for row in record()["window"]["sweeps"]["variant"]
    ]
    return table(["IFT", "error", "own ground", "arrives, sampled"], rows)


def lambdas() -> str:
    """The error against lambda and gamma."""
    parts = []
    for name in ("lambda", "gamma"):
        rows = record()["window"]["sweeps"][name]
        parts.append(
            table(
                [name, *(f"{row['value']:g}" for row in rows)],
                [[LABELS[ift], *(scaled(row[ift]) for row in rows)] for ift in ("ift", "ift_scale")],
            )
        )
    return "\n\n".join(parts)


def worlds() -> str:
    """Other optimisers, rejected trajectories, starts and lakes."""
    rows = [
        [f"{world['kind']}: {world['name']}", *(scaled(world["mse_all"][name]) for name in SHOWN),
         f"{world['order_share']:.0%}", f"{world['order_share_scale']:.0%}", str(world["agents"])]
        for world in record()["window"]["worlds"]
    ]  # fmt: skip
    return table(
        ["changed", *(LABELS[name] for name in SHOWN), "in order", "in order, scale detached", "agents"], rows
    )

"""Write the tables of docs/frozen_lake.md from docs/records/frozen-lake.json: `python docs/make_frozen_lake.py`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ift.lab.frozen_lake.pictures import LABELS

DOCS = Path(__file__).resolve().parent
SHOWN = ("dpo", "ift", "ift_scale", "orpo", "sft")


def scaled(found: dict[str, float], digits: int = 1, scale: float = 1000) -> str:
    """A mean with half of its interval."""
    return f"{scale * found['mean']:.{digits}f} ± {scale * found['ci95']:.{digits}f}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def methods(record: dict[str, Any]) -> str:
    """Every method after the last step of the default, nearest first."""
    ordered = sorted(record["summary"].items(), key=lambda one: one[1]["mse_all"]["mean"])
    rows = []
    for name, found in [("before", record["before"]), *ordered]:
        errors = [scaled(found[key]) for key in ("mse_all", "mse_non_terminal", "mse_off_trajectory")]
        arrives = [f"{found[f'success_{kind}_slippery']['mean']:.3f}" for kind in ("sampled", "greedy")]
        others = [f"{found['cells_explored']['mean']:.1f}", f"{found['own_ground']['mean']:.3f}"]
        rows.append([LABELS.get(name, name), *errors, *arrives, *others])
    header = ["", "all rows", "non-terminal", "off the target's way", "arrives, sampled", "arrives, greedy"]
    return table([*header, "cells explored", "own ground"], rows)


def steps(record: dict[str, Any]) -> str:
    """The error of each method after more steps."""
    shown = (0, 10, 20, 30, 50, 100)
    rows = []
    for name, curves in record["curves"].items():
        curve = curves["mse_all"]
        rows.append(
            [LABELS[name]]
            + [f"{1000 * curve['mean'][step]:.1f} ± {1000 * curve['ci95'][step]:.1f}" for step in shown]
        )
    return table(["step", *map(str, shown)], rows)


def pairs(record: dict[str, Any]) -> str:
    """Paired differences."""
    found = record["paired_differences_mse_all"]
    cells = [[name.replace("-", " - "), scaled(value, 2)] for name, value in found.items()]
    share = (
        f"Agents with the full order DPO < IFT < ORPO < SFT: {record['order_share']:.1%} of {record['agents']} with "
        f"IFT as released, {record['order_shares']['ift_scale'][-1]:.1%} with the scale detached."
    )
    return f"{table(['error, agent by agent', 'mean ± 95 % interval'], cells)}\n\n{share}"


def orders(record: dict[str, Any]) -> str:
    """Share of the agents with the paper's order after some steps, for both gradients of IFT."""
    shown = (5, 8, 10, 12, 15, 20)
    rows = [
        [LABELS[ift], *(f"{record['order_shares'][ift][step]:.0%}" for step in shown)]
        for ift in ("ift", "ift_scale")
    ]
    return table(["agents in order after step", *map(str, shown)], rows)


def variants(record: dict[str, Any]) -> str:
    """IFT with one thing changed."""
    rows = [
        [
            row["value"],
            scaled(row["ift"]),
            *(f"{row[key]['mean']:.3f}" for key in ("own_ground", "success_sampled_slippery")),
        ]
        for row in record["window"]["sweeps"]["variant"]
    ]
    return table(["IFT", "error", "own ground", "arrives, sampled"], rows)


def lambdas(record: dict[str, Any]) -> str:
    """The error against lambda and gamma."""
    parts = []
    for name in ("lambda", "gamma"):
        rows = record["window"]["sweeps"][name]
        parts.append(
            table(
                [name, *(f"{row['value']:g}" for row in rows)],
                [[LABELS[ift], *(scaled(row[ift]) for row in rows)] for ift in ("ift", "ift_scale")],
            )
        )
    return "\n\n".join(parts)


def worlds(record: dict[str, Any]) -> str:
    """Other optimisers, rejected trajectories, starts and lakes."""
    rows = [
        [f"{world['kind']}: {world['name']}", *(scaled(world["mse_all"][name]) for name in SHOWN),
         f"{world['order_share']:.0%}", f"{world['order_share_scale']:.0%}", str(world["agents"])]
        for world in record["window"]["worlds"]
    ]  # fmt: skip
    return table(
        ["changed", *(LABELS[name] for name in SHOWN), "in order", "in order, scale detached", "agents"], rows
    )


def main() -> None:
    """Fill every `<!-- table: NAME -->` of the page."""
    record = json.loads((DOCS / "records" / "frozen-lake.json").read_text())
    page = DOCS / "frozen_lake.md"

    def filled(found: re.Match[str]) -> str:
        makers = (methods, steps, pairs, orders, variants, lambdas, worlds)
        return f"{found[1]}\n{ {maker.__name__: maker for maker in makers}[found[2]](record) }\n<!-- end of table -->"

    text = re.sub(
        r"(<!-- table: (\w+) -->)\n.*?<!-- end of table -->", filled, page.read_text(), flags=re.DOTALL
    )
    page.write_text(text)


if __name__ == "__main__":
    main()

"""The PNG of a record of `step_cost.py`: operations of a step over those of trl's SFT, along every axis it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

NUMERIC = ("share", "length", "batch", "vocabulary")


def draw(record: dict[str, Any], path: Path) -> None:
    """One panel an axis, one line a method."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    points = [
        {**entry, "point": {**entry["point"], "vocabulary": entry["point"]["vocabulary"] or vocabulary}}
        for vocabulary in [record["model"]["vocabulary"]]
        for entry in record["points"]
    ]
    panels = _panels(points)
    columns = min(len(panels), 4)
    rows = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(3.4 * columns, 3.0 * rows), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (name, points) in zip(axes.flat, panels.items(), strict=False):
        methods = sorted({method for _, found in points for method in found})
        for method in methods:
            pairs = [
                (x, f[method]["flops_over_trl-sft"])
                for x, f in points
                if "flops_over_trl-sft" in f.get(method, {})
            ]
            if pairs:
                xs = [x if name in NUMERIC else str(x) for x, _ in pairs]
                axis.plot(xs, [y for _, y in pairs], marker="o", label=method)
        axis.set_xlabel({"share": "completion's share of the row"}.get(name, name))
        if name in ("length", "batch", "vocabulary"):
            axis.set_xscale("log", base=2)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    for row in axes:
        row[0].set_ylabel("operations of a step / trl SFT's")
    axes.flat[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _panels(points: list[dict[str, Any]]) -> dict[str, list[tuple[Any, dict[str, Any]]]]:
    """Per axis that varies: its values, and every method's figures there; the base point belongs to all of them."""
    base = points[0]["point"] if len(points) == 1 else _base(points)
    found: dict[str, list[tuple[Any, dict[str, Any]]]] = {}
    for name in base:
        line = [
            (entry["point"][name], entry["methods"])
            for entry in points
            if all(entry["point"][other] == base[other] for other in base if other != name)
        ]
        if len(line) > 1 or len(points) == 1:
            found[name] = sorted(line, key=lambda one: (one[0] is not None, one[0]))
    return {"share": found["share"]} if len(points) == 1 else found


def _base(points: list[dict[str, Any]]) -> dict[str, Any]:
    """The point from which every other differs in one thing."""
    for entry in points:
        changes = [sum(entry["point"][k] != other["point"][k] for k in other["point"]) for other in points]
        if max(changes) <= 1:
            return entry["point"]
    return points[0]["point"]

"""Charts of a record: the error by step, the sweeps, and maps of the settings with which the paper's order holds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ift.lab.frozen_lake.methods import Method
from ift.lab.frozen_lake.pictures import COLORS, LABELS

PANELS = {
    "mse_all": "error, all rows (x 1000)",
    "mse_off_trajectory": "error off the target's way (x 1000)",
    "success_sampled_slippery": "arrives, sampled actions",
    "success_greedy_slippery": "arrives, likeliest actions",
}


def curves_chart(curves: dict[Method, dict[str, Any]], step: int) -> Figure:
    """Four measures by step, with one line per method and 95 % bands; a vertical line marks `step`."""
    figure = Figure(figsize=(12, 7.6), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(2, 2).flatten(), PANELS.items(), strict=True):
        scale = 1000 if name.startswith("mse") else 1
        for method, measures in curves.items():
            mean, half = (scale * np.array(measures[name][part]) for part in ("mean", "ci95"))
            color, steps = COLORS[method], range(len(mean))
            axes.plot(mean, color=color, label=LABELS[method], lw=2)
            axes.fill_between(steps, mean - half, mean + half, color=color, alpha=0.2, lw=0)
        axes.axvline(step, color="black", lw=0.8, ls=":")
        _finish(axes, title, "step")
    figure.axes[0].legend(ncols=2, fontsize=9)
    return figure


def sweeps_chart(sweeps: dict[str, list[dict[str, Any]]], usual: dict[Method, float]) -> Figure:
    """Sweeps of one setting each; dotted lines show the other methods at their usual settings."""
    figure = Figure(figsize=(13, 7.6), layout="constrained")
    panels = figure.subplots(2, 3).flatten()
    for axes, name in zip(panels, ("lambda", "gamma", "beta", "orpo_beta"), strict=False):
        rows = sweeps[name]
        swept: list[Method] = [method for method in COLORS if method in rows[0]]
        for method in swept:
            mean, half = (1000 * np.array([row[method][part] for row in rows]) for part in ("mean", "ci95"))
            form: dict[str, Any] = {"color": COLORS[method], "label": LABELS[method], "marker": "o"}
            axes.errorbar([row["value"] for row in rows], mean, half, ms=4, lw=2, **form)
        for method in ("sft", "ift", "orpo", "dpo"):
            if method not in swept:
                axes.axhline(1000 * usual[method], color=COLORS[method], ls=":", label=LABELS[method])
        if "beta" in name:
            axes.set_xscale("log")
        title = {"beta": "beta of DPO and TDPO", "orpo_beta": "beta of ORPO"}.get(name, f"{name} of IFT")
        _finish(axes, title, "")
        axes.set_ylabel("error (x 1000)")
        axes.legend(fontsize=8)
    _bars(panels[4], sweeps["variant"], usual)
    panels[5].set_axis_off()
    return figure


def _bars(axes: Axes, rows: Sequence[dict[str, Any]], usual: dict[Method, float]) -> None:
    names = [row["value"] for row in rows][::-1]
    mean, half = (1000 * np.array([row["ift"][part] for row in rows][::-1]) for part in ("mean", "ci95"))
    axes.barh(names, mean, xerr=half, color=COLORS["ift"], alpha=0.75)
    for method in ("sft", "dpo"):
        axes.axvline(1000 * usual[method], color=COLORS[method], ls=":", label=LABELS[method])
    _finish(axes, "variants of IFT", "error (x 1000)")
    axes.legend(fontsize=8)


def order_chart(maps: Sequence[dict[str, Any]]) -> Figure:
    """One heat map for each pair of settings, with the share of agents for which DPO < IFT < ORPO < SFT in error."""
    figure = Figure(figsize=(12, 8), layout="constrained")
    for axes, found in zip(figure.subplots(2, 2).flatten(), maps, strict=True):
        shares, columns = np.array(found["shares"]), found["column_values"]
        form: dict[str, Any] = {"aspect": "auto", "origin": "lower", "interpolation": "nearest"}
        axes.imshow(shares, vmin=0, vmax=1, cmap="cividis", **form)
        axes.set_yticks(range(len(found["row_values"])), [f"{value:g}" for value in found["row_values"]])
        shown = [place for place in range(len(columns)) if len(columns) <= 10 or columns[place] % 20 == 0]
        axes.set_xticks(shown, [f"{columns[place]:g}" for place in shown])
        axes.set(ylabel=found["rows"], xlabel=found["columns"])
        if len(columns) <= 10:
            for (row, column), share in np.ndenumerate(shares):
                color = "black" if share > 0.6 else "white"
                axes.text(column, row, f"{share:.0%}", ha="center", va="center", color=color)
    figure.colorbar(figure.axes[0].images[0], ax=figure.axes, label="agents with DPO < IFT < ORPO < SFT")
    figure.suptitle("Where the paper's order holds")
    return figure


def worlds_chart(worlds: Sequence[dict[str, Any]]) -> Figure:
    """One row of points per world, a point for each method, with the share of agents that have the paper's order."""
    figure = Figure(figsize=(10, 0.36 * len(worlds) + 1.6), layout="constrained")
    axes = figure.subplots()
    for place, world in enumerate(worlds):
        for method in COLORS:
            if method in world["mse_all"]:
                found, name = world["mse_all"][method], LABELS[method] if place == 0 else None
                mean, half = 1000 * found["mean"], 1000 * found["ci95"]
                axes.errorbar(mean, place, xerr=half, color=COLORS[method], marker="o", ms=6, label=name)
    names = [f"{world['kind']}: {world['name']}  ({world['order_share']:.0%})" for world in worlds]
    axes.set_yticks(range(len(worlds)), names)
    axes.invert_yaxis()
    _finish(axes, "Other settings and worlds (in brackets: agents with the paper's order)", "error (x 1000)")
    axes.legend()
    return figure


def _finish(axes: Axes, title: str, below: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(below)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)

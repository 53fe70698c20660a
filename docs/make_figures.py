"""Draw the figures of the pages from the records into docs/images: `python docs/make_figures.py`."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ift.lab.report.figures import image, pictures
from ift.lab.report.intervals import Estimate
from ift.step import propagated_loss, row_layout
from ift.step.settings import StepSettings
from mdp_picture import mdp_picture
from page_tables import DOCS, RECORDS, regimes
from page_tables.method import RUNS
from page_tables.results import PRETRAINED, grouped

GAMMA = 0.95
# A row of 20 tokens: hard words among easy ones, and an end that is known well (nats).
LOSSES = (
    3.2, 1.9, 0.6, 2.4, 1.1, 0.3, 2.8, 0.9, 1.6, 0.2, 2.1, 0.7, 1.3, 0.4, 1.8, 0.15, 0.6, 0.1, 0.05, 0.02,
)  # fmt: skip
COLORS = {"none": "#d55e00", "scale": "#0072b2", "weights": "#009e73"}
LABELS = {
    "none": "none: the released code",
    "scale": "scale: Algorithm 1 as printed, the default",
    "weights": "weights",
}
RUN_COLORS = {"sft": "#7f7f7f", "ift as released": "#d55e00", "ift": "#0072b2"}
CONTENDER_COLORS = {
    "ift": "#0072b2", "ift as released": "#d55e00", "ift residual only": "#56b4e9", "random-residual": "#7f7f7f",
    "label-smoothing": "#009e73",
}  # fmt: skip
# regime, when it was scored -> the line of the map
REGIMES = {
    ("30 rows", "end"): "30 rows, 40 passes",
    ("few", "end"): "48 rows, 24 passes",
    ("60 rows", "end"): "60 rows, 20 passes",
    ("120 rows", "end"): "120 rows, 10 passes",
    ("many", "end"): "400 rows, 4 passes",
    ("noisy", "end"): "400 rows, 30 % wrong",
    ("good", "end"): "400 rows, a good base",
    ("rounded, fast", "end"): "400 rows, bfloat16, RMSprop",
    ("not rounded", "end"): "400 rows, float32, RMSprop",
    ("planted", "planted"): "after a planted error",
    ("relation, fresh seeds", "end"): "relations, a low rate",
}
# differences below it are written at the edge, or the others would be too close together to read
BEYOND = -16.0
WINDOW = 5  # steps of the moving mean: a step has eight ends


def pushes() -> Figure:
    """dL/dl of each token of the row, times the number of tokens (1 for SFT), for the three ways of detaching."""
    losses = torch.tensor([[0.0, *LOSSES]], dtype=torch.float64)
    labels = torch.tensor([[-100] + [5] * len(LOSSES)])
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    cost, push = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2.2))
    places = range(1, len(LOSSES) + 1)
    cost.bar(places, LOSSES, color="#b8c7d3")
    cost.set_ylabel("loss (nats)")
    for detach, color in COLORS.items():
        settings = StepSettings(propagation_gamma=GAMMA, propagation_detach=detach)
        gradient = propagated_loss(losses, row_layout(labels), settings)[2][0, 1:]
        push.plot(places, gradient * len(LOSSES), color=color, marker="o", ms=4, label=LABELS[detach])
    push.axhline(1, color="#7f7f7f", ls=":", label="SFT")
    push.axhline(0, color="black", lw=0.8)
    push.set(
        xlabel="token of the answer; the last one ends it", ylabel="push on its loss", xticks=list(places)
    )
    push.legend(fontsize=8, ncols=2)
    for axes in (cost, push):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def ends(records: dict[str, dict[str, Any]]) -> Figure:
    """eos_nll of each run against the step, as a moving mean."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, label in RUNS.items():
        color = RUN_COLORS[name]
        values = records[name]["curve"]["eos_nll"]
        smooth = [
            sum(values[max(0, n - WINDOW + 1) : n + 1]) / min(n + 1, WINDOW) for n in range(len(values))
        ]
        axes.plot(records[name]["curve"]["step"], values, color=color, lw=0.6, alpha=0.4)
        axes.plot(records[name]["curve"]["step"], smooth, color=color, lw=2, label=label)
    axes.axhline(0.693, color="black", lw=0.8, ls=":", label="as likely as not")
    axes.set(xlabel="step", ylabel="eos_nll (nats)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8)
    return figure


def regime_map() -> Figure:
    """Difference from SFT by regime, split and contender; of the pretrained models in the left panel."""
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    pretrained = {title: differences(name, metric) for name, (title, metric) in PRETRAINED.items()}
    titles = [*REGIMES.values(), *(f"SmolLM2 on {title}" for title in pretrained)]
    panels = figure.subplots(1, 2, sharey=True)
    for axes, split in zip(panels, regimes.SPLITS, strict=True):
        lines = [regimes.differences(regime)[when, split] for regime, when in REGIMES]
        lines += pretrained.values() if split == "test" else []
        unnamed = {*CONTENDER_COLORS}
        for row, found in enumerate(lines):
            shown = [(name, color) for name, color in CONTENDER_COLORS.items() if name in found]
            for place, (name, color) in enumerate(shown):
                height = row + 0.6 * (place / max(1, len(shown) - 1) - 0.5)
                if mark_difference(axes, found[name], height, color, name if name in unnamed else None):
                    unnamed.discard(name)
        axes.axvline(0, color="black", lw=0.8)
        axes.set(title=split, xlabel="minus SFT, in points", xlim=(BEYOND, 12), yticks=range(len(titles)))
        axes.set_yticklabels(titles)
        axes.spines[["top", "right"]].set_visible(False)
    # the pretrained models leave room for it
    panels[1].legend(*panels[0].get_legend_handles_labels(), fontsize=7, loc="upper left")
    return figure


def mark_difference(axes: Axes, one: Estimate, height: float, color: str, label: str | None) -> bool:
    """A point with its interval, or beyond the edge of the picture a number; returns whether it is a point."""
    if one.mean < BEYOND:
        axes.annotate(
            f"◂ {one.mean:+.1f} ± {one.half:.1f}", (BEYOND, height), color=color, fontsize=7, va="center"
        )
        return False
    axes.errorbar(one.mean, height, xerr=one.half, fmt="o", ms=4, color=color, lw=1.2, label=label)
    return True


def differences(study: str, metric: str) -> dict[str, Estimate]:
    """Label of a method -> its difference from SFT, in points, on the test rows of a pretrained model's study."""
    found = grouped(study, "sft")
    unit = 100 if metric == "sql" else 1  # BLEU has points of its own
    return {
        variant.label: replace(one, mean=unit * one.mean, half=unit * one.half)
        for variant in found.variants
        if (one := found.difference(variant, "test", metric)) and one.half is not None
    }


def lambda_curve() -> bytes:
    """Exact match against lambda, as SVG."""
    (picture,) = [it for it in pictures(grouped("ablate-full", "sft")) if it.name == "lambda"]
    return image(picture, "svg")


def main() -> None:
    """Write the figures."""
    lines = (RECORDS / "end-of-answers.jsonl").read_text().splitlines()
    records = {record["name"]: record for record in map(json.loads, lines)}
    figures = {"push-by-position": pushes(), "end-of-answers": ends(records), "regimes": regime_map()}
    with mpl.rc_context({"svg.hashsalt": "ift"}):
        for name, figure in figures.items():
            figure.savefig(DOCS / "images" / f"{name}.svg", metadata={"Date": None})
    (DOCS / "images" / "mdp.svg").write_text(mdp_picture(), encoding="utf-8")
    (DOCS / "images" / "ablate-lambda.svg").write_bytes(lambda_curve())


if __name__ == "__main__":
    main()

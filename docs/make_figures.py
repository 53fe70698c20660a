"""Draw the figures of docs/method.md and docs/results.md into docs/images: `python docs/make_figures.py`."""

from __future__ import annotations

import json
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import torch
from matplotlib.figure import Figure

from ift.lab.report.figures import image, pictures
from ift.step import propagated_loss, row_layout
from ift.step.settings import StepSettings
from page_tables import DOCS, RECORDS
from page_tables.method import RUNS
from page_tables.results import grouped

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


def lambda_curve() -> bytes:
    """Exact match against lambda, as SVG."""
    (picture,) = [it for it in pictures(grouped("ablate-full", "sft")) if it.name == "lambda"]
    return image(picture, "svg")


def main() -> None:
    """Write the three figures."""
    lines = (RECORDS / "end-of-answers.jsonl").read_text().splitlines()
    records = {record["name"]: record for record in map(json.loads, lines)}
    with mpl.rc_context({"svg.hashsalt": "ift"}):
        for name, figure in {"push-by-position": pushes(), "end-of-answers": ends(records)}.items():
            figure.savefig(DOCS / "images" / f"{name}.svg", metadata={"Date": None})
    (DOCS / "images" / "ablate-lambda.svg").write_bytes(lambda_curve())


if __name__ == "__main__":
    main()

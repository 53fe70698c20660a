"""The tables of docs/method.md and docs/configuration.md."""

from __future__ import annotations

import json

import torch

from ift.lab.report import mean_interval
from ift.step import propagated_loss, propagation_weights, row_layout
from ift.step.settings import StepSettings
from page_tables import RECORDS, table

RUNS = {"sft": "SFT", "ift as released": "IFT as released", "ift": "IFT"}


def ends() -> str:
    """Answers that end, BLEU, loss and the likelihood of the end, by run."""
    lines = (RECORDS / "end-of-answers.jsonl").read_text().splitlines()
    records = {record["name"]: record for record in map(json.loads, lines)}
    rows = []
    for name, label in RUNS.items():
        found, measured = records[name]["scores"], records[name]["curve"]["end_nll"]
        watched = f"{measured[0]:.2f} / {measured[-1]:.2f}" if measured else "not measured then"
        ended = f"{found['ended']} of {found['n']}"
        numbers = [f"{found['bleu']:.1f}", f"{found['loss']:.3f}", f"{found['eos_nll']:.2f}"]
        rows.append([label, ended, *numbers, watched])
    header = ["", "answers that stop", "BLEU", "loss of a reference", "loss of its end token"]
    return table([*header, "first / last `end_nll`"], rows)


def defaults() -> str:
    """Exact match with each of trl's defaults changed alone, on the testbed, and what it did on E2E."""
    lines = (RECORDS / "defaults.jsonl").read_text().splitlines()
    runs: dict[str, dict[int, float]] = {}
    for record in map(json.loads, lines):
        runs.setdefault(record["name"], {})[record["seed"]] = record["exact_match"]
    usual = next(iter(runs.values()))
    rows = []
    for name, found in runs.items():
        scored = mean_interval([100 * score for score in found.values()])
        apart = mean_interval([100 * (score - usual[seed]) for seed, score in found.items()])
        shown = "–" if found is usual else f"{apart.mean:+.1f} ± {apart.half:.1f} points"
        rows.append([name, f"{scored.mean:.1f} ± {scored.half:.1f} %", shown])
    return table(["", "exact match", "difference"], rows)


def hard_token() -> str:
    """Weight and push (SFT's is 1) in a row of 20 tokens with the loss 0.1, of which the tenth has the loss 3."""
    losses = torch.full((1, 21), 0.1, dtype=torch.float64)
    losses[0, 0], losses[0, 10] = 0.0, 3.0
    layout, rows = row_layout(torch.tensor([[-100] + [5] * 20])), []
    for gamma in (1.0, 0.95, 0.8, 0.5, 0.01):
        settings = StepSettings(propagation_gamma=gamma)
        _, weights, gradient = propagated_loss(losses, layout, settings)
        push = gradient[0] * 20
        shown = f"{push[10]:.2f} / {push[9]:.2f} / {push[1]:.2f}"
        rows.append([f"{gamma:g}", f"{weights[0, 10]:.2f} / {weights.max():.2f}", shown])
    return table(["gamma", "weight: hard token / largest", "push: hard token / the one before / first"], rows)


def gammas() -> str:
    """Weight and push (SFT's is 1) of the first, middle and last token of rows whose token losses are all equal."""
    rows = []
    for length in (30, 100, 1000):
        losses = torch.tensor([[0.0] + [1.0] * length], dtype=torch.float64)
        layout = row_layout(torch.tensor([[-100] + [5] * length]))
        for gamma in (0.5, 0.8, 0.95, 0.98, 1.0):
            weights = propagation_weights(losses, layout, gamma=gamma)[0, 1:]
            gradient = propagated_loss(losses, layout, StepSettings(propagation_gamma=gamma))[2][0, 1:]
            cells = [
                " / ".join(f"{values[place]:.2f}" for place in (0, length // 2, -1))
                for values in (weights, gradient * length)
            ]
            reach = "the whole row" if gamma == 1 else f"{1 / (1 - gamma):.0f}"
            rows.append([str(length), f"{gamma:g}", reach, *cells])
    return table(
        ["tokens", "gamma", "reach", "weight: first / middle / last", "push: first / middle / last"], rows
    )

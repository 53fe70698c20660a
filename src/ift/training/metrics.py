"""Metrics of a run: exact means over tokens and rows for any batching and number of ranks (docs/metrics.md)."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from ift.files import keep_lines
from ift.step.result import IFTLoss

COLUMNS = (
    "tokens", "trained", "nll", "residual_nll", "entropy", "top1", "lookahead_hits", "negative", "eos_nll",
    "eos", "loss", "items", "weight_max",
)  # fmt: skip


def row_statistics(result: IFTLoss, labels: Tensor, eos_ids: Tensor, config: Any) -> Tensor:
    """Sums over each row of a batch, (B, len(COLUMNS)) float64 without gradient; `weight_max` is a maximum.

    Args:
        result: The result of `ift_loss`.
        labels: (B, T) int64.
        eos_ids: (E,) int64, the ids that end a turn. `eos_nll` is of the rows of the step; `end_nll` (end_watch.py) is
            the same number of fixed rows.
        config: An `IFTConfig`, for the reduction.
    """
    scores, layout = result.scores, result.layout
    trained = layout.trained
    ends = trained & torch.isin(labels, eos_ids)
    weighted = result.weights * scores.losses.detach()
    items, counts = trained, layout.per_document(trained.double())
    if config.loss_reduction == "sequence":  # each document counts once, at its last position
        last = torch.ones_like(trained)
        last[:, :-1] = layout.documents[:, 1:] != layout.documents[:, :-1]
        weighted = torch.where(trained, weighted / counts.clamp(min=1), 0.0)
        items = last & (counts > 0)
    columns = {
        "tokens": layout.attended & (counts > 0),
        "trained": trained,
        "nll": scores.nll,
        "residual_nll": scores.losses.detach(),
        "entropy": scores.entropy,
        "top1": scores.top1,
        "lookahead_hits": scores.lookahead_hits,
        "negative": trained & (result.gradient < 0),
        "eos_nll": torch.where(ends, scores.nll, 0.0),
        "eos": ends,
        "loss": weighted,
        "items": items,
    }
    sums = torch.stack([columns[name].double() for name in COLUMNS[:-1]], 1).sum(2)
    return torch.cat([sums, result.weights.double().amax(1, keepdim=True)], 1)


# what an evaluation can report, without its prefix: `RunningMeans.summary` and the trainer's extra values
EVALUATION_METRICS = (
    "entropy", "mean_token_accuracy", "propagation_weight_max", "propagation_negative_share", "nll", "eos_nll",
    "aux_loss", "num_tokens",
)  # fmt: skip
# those of them that a run without propagation does not have
PROPAGATION_METRICS = ("propagation_weight_max", "propagation_negative_share")
# what it reports besides if the run has a lambda
LOOKAHEAD_METRICS = ("lookahead_accuracy", "residual_nll", "residual_gap", "lambda", "shared_prefix")


class RunningMeans:
    """Accumulates row statistics until they are logged."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.weight_max: Tensor | None = None
        self.extra: dict[str, list[Tensor | float]] = {}
        self.looked_ahead = False

    def add(self, rows: Tensor, looked_ahead: bool, **extra: Tensor | float) -> None:
        """Adds the (R, len(COLUMNS)) statistics of all ranks; `extra` values are averaged over calls.

        Nothing is read here that a GPU may still be computing: the host would wait for it.
        """
        total, largest = rows[:, :-1].sum(0), rows[:, -1].max()
        self.total = total if self.total is None else self.total + total
        self.weight_max = largest if self.weight_max is None else torch.maximum(self.weight_max, largest)
        self.looked_ahead = self.looked_ahead or looked_ahead
        for name, value in extra.items():
            self.extra.setdefault(name, []).append(value)

    def summary(self, propagates: bool = True) -> dict[str, float]:
        """The metrics; absent are those not computed, and without propagation the constants of its weights."""
        if self.total is None or self.weight_max is None:
            return {}
        sums = dict(zip(COLUMNS[:-1], self.total.tolist(), strict=True))
        found = {name: self.extra_mean(name) for name in self.extra}
        if sums["trained"]:
            trained = sums["trained"]
            found |= {
                "entropy": sums["entropy"] / trained,
                "mean_token_accuracy": sums["top1"] / trained,
                "propagation_weight_max": max(0.0, float(self.weight_max)),
                "propagation_negative_share": sums["negative"] / trained,
                "nll": sums["nll"] / trained,
            }
            if self.looked_ahead:
                found["lookahead_accuracy"] = sums["lookahead_hits"] / trained
                found["residual_nll"] = sums["residual_nll"] / trained
                found["residual_gap"] = found["residual_nll"] - found["nll"]
        if not propagates:
            found = {name: value for name, value in found.items() if name not in PROPAGATION_METRICS}
        if sums["eos"]:
            found["eos_nll"] = sums["eos_nll"] / sums["eos"]
        return found

    def extra_mean(self, name: str) -> float:
        """Mean of an extra value over the calls that gave it; 0 without such a call."""
        values = [float(value) for value in self.extra.get(name, [])]
        return sum(values) / len(values) if values else 0.0

    @property
    def loss(self) -> float | None:
        """The exact loss over all rows added, with the run's reduction; None without a trained token."""
        if self.total is None:
            return None
        sums = dict(zip(COLUMNS[:-1], self.total.tolist(), strict=True))
        return sums["loss"] / sums["items"] if sums["items"] else None


class TokenRate:
    """Tokens per second between two logs; before the first log, from the start of the first step on."""

    def __init__(self) -> None:
        self._since: float | None = None  # seconds; None before the first step
        self._tokens = 0

    def start(self) -> None:
        """Starts the clock, unless it runs already."""
        if self._since is None:
            self._since = time.perf_counter()

    def add(self, tokens: int) -> None:
        """Counts tokens of the current interval."""
        self._tokens += tokens

    def restart(self) -> float:
        """Ends the interval and starts the next one; returns the tokens per second, 0 before the first step."""
        if self._since is None:
            return 0.0
        now = time.perf_counter()
        rate = self._tokens / max(now - self._since, 1e-9)
        self._since, self._tokens = now, 0
        return rate


class MetricsFile(TrainerCallback):
    """Appends every log entry to `metrics.jsonl` in the output folder, for every value of `report_to`."""

    name = "metrics.jsonl"

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Starts a new file; a resumed run keeps the lines up to the checkpoint."""
        path = Path(args.output_dir) / self.name
        if not state.is_world_process_zero:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        keep_lines(path, state.global_step or float("-inf"))

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Appends one line."""
        if state.is_world_process_zero and logs:
            path = Path(args.output_dir) / self.name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as file:
                file.write(json.dumps({"step": state.global_step, "time": time.time(), **logs}) + "\n")


class LogsBothEnds(TrainerCallback):
    """Has the first and the last step logged too, so that a run shorter than `logging_steps` shows a change."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Requests the log entry, unless the run logs nothing."""
        if args.logging_strategy != "no" and state.global_step in (1, state.max_steps):
            control.should_log = True

"""Which step's weights a trainer holds after training with `load_best_model_at_end`."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def best_step_number(trainer: Any) -> int | None:
    """The step whose weights were loaded at the end; None if the weights are those of the last step."""
    args, state = trainer.args, trainer.state
    if not args.load_best_model_at_end or state.best_model_checkpoint is None:
        return None
    return int(Path(state.best_model_checkpoint).name.rpartition("-")[2])


def best_step(trainer: Any) -> str:
    """Such as "step 140, the best by eval_nll (1.8)"; "" if no best weights were loaded."""
    step = best_step_number(trainer)
    if step is None:
        return ""
    name = trainer.args.metric_for_best_model
    metric = name if name.startswith("eval_") else f"eval_{name}"
    return f"step {step}, the best by {metric} ({trainer.state.best_metric:.4g})"

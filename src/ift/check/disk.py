"""Computes the bytes that a run writes into its output folder, and whether they fit on the disk."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ift.check.engines import FULL, Engine, Held
from ift.check.finding import Finding

WEIGHTS_TWICE = ("fsdp2", "zero1", "zero2")  # in the engine's own file, and as safetensors


@dataclass(frozen=True)
class Disk:
    """The largest size of the output folder.

    Attributes:
        checkpoint: Bytes of one checkpoint; 0 where none is saved.
        most: Number of checkpoints at a time; None if it is not known.
        model: Bytes of the trained model, saved at the end.
        limited: Whether `save_total_limit` bounds the number.
    """

    checkpoint: int
    most: int | None
    model: int
    limited: bool

    @property
    def total(self) -> int | None:
        """Bytes at most; None if the number of checkpoints is not known."""
        return None if self.most is None else self.most * self.checkpoint + self.model

    def line(self) -> str:
        """The total and its parts."""
        model = f"{_size(self.model)} for the trained model"
        if not self.most:
            kept = f", and {_size(self.checkpoint)} for each checkpoint, whose number is not known"
            return f"{model}{'' if self.most == 0 else kept}"
        plural = "s" if self.most > 1 else ""
        if self.limited:
            why = " (one more than save_total_limit while it is written)" if self.most > 1 else ""
        else:
            why = "; save_total_limit bounds their number" if self.most > 1 else ""
        assert self.total is not None  # nosec B101 # for the type checker
        return (
            f"about {_size(self.total)} in the output folder: {model}, and up to {self.most} checkpoint{plural} of "
            f"{_size(self.checkpoint)}{why}"
        )


def disk_needs(config: Any, held: Held, engine: Engine, adapter: bool, steps: int | None) -> Disk:
    """What a run writes.

    A checkpoint has the weights (under FSDP2 and ZeRO-1 and 2 twice, as transformers and DeepSpeed save them) and the
    optimiser's states, under ZeRO with the float32 copies of the trained weights.

    Args:
        config: The training's settings.
        held: What a step holds.
        engine: Of the run.
        adapter: Whether only an adapter is trained, and saved.
        steps: Of the run; None if they are not known.
    """
    zero = engine.name.startswith("zero")
    if adapter:
        model = held.trained * held.element if zero else held.gradients  # in the dtype of the weights
    else:
        model = held.computed if zero else held.weights
    model += held.upcast if engine.name == "fsdp2" else 0
    states = held.optimizer
    if zero:
        states = held.full_optimizer + held.trained * FULL
    elif engine.name == "fsdp2" and held.upcast:
        states = held.full_optimizer
    twice = model if engine.name in WEIGHTS_TWICE else 0
    checkpoint = model if config.save_only_model else model + twice + states
    saved, limit = _checkpoints(config, steps), config.save_total_limit
    if limit and config.load_best_model_at_end:
        limit = max(limit, 2)  # the newest and the best
    most = saved if not limit else limit + 1 if saved is None else min(saved, limit + 1)
    limited = bool(limit) and (saved is None or saved > limit)
    return Disk(0 if most == 0 else checkpoint, most, model, limited)


def disk_findings(config: Any, disk: Disk) -> list[Finding]:
    """A warning if the disk has less free space than the run needs; none for a resumed run."""
    place = Path(config.output_dir).expanduser().absolute()
    free = shutil.disk_usage(next(one for one in (place, *place.parents) if one.is_dir())).free
    if disk.total is None or disk.total <= free or config.resume_from_checkpoint:
        return []
    fix = "" if disk.limited or disk.most in (0, 1) else "--save_total_limit 2, or "
    text = f"the run writes {disk.line()}, and {_size(free)} are free there. Fix: {fix}an --output_dir on a larger disk"
    return [Finding("warning", "disk", text)]


def _checkpoints(config: Any, steps: int | None) -> int | None:
    """Checkpoints that a run saves; None if their number is not known."""
    strategy = str(getattr(config.save_strategy, "value", config.save_strategy))
    if strategy == "no":
        return 0
    if strategy == "epoch" and config.max_steps <= 0:
        return math.ceil(config.num_train_epochs)
    if strategy != "steps" or steps is None:
        return None
    every = config.save_steps if config.save_steps >= 1 else math.ceil(config.save_steps * steps)
    return math.ceil(steps / max(1, every))  # the last step too


def _size(count: int) -> str:
    """Bytes as disks are sold."""
    unit, name = next((one for one in ((10**12, "TB"), (10**9, "GB")) if count >= one[0]), (10**6, "MB"))
    return f"{count / unit:,.1f} {name}"

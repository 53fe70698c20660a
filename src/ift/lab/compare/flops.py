"""Counts the floating-point operations of training steps, on the first steps of each epoch."""

from typing import Any

from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback

from ift.check.flop_formulas import UNCOUNTED

COUNTED_STEPS = 4


class StepFlops(TrainerCallback):
    """Counts the first `COUNTED_STEPS` steps of each epoch; counting all would slow a training down.

    Attributes:
        counted: FLOPs of each step counted, by epoch.
        steps: Steps taken so far in each epoch.
    """

    def __init__(self) -> None:
        self.counted: list[list[int]] = []
        self.steps: list[int] = []
        self._counter: Any = None

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start a new count for the epoch."""
        self.counted.append([])
        self.steps.append(0)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start counting if this is one of the first steps of the epoch."""
        if len(self.counted[-1]) < COUNTED_STEPS:
            self._counter = FlopCounterMode(display=False, custom_mapping=UNCOUNTED)
            self._counter.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop counting."""
        self.steps[-1] += 1
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            self.counted[-1].append(self._counter.get_total_flops())
            self._counter = None

    @property
    def total(self) -> float:
        """FLOPs of all steps: for each epoch, its number of steps times the mean of its counted steps."""
        return sum(
            steps * sum(counted) / len(counted)
            for steps, counted in zip(self.steps, self.counted, strict=True)
            if counted
        )

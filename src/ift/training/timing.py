"""Measures the time of optimiser steps."""

from __future__ import annotations

import time
from typing import Any

from transformers import TrainerCallback


class StepClock(TrainerCallback):
    """Times optimiser steps; the first one, a warm-up, counts only if it is the only one."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Starts the clock."""
        self.ends = self.ends or [time.perf_counter()]

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Records the time."""
        self.ends.append(time.perf_counter())

    @property
    def total(self) -> float:
        """Seconds of all steps."""
        return self.ends[-1] - self.ends[0]

    @property
    def seconds(self) -> float:
        """Mean seconds of a step."""
        warm = self.ends[1:] if len(self.ends) > 2 else self.ends
        return (warm[-1] - warm[0]) / (len(warm) - 1)

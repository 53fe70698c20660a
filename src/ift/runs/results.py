"""Results of a run: one for each stage, and one for a sequence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ift.generation.after_training import FinalAnswers


@dataclass(frozen=True)
class StageResult:
    """One stage that was trained, saved and verified.

    Attributes:
        method: Its name in the table.
        folder: Folder of the saved model (or adapter).
        start: Model that the training started from.
        seconds: Time for loading, preparing, training and saving.
        steps: Optimiser steps taken, with those before the run was resumed.
        best: The step whose weights are saved and why, as text, if `load_best_model_at_end` has loaded them; else "".
        report: The `DataReport` of the training rows; None if they were not counted.
        history: All log entries, in order.
        read_back: How the saved model was verified; "" on all processes but the first.
        answers: Answers of the saved model to some rows; None if not requested.
        warnings: Warnings that answers may not stop, one line each; only for a supervised run (see `train_run`).
        resumed_at: The step of the checkpoint that the run was resumed from; 0 if it was not.
        training_seconds: Time of all steps, with those before the run was resumed, evaluations and checkpoints; None if
            it is not known.
    """

    method: str
    folder: Path
    start: str
    seconds: float
    steps: int
    report: Any
    history: tuple[dict[str, Any], ...]
    read_back: str = ""
    answers: FinalAnswers | None = None
    warnings: tuple[str, ...] = ()
    resumed_at: int = 0
    best: str = ""
    training_seconds: float | None = None


@dataclass(frozen=True)
class TrainResult:
    """The result of `train_method`.

    Attributes:
        method: The requested method or sequence.
        folder: Folder of the last stage: the trained model.
        stages: Results of the stages, in order.
    """

    method: str
    folder: Path
    stages: tuple[StageResult, ...]

    @property
    def seconds(self) -> float:
        """Time of all stages together."""
        return sum(stage.seconds for stage in self.stages)

"""The interface through which a trial trains and scores: on the testbed, or on the user's model and rows."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ift.lab.compare.plan import Entrant

SAMPLES = 12  # answers kept in a record
PROBE_STEPS = 3


@dataclass(frozen=True)
class Scored:
    """The scores of a model on the test splits, and its answers; see `ift.lab.report.RunRecord`."""

    scores: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    row_scores: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    answers: list[dict[str, Any]] = field(default_factory=list)  # lines of the study's file of answers
    error_steps: dict[str, list[int]] = field(default_factory=dict)


class TrialBackend(Protocol):
    """Trains and scores the contender ("entrant") of one task."""

    entrant: Entrant

    def train(self, folder: Path, attach: Any, **more: Any) -> Any:
        """Train with the task's seed and settings, and `more`, to a `TrainResult`; `attach` is given each trainer."""

    def config(self) -> dict[str, Any]:
        """Hyper-parameters as trained."""

    def train_data(self) -> Any:
        """`DataSplit` of the training rows."""

    def answers_seen(self, trained: Any) -> int:
        """Answers trained on, repeats included."""

    def probe(self, folder: Path) -> dict[str, float]:
        """Measure a short training of SFT and the scoring of a batch.

        Returns:
            Seconds of a step, of starting a training, of a scored validation row and of a scored test row; steps of a
            whole training; bytes of the weights; `timed_seconds`, those of all that was timed here.
        """

    def choose(self, folder: str) -> tuple[float, float]:
        """The validation score that settings are chosen by, and a second one for ties; greater is better."""

    def score(self, folder: str) -> Scored:
        """All scores on the test splits."""


def task_entrant(task: dict[str, Any]) -> Entrant:
    """The entrant of a task; SFT for one that names none (the first measurement)."""
    return Entrant(**task.get("entrant", {"method": "sft"}))

"""The interface through which a trial trains and scores, on the testbed or on the user's model and rows."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ift.lab.compare.plan import Entrant

SAMPLES = 12  # answers kept in a record
PROBE_STEPS = 3


@dataclass(frozen=True)
class Scored:
    """The scores of one model on the test splits, and its answers.

    The fields have the forms of the fields of the same name in `ift.lab.report.RunRecord`.
    """

    scores: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    row_scores: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    answers: list[dict[str, Any]] = field(default_factory=list)  # lines of the study's file of answers
    error_steps: dict[str, list[int]] = field(default_factory=dict)


class TrialBackend(Protocol):
    """Trains and scores the contender ("entrant") of one task."""

    entrant: Entrant

    def train(self, folder: Path, attach: Any, **more: Any) -> Any:
        """Train with the settings and the seed of the task.

        Args:
            folder: The output folder of the training.
            attach: Called with each trainer before it trains, to add callbacks.
            **more: Settings that replace those of the task.

        Returns:
            The `TrainResult` of the training.
        """

    def config(self) -> dict[str, Any]:
        """The hyperparameters as trained."""

    def train_data(self) -> Any:
        """The `DataSplit` of the training rows."""

    def answers_seen(self, trained: Any) -> int:
        """The number of answers trained on, counting repeats."""

    def probe(self, folder: Path) -> dict[str, float]:
        """Measure a short training of SFT and the scoring of one batch.

        Returns:
            The seconds of a step, of starting a training, and of scoring one validation row and one test row; the
            number of steps of a whole training; the size of the weights in bytes; and `timed_seconds`, the seconds of
            everything that was timed here.
        """

    def choose(self, folder: str) -> tuple[float, float]:
        """Return the validation score that selects settings, and a second score that breaks ties; higher is better."""

    def score(self, folder: str) -> Scored:
        """Compute all scores on the test splits."""


def task_entrant(task: dict[str, Any]) -> Entrant:
    """The entrant of a task; plain SFT if the task names none (the first measurement)."""
    return Entrant(**task.get("entrant", {"method": "sft"}))

"""What a trial needs of the place where it happens: the testbed, or rows of the user's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ift.lab.compare.plan import Entrant

SAMPLES = 12  # answers kept in a record


@dataclass(frozen=True)
class Scored:
    """What a model is worth on the test splits; the fields are those of `ift.lab.report.RunRecord`."""

    scores: dict[str, Any]
    data: dict[str, Any]
    samples: list[Any]
    error_steps: dict[str, list[int]]


class Ground(Protocol):
    """Where a trial takes place: the testbed, or rows of the user's own."""

    def train(self, task: dict[str, Any], entrant: Entrant, folder: Path, attach: Any) -> Any:
        """Train with the task's seed and settings; returns a `TrainResult`."""

    def config(self, task: dict[str, Any], entrant: Entrant) -> dict[str, Any]:
        """Hyper-parameters as trained."""

    def train_data(self, task: dict[str, Any], entrant: Entrant) -> Any:
        """`DataSplit` of the training rows."""

    def answers_seen(self, trained: Any) -> int:
        """Answers trained on, repeats included."""

    def choose(self, folder: str) -> tuple[float, float]:
        """The score on validation rows by which settings are chosen, and one for ties; greater is better."""

    def score(self, folder: str) -> Scored:
        """All scores on the test splits."""

"""Corrects the estimate of a study while it runs, by the times of its finished processes."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable

from ift.lab.compare.estimate import seconds_at_once, seconds_needed, span
from ift.lab.compare.plan import Entrant
from ift.lab.compare.study import Study, Task
from ift.lab.compare.study_args import time_flag

FEWEST = 2  # processes that have ended before anything is said
SLOWER = 1.25  # times as long as was said last


class Pace:
    """Reports that a study takes longer than estimated, with the remaining time.

    Args:
        study: The running study, with its measurement.
        say: Called with the line to show.
        began: The time at which the command began, by `time.monotonic`.
    """

    def __init__(self, study: Study, say: Callable[[str], object], began: float) -> None:
        self.study, self.say, self.began = study, say, began
        self.ended, self.took, self.estimated, self.said = 0, 0.0, 0.0, 1.0

    def timed(self, task: Task, seconds: float) -> None:
        """Count a finished process, with its seconds from launch to exit."""
        entrant = task.content.get("entrant")
        kind = {"base": "run"}.get(task.content["kind"], task.content["kind"])
        self.ended += 1
        self.took += seconds
        self.estimated += seconds_at_once(self.study, kind, Entrant(**entrant) if entrant else None)
        ratio, needed = self._ratio(), seconds_needed(self.study)
        if ratio > SLOWER * self.said and needed:
            self.said = ratio
            self.say(self._line(ratio, needed))

    def left(self) -> float:
        """The estimated remaining seconds."""
        return self._ratio() * seconds_needed(self.study)

    def _ratio(self) -> float:
        """Ratio of the measured to the estimated time of the finished processes; 1 while too few have finished."""
        enough = max(FEWEST, self.study.executor.at_once(self.study.jobs))
        return self.took / self.estimated if self.ended >= enough else 1.0

    def _line(self, ratio: float, needed: float) -> str:
        left = ratio * needed
        budget = (self.study.plan.time_budget or {}).get("seconds")
        over = 0 if budget is None else time.monotonic() - self.began + left - budget
        runs = shlex.quote(str(self.study.folder / "runs"))
        return (
            f"slower than estimated: the processes take {ratio:.1f} times as long, so about {span(left)} are left, not "
            f"{span(needed)}"
            + (
                f"; that is {span(over)} more than --budget {time_flag(budget)}"
                if budget and over > 0
                else ""
            )
            + ". Ctrl-C stops the study and keeps the finished runs: the same command resumes it, and "
            f"ift report {runs} --metric {self.study.plan.metric} shows them."
        )

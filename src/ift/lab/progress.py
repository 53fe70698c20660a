"""Progress of long work: a bar on a terminal, a line now and then in a log."""

import time
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)  # fmt: skip


class WorkProgress:
    """A context manager that shows how much of some work is done.

    Args:
        console: Where it is shown. On a terminal it is a bar that disappears at the end; elsewhere lines of text.
        total: Pieces of work; may be set later.
        seconds: Without a terminal, the least time between two lines.
    """

    def __init__(self, console: Console, total: int = 0, seconds: float = 30.0) -> None:
        self.console, self.total, self.seconds, self.done = console, total, seconds, 0
        self._began = self._shown = time.monotonic()
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        times = (TimeElapsedColumn(), TimeRemainingColumn())
        hidden = not console.is_terminal
        self._bar = Progress(*columns, *times, console=console, transient=True, disable=hidden)
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> "WorkProgress":
        self._bar.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.stop()

    def describe(self, text: str) -> None:
        """Name the current work, in front of the bar."""
        self._bar.update(self._task, description=text, total=self.total or None)

    def advance(self, text: str = "") -> None:
        """Count one piece of work; without a terminal `text` names it in the line."""
        self.done, now = self.done + 1, time.monotonic()
        self._bar.update(self._task, completed=self.done, total=self.total or None)
        if self._bar.disable and (now - self._shown >= self.seconds or self.done == self.total):
            self._shown, elapsed = now, timedelta(seconds=round(now - self._began))
            line = f"{self.done} of {self.total} done in {elapsed}  {text}".rstrip()
            self.console.print(line, markup=False, soft_wrap=True)

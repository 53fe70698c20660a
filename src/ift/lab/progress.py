"""Progress of long work: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class WorkProgress:
    """A context manager that shows how much of some work is done.

    Args:
        console: Where it is shown. On a terminal it is a bar that disappears at the end; elsewhere lines of text.
        total: Pieces of work; may be set later.
        seconds: Without a terminal, the least time between two lines.
    """

    def __init__(self, console: Console, total: int = 0, seconds: float = 30.0) -> None:
        self.console, self.total, self.seconds = console, total, seconds
        self.done, self._began, self._shown = 0, time.monotonic(), time.monotonic()
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> WorkProgress:
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
            )
            self._bar = Progress(*columns, TimeRemainingColumn(), console=self.console, transient=True)
            self._task = self._bar.add_task("", total=self.total or None)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def describe(self, text: str) -> None:
        """Name the current work, in front of the bar."""
        if self._bar is not None:
            self._bar.update(self._task, description=text, total=self.total or None)

    def advance(self, text: str = "") -> None:
        """Count one piece of work; without a terminal `text` names it in the line."""
        self.done += 1
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, total=self.total or None)
        elif now - self._shown >= self.seconds or self.done == self.total:
            self._shown = now
            elapsed = timedelta(seconds=round(now - self._began))
            self.console.print(
                f"{self.done} of {self.total} done in {elapsed}  {text}".rstrip(), markup=False
            )

"""Progress of long work: a bar on a terminal, a line now and then in a log."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from statistics import fmean
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)  # fmt: skip

BAR, BESIDE, SHORTEST = 20, 34, 10  # cells of the bar, of count, times and spaces, and of the shortest text
AT_ONCE = 1.0  # seconds: a piece that took less was finished by an earlier command


class WorkProgress:
    """A context manager that shows how much of some work is done.

    Args:
        console: Where it is shown. On a terminal it is a bar that disappears at the end; elsewhere lines of text.
        total: Pieces of work; may be set later.
        seconds: Without a terminal, the least time between two lines.

    Attributes:
        seconds_left: Estimates the time that is left, for the lines (0: not known); None: by the pieces so far.
    """

    seconds_left: Callable[[], float] | None = None

    def __init__(self, console: Console, total: int = 0, seconds: float = 30.0) -> None:
        self.console, self.total, self.seconds, self.done = console, total, seconds, 0
        self._began = self._shown = self._last = time.monotonic()
        self._times: list[float] = []  # of pieces that were computed
        columns = (TextColumn("{task.description}", markup=False), BarColumn(BAR), MofNCompleteColumn())
        times = (TimeElapsedColumn(), TimeRemainingColumn())
        hidden = not console.is_terminal
        self._bar = Progress(*columns, *times, console=console, transient=True, disable=hidden)
        self._task = self._bar.add_task("", total=None)
        self._groups: dict[str, TaskID] = {}

    def add_groups(self, totals: Mapping[str, int]) -> None:
        """Show groups of the work, on a terminal: a line each, with its pieces."""
        for name, total in totals.items():
            self._groups[name] = self._bar.add_task(self._short(name), total=total)

    def __enter__(self) -> "WorkProgress":
        self._bar.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Without the bar, so that a question can be asked."""
        self._bar.stop()
        yield
        self._bar.start()

    def describe(self, text: str) -> None:
        """Name the current work, in front of the bar."""
        self._bar.update(self._task, description=self._short(text), total=self.total or None)

    def _short(self, text: str) -> str:
        """The text, cut so that the bar, the count and the times beside it have their place."""
        most = max(SHORTEST, self.console.width - BAR - BESIDE)
        return text if cell_len(text) <= most else f"{set_cell_size(text, most - 1).rstrip()}…"

    def advance(self, text: str = "", group: str = "", count: int = 1) -> None:
        """Count `count` pieces of work, of a group if they are its; without a terminal `text` names them."""
        if not count:
            return
        self.done, now = self.done + count, time.monotonic()
        self._times += [(now - self._last) / count] * count if now - self._last >= AT_ONCE else []
        self._last = now
        self._bar.update(self._task, completed=self.done, total=self.total or None)
        if group in self._groups:
            self._bar.advance(self._groups[group], count)
        if self._bar.disable and (now - self._shown >= self.seconds or self.done == self.total):
            self._shown, elapsed = now, timedelta(seconds=round(now - self._began))
            line = f"{self.done} of {self.total} done in {elapsed}{self._left()}  {text}".rstrip()
            self.console.print(line, markup=False, soft_wrap=True)

    def _left(self) -> str:
        """The time that is left, for a line; "" where that is not known, or nothing is left."""
        if self.done >= self.total:
            return ""
        if self.seconds_left is not None:
            seconds = self.seconds_left()
        else:
            seconds = (self.total - self.done) * fmean(self._times) if self._times else 0
        return f", about {timedelta(seconds=round(seconds))} left" if seconds else ""

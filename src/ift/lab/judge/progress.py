"""Progress of requests: a bar in a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm.auto import tqdm

_LOG_EVERY_SECONDS = 30.0


@contextmanager
def progress(total: int, unit: str) -> Iterator[Callable[[], None]]:
    """Shows progress on standard error; call what is yielded after each unit.

    Args:
        total: Units; 0 shows nothing.
        unit: What is counted, in the plural.
    """
    began = shown = time.monotonic()
    done = 0
    terminal = sys.stderr.isatty()
    with tqdm(total=total, unit=f" {unit}", dynamic_ncols=True, disable=not (terminal and total)) as bar:

        def advance() -> None:
            nonlocal done, shown
            done, now = done + 1, time.monotonic()
            bar.update()
            if not terminal and (done == total or now - shown >= _LOG_EVERY_SECONDS):
                shown = now
                seconds = now - began
                print(f"{done:,} of {total:,} {unit}, {seconds:,.0f} s", file=sys.stderr, flush=True)

        yield advance

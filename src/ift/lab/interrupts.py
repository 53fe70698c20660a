"""Ctrl-C and `kill` where several processes or threads work: noted by their signals, acted on between two steps."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import TypeVar

T = TypeVar("T")
POLL_SECONDS = 0.1


@contextmanager
def noted_signals(*numbers: signal.Signals) -> Iterator[list[int]]:
    """While active, each of these signals is appended to the list that is yielded, and does nothing else.

    The caller looks into the list between two steps of its work. `KeyboardInterrupt` would come between any two
    instructions: after a process has started and before it is kept in a list of those to stop, or while a lock is held
    that other threads then wait for without end.

    A signal that came after the last look raises `KeyboardInterrupt` at the end, unless another exception ends the
    block. Signals that are ignored stay so. Outside the main thread, which alone receives signals, the list stays
    empty.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: received.append(number))
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        raise KeyboardInterrupt


def call_in_threads(
    calls: Sequence[Callable[[], T]],
    threads: int,
    collect: Callable[[T], object],
    stop: Callable[[], object],
) -> None:
    """Call each in one of so many threads; `collect` receives the results in this thread, in the order of their ends.

    At Ctrl-C, and at the first exception of a call or of `collect`, `stop` is called, calls that have not begun are
    left out, and those that have are waited for.

    Raises:
        KeyboardInterrupt: at Ctrl-C, after this; a second Ctrl-C ends the waiting.
    """
    ended = SimpleQueue[Future[T]]()
    with ThreadPoolExecutor(threads) as pool, noted_signals(signal.SIGINT) as received:
        waiting = [pool.submit(one) for one in calls]
        for one in waiting:
            one.add_done_callback(ended.put)
        left = len(waiting)
        try:
            while left:
                if received:
                    print("\nStopping: replies to requests that were sent are kept.", file=sys.stderr)
                    raise KeyboardInterrupt
                try:
                    done = ended.get(timeout=POLL_SECONDS)
                except Empty:
                    continue
                left -= 1
                collect(done.result())
        except BaseException:
            stop()
            for one in waiting:
                one.cancel()
            raise

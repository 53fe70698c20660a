"""Processes of a command's work, several at a time on this machine; `ift.lab.ray_tasks` runs them on a cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ift.lab.interrupts import noted_signals

POLL_SECONDS = 0.2
KILLED_BY: Mapping[int, str] = {  # signal -> what usually sends it
    signal.SIGKILL: "out of memory is the usual reason: give fewer --jobs, smaller batches or a smaller model",
    signal.SIGTERM: "somebody, or the scheduler of the machine, stopped it",
}


@dataclass(frozen=True)
class Job:
    """A process: this Python on a module of ift.

    Attributes:
        words: The module and its arguments, the command line after `python -m`.
        log: The file of its output.
        result: The file that it writes; None: its exit code says all.
        reads: Files and folders that it needs.
    """

    words: tuple[str, ...]
    log: Path
    result: Path | None = None
    reads: tuple[Path, ...] = ()


class Executor(Protocol):
    """Runs jobs. `jobs`: processes at the same time on this machine, which share its cores."""

    def run(
        self, work: Sequence[Job], jobs: int, started: Callable[[list[int]], object] = ...
    ) -> Generator[tuple[int, str | None], None, None]:
        """Yield the index of each job that has ended, and None or what went wrong: "failed with ...".

        Closing the iterator, as an exception in it, stops all that still run. `started` is called with the indices of
        the running jobs where they are known.
        """

    def at_once(self, jobs: int) -> int:
        """Processes that run at the same time."""

    def speed(self, jobs: int, on_devices: bool) -> float:
        """How much faster many processes end than one at a time with all cores, or one device, of this machine."""


class LocalProcesses:
    """Processes on this machine, each with its share of the cores and, of several CUDA devices, with one."""

    def run(
        self, work: Sequence[Job], jobs: int, started: Callable[[list[int]], object] = lambda places: None
    ) -> Generator[tuple[int, str | None], None, None]:
        """See `Executor.run`."""
        waiting, running = [*range(len(work))], dict[int, tuple[int, subprocess.Popen[bytes]]]()  # by slot
        with noted_signals(signal.SIGINT, signal.SIGTERM) as received:
            try:
                while waiting or running:
                    if received:
                        raise KeyboardInterrupt
                    while waiting and len(running) < jobs:
                        place = waiting.pop(0)
                        slot = min(set(range(jobs)) - running.keys())
                        running[slot] = (place, start(work[place], threads(jobs), slot))
                        started([one for one, _ in running.values()])
                    for slot, (place, process) in list(running.items()):
                        if process.poll() is not None:
                            del running[slot]
                            yield place, problem(work[place], process.returncode)
                    time.sleep(POLL_SECONDS if running else 0)
            finally:
                stop([process for _, process in running.values()], received)

    def at_once(self, jobs: int) -> int:
        """As many as were asked for."""
        return jobs

    def speed(self, jobs: int, on_devices: bool) -> float:
        """Processes on a CPU share its cores, so they save no time."""
        return jobs if on_devices else 1


def stop(processes: Sequence[subprocess.Popen[bytes]], received: Sequence[int]) -> None:
    """End processes and wait for their ends; a second Ctrl-C, noted in `received`, does not leave them time to save."""
    for process in processes:
        process.terminate()
    while any(process.poll() is None for process in processes):
        if received.count(signal.SIGINT) > 1:
            for process in processes:
                process.kill()
        time.sleep(POLL_SECONDS)


def threads(jobs: int) -> int:
    """Threads of each of so many processes: more than cores would slow each other down. OMP_NUM_THREADS is the most."""
    share = max(1, (os.cpu_count() or 1) // jobs)
    return min(share, int(os.environ.get("OMP_NUM_THREADS") or share))


def start(job: Job, cores: int, slot: int) -> subprocess.Popen[bytes]:
    """Start a job with so many threads, on the CUDA device of its slot."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(cores), **one_device(slot)}
    with job.log.open("wb") as output:
        return subprocess.Popen(  # nosec B603 # this Python on this package; no shell
            [sys.executable, "-m", *job.words], stdout=output, stderr=subprocess.STDOUT, env=environment
        )


def one_device(slot: int) -> dict[str, str]:
    """The environment that restricts a process to one of several CUDA devices; the Trainer would use all of them."""
    import torch

    count = torch.cuda.device_count()
    if count < 2:
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    return {"CUDA_VISIBLE_DEVICES": visible.split(",")[slot % count]}


def problem(job: Job, code: int) -> str | None:
    """What went wrong in a job that has ended: its exit code and the last line of its output; None: nothing."""
    if code == 0 and (job.result is None or job.result.exists()):
        return None
    output = job.log.read_text(errors="replace") if job.log.exists() else ""
    lines = [line for line in output.splitlines() if line.strip()]
    last = lines[-1] if lines else "no output"
    if code < 0:  # the last line of its output is of what it did before, not of why it ended
        cause = KILLED_BY.get(-code, "another program, the system or a fault in a library")
        return f"was killed by signal {-code} ({cause}); its last line was: {last}"
    return f"failed with exit code {code}: {last}"

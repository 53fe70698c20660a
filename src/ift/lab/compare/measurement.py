"""Makes the first measurement of a study: the seconds of steps, of scoring and of whole processes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean

from ift.lab.compare.estimate import on_devices
from ift.lab.compare.study import Study, Task
from ift.lab.processes import LocalProcesses
from ift.lab.report.json_files import write_json


def measure(
    study: Study,
    jobs: int | None,
    done: Callable[[Task], object],
    started: Callable[[list[str]], object] = lambda titles: None,
) -> None:
    """Run the measurements that have no result yet.

    Processes that share the cores of this machine slow each other down. The first measurement is therefore made by
    `jobs` processes at the same time (None: one), and their results are averaged. Each process is also timed from
    outside, from launch to exit. In `measured.json`, `at_once` is the number of processes, and `process_seconds` is the
    time that a process needs in addition to what it times itself: imports, loading the model and the rows, exit.

    Raises:
        StudyError: A process failed.
        KeyboardInterrupt: Raised again after the processes have been stopped.
    """
    first, *others = study.probe()
    if not first.result.exists():
        alike = _alike(first, jobs if jobs and shares_cores(study) else 1)
        for task in alike:
            task.result.unlink(missing_ok=True)  # of a command that was killed: nobody has timed it
        seconds: list[float] = []
        replace(study, jobs=len(alike)).perform(
            alike,
            lambda task: None,
            lambda titles: started([first.title]),
            lambda task, took: seconds.append(took),
        )
        write_json(first.result, _merged(alike, seconds))
        for task in alike:
            task.result.unlink()
    study.perform([first, *others], done, started)


def shares_cores(study: Study) -> bool:
    """Whether the processes of a study compute on the cores of this machine, not on devices or other machines."""
    return isinstance(study.executor, LocalProcesses) and not on_devices(study)


def _alike(first: Task, count: int) -> list[Task]:
    """Return `count` tasks that measure the same as `first`, each with its own result file."""
    found = []
    for number in range(1, count + 1):
        work = first.content["work"] + (f"-{number}" if number > 1 else "")
        result = f"{first.content['result']}-{number}"
        found.append(Task(first.title, {**first.content, "work": work, "result": result}))
    return found


def _merged(tasks: Sequence[Task], seconds: Sequence[float]) -> dict[str, float]:
    """Average the measurements of several processes; `seconds` are their whole durations."""
    found = [json.loads(task.result.read_text()) for task in tasks]
    means = {name: fmean(one[name] for one in found) for name in found[0]}
    inside = means.pop("timed_seconds")
    return {**means, "process_seconds": max(0.0, fmean(seconds) - inside), "at_once": len(tasks)}

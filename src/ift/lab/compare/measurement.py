"""The first measurement of a study: seconds of steps, scoring and whole processes, with `jobs` at the same time."""

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

    Processes that share the cores of this machine slow each other down: the first measurement is made by `jobs` of them
    at the same time (None: one), and what they found is averaged. It is timed from outside too, from launch to exit.
    `measured.json` has `at_once`, their number, and `process_seconds`, what a process takes beside what it times
    itself: imports, loading the model and the rows, exit.

    Raises:
        StudyError: a process failed.
        KeyboardInterrupt: after the processes are stopped.
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
    """Whether the processes of a study compute on the cores of this machine, and not on devices or other machines."""
    return isinstance(study.executor, LocalProcesses) and not on_devices(study)


def _alike(first: Task, count: int) -> list[Task]:
    """So many tasks that measure the same; none of them writes the result of `first`."""
    found = []
    for number in range(1, count + 1):
        work = first.content["work"] + (f"-{number}" if number > 1 else "")
        result = f"{first.content['result']}-{number}"
        found.append(Task(first.title, {**first.content, "work": work, "result": result}))
    return found


def _merged(tasks: Sequence[Task], seconds: Sequence[float]) -> dict[str, float]:
    """The means of what several processes measured, with what each of them took in all (in seconds)."""
    found = [json.loads(task.result.read_text()) for task in tasks]
    means = {name: fmean(one[name] for one in found) for name in found[0]}
    inside = means.pop("timed_seconds")
    return {**means, "process_seconds": max(0.0, fmean(seconds) - inside), "at_once": len(tasks)}

"""The first measurement is timed from outside its process, and corrected by the runs that follow it."""

import json
import subprocess
import sys
import time
from dataclasses import asdict, replace

import pytest

from ift.lab import processes
from ift.lab.compare.measurement import measure
from ift.lab.compare.pace import Pace
from ift.lab.compare.plan import Entrant, compare_plan
from ift.lab.compare.study import Study, Task
from ift.lab.testbed import tiny_base_path

INSIDE = {
    "step_seconds": 1.0, "steps": 30, "start_seconds": 10.0, "validation_row_seconds": 0.0, "test_row_seconds": 0.0,
    "peak_memory_bytes": 1, "weight_bytes": 1,
}  # fmt: skip


@pytest.fixture
def study(tmp_path):
    found = Study(
        compare_plan("arithmetic-small-clean", ["sft"], 2, 1, False),
        tmp_path / "study",
        tiny_base_path(),
        1,
        [],
    )
    found.open()
    return found


@pytest.fixture
def launched(monkeypatch):
    """Processes that take half a second and time a tenth of it themselves; returns the threads of each."""
    cores = []
    writes = (
        "import json, sys, time; time.sleep(0.5); task = json.load(open(sys.argv[1]));"
        f"json.dump({INSIDE | {'timed_seconds': 0.1}!r}, open(task['result'], 'w'))"
    )

    def start(job, threads, slot):
        cores.append(threads)
        return subprocess.Popen([sys.executable, "-c", writes, job.words[1]])

    monkeypatch.setattr(processes, "start", start)
    return cores


@pytest.mark.parametrize(("jobs", "count"), [(None, 1), (1, 1), (2, 2)])
def test_the_first_measurement_is_timed_from_launch_to_exit_with_as_many_as_will_run(
    study, launched, monkeypatch, jobs, count
):
    """Red when: imports, loading and the exit, which the process does not time itself, do not count."""
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    done, titles = [], []
    left = study.folder / "measured.json-1"  # of a command that was killed
    left.write_text(json.dumps(INSIDE | {"timed_seconds": 1e9}))
    measure(study, jobs, lambda task: done.append(task.title), titles.append)
    found = study.measured()
    assert found["at_once"] == count
    assert found["process_seconds"] >= 0.4
    assert {name: found[name] for name in INSIDE} == INSIDE
    assert done == ["a first measurement"]
    assert titles == [["a first measurement"]] * count
    assert launched == [4 // count] * count
    assert not [*study.folder.glob("measured.json-*")]
    measure(study, jobs, done.append)
    assert len(launched) == count


def run_of(study, seed=0):
    return next(task for task in study.runs() if task.title == f"sft, seed {seed}")


def test_a_study_that_is_slower_than_estimated_says_what_is_left(study):
    """SFT takes 40 s by the measurement; two of the three processes take 80, so the last takes 80 too."""
    study.probe()[0].result.write_text(json.dumps(INSIDE | {"process_seconds": 0.0, "at_once": 1}))
    study = replace(study, plan=replace(study.plan, seeds=3, time_budget={"seconds": 120.0}))
    lines = []
    pace = Pace(study, lines.append, time.monotonic() - 105)
    assert pace.left() == pytest.approx(120)
    for seed in (0, 1):
        run_of(study, seed).result.write_text("{}")
        pace.timed(run_of(study, seed), 80.0)
        assert len(lines) == seed  # one process alone says nothing
    assert pace.left() == pytest.approx(80)
    (line,) = lines
    assert line.startswith(
        "slower than estimated: the processes take 2.0 times as long, so about 80 seconds are left, not 40 seconds; "
        "that is 70 seconds more than --budget 2m. Ctrl-C stops the study and keeps the finished runs: "
    )
    assert f"ift report {study.folder / 'runs'} --metric exact_match shows them." in line
    pace.timed(run_of(study, 1), 80.0)
    assert len(lines) == 1  # said once


@pytest.mark.parametrize(("seconds", "said"), [(45.0, False), (55.0, True)])
def test_a_small_delay_is_not_worth_a_line(study, seconds, said):
    study.probe()[0].result.write_text(json.dumps(INSIDE))
    lines = []
    pace = Pace(study, lines.append, time.monotonic())
    pace.timed(run_of(study), seconds)
    pace.timed(run_of(study), seconds)
    assert bool(lines) == said
    assert "--budget" not in "".join(lines)


def test_several_processes_that_share_the_cores_are_expected_to_take_longer(study):
    """Of one measured alone, two at the same time take twice as long each; of two measured so, as measured."""
    lines = []
    for at_once, seconds in ((1, 80.0), (2, 40.0)):
        study.probe()[0].result.write_text(json.dumps(INSIDE | {"at_once": at_once}))
        pace = Pace(replace(study, jobs=2), lines.append, time.monotonic())
        search = Task("", {"kind": "search", "entrant": asdict(Entrant("sft"))})
        pace.timed(search, seconds)
        pace.timed(search, seconds)
    assert lines == []
    pace.timed(search, 3 * seconds)
    assert len(lines) == 1

"""Processes of a run and the launcher that started them."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from ift.runs import launch

# the launcher starts a process as ift does, says its number, and waits; loading torch takes the most time
LAUNCHER = """
import subprocess, sys
work = "import time; from ift.runs.parent_process import stop_with_parent; stop_with_parent(); print(1, flush=True); "
child = subprocess.Popen([sys.executable, "-c", work + "time.sleep(600)"], stdout=subprocess.PIPE, text=True)
child.stdout.readline()
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a process is told of its parent's end on Linux alone")
def test_a_killed_launcher_stops_its_processes():
    """Red when: they compute on, beside those of the repeated command."""
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER], stdout=subprocess.PIPE, text=True)
    worker = psutil.Process(int(launcher.stdout.readline()))
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.communicate(timeout=60)
    began = time.monotonic()
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() - began < 60, "the process computes on"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("name", "said"),
    [("zero2", "(gloo); zero2 needs an accelerator and is not used here"), ("ddp", "data-parallel (gloo)\n")],
)
def test_an_engine_that_a_cpu_does_not_have_is_named(monkeypatch, capsys, name, said):
    monkeypatch.setattr("torch.distributed.run.run", lambda arguments: None)
    flags = ["--accelerate_config", name, "--num_processes", "2"]
    assert launch.launch(flags, "ift.cli.main", ["train"], use_cpu=True) == 0
    assert said in capsys.readouterr().out

"""`--ray` on a cluster of two nodes, which are two sets of Ray's processes on this machine."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ift.lab.testbed import problems, tiny_base_path

pytestmark = pytest.mark.slow

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")

STUDY = ["compare", "--methods", "sft", "--seeds", "2", "--learning_rates", "1e-3", "--max_steps", "2"]
# of a record: when, how long, with which command, and the memory of a process
DIFFER = {"seconds", "peak_memory_bytes", "created", "command"}
MINUTES = 60.0


@pytest.fixture
def cluster(monkeypatch):
    """A head node with one CPU; `add_node` adds others."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    node = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def start(tmp_path):
    """Starts `ift` in a folder with rows and prompts; what is left of it is killed."""
    rows = [problem.row for problem in problems("train", 40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    started = []

    def start(*words):
        command = [sys.executable, "-m", "ift.cli.main", *map(str, words)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        output = (tmp_path / "output.txt").open("w")
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            # a job in the background ignores Ctrl-C, and its processes inherit that
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()


def until(found, minutes=8):
    """Wait until `found()` is true, and return it."""
    end = time.monotonic() + minutes * MINUTES
    while not (value := found()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return value


def finish(process, folder, code=0):
    assert process.wait(8 * MINUTES) == code, (folder / "output.txt").read_text()
    return (folder / "output.txt").read_text()


def trials(node):
    """The processes of trials on a node: children of the workers of its raylet."""
    (raylet,) = node.all_processes["raylet"]
    below = psutil.Process(raylet.process.pid).children(recursive=True)
    found = []
    for one in below:
        try:
            if "ift.lab.compare.trial" in one.cmdline():
                found.append(one)
        except psutil.NoSuchProcess:
            continue
    return found


def content(folder):
    """Records and answers of a study, without what differs between any two runs."""

    def kept(value):
        if isinstance(value, dict):
            return {key: kept(one) for key, one in value.items() if key not in DIFFER}
        return [kept(one) for one in value] if isinstance(value, list) else value

    found = {one.name: one.read_text() for one in (folder / "answers").iterdir()}
    return found | {one.name: kept(json.loads(one.read_text())) for one in (folder / "runs").glob("*.json")}


def test_a_study_survives_ctrl_c_and_the_loss_of_a_node(cluster, start, tmp_path):
    """Stopped in the first measurement, begun again, and a node killed in a trial: the records of a study without Ray.

    Red when: a stopped trial runs on, what is finished is run again, or a lost trial is not.
    """
    rows = ["--model_name_or_path", tiny_base_path(), "--dataset_name", "rows.jsonl"]
    finish(start(*STUDY, *rows, "--output_dir", "plain", "--jobs", "2"), tmp_path)
    study, words = tmp_path / "study", [*STUDY, *rows, "--output_dir", "study", "--ray", cluster.address]

    stopped = start(*words)
    (measuring,) = until(lambda: trials(cluster.head_node))
    stopped.send_signal(signal.SIGINT)
    assert "repeat the command to resume" in finish(stopped, tmp_path, 130)
    assert not measuring.is_running()
    assert not [*study.glob("runs/*")]

    node = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    resumed = start(*words)
    (lost,) = until(
        lambda: [one for one in trials(node) if one.cmdline()[-1] != "study/logs/measured.task.json"]
    )
    result = Path(json.loads((tmp_path / lost.cmdline()[-1]).read_text())["result"])
    cluster.remove_node(node, allow_graceful=False)
    assert not (tmp_path / result).exists()
    finish(resumed, tmp_path)
    assert not lost.is_running()
    assert (tmp_path / result).exists()
    assert content(study) == content(tmp_path / "plain")

    written = {one: one.stat().st_mtime_ns for one in study.glob("runs/*")}
    finish(start(*words), tmp_path)
    assert {one: one.stat().st_mtime_ns for one in study.glob("runs/*")} == written


def test_parts_of_the_prompts_on_an_own_ray(start, tmp_path):
    """The file of one process, and nothing else is left."""
    (tmp_path / "asked").mkdir()
    prompts = [{"prompt": "Tom has 3 apples. " * number} for number in (3, 1, 2, 1)]
    (tmp_path / "asked" / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    words = ("generate", tiny_base_path(), "asked/prompts.jsonl", "--max_new_tokens", 6, "--batch_size", 1)
    finish(start(*words, "--output", "plain.jsonl"), tmp_path)
    said = finish(start(*words, "--output", "asked/answers.jsonl", "--ray"), tmp_path)
    assert "4 answers to 4 prompts" in said
    assert (tmp_path / "asked" / "answers.jsonl").read_text() == (tmp_path / "plain.jsonl").read_text()
    assert sorted(one.name for one in (tmp_path / "asked").iterdir()) == ["answers.jsonl", "prompts.jsonl"]

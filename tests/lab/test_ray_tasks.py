"""`--ray` without Ray: its flag, what is asked of a cluster, and the processes that a task runs."""

import json
import os
import socket
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import ift.lab.ray_tasks
from ift.cli.compare import parse
from ift.cli.main import app
from ift.cli.ray_option import fill_address
from ift.lab.generate import generate
from ift.lab.processes import Job
from ift.lab.ray_tasks import PASSED, RayTasks, check_ray, places, ray_tasks, resources, run_process
from ift.lab.testbed import tiny_base_path
from ift.models.loading import LoadOptions
from ift.runs.argv import UsageError

MISSING = "--ray: ray is missing. Fix: pip install 'intuitive-fine-tuning[ray]'"


@pytest.mark.parametrize(
    ("words", "address"),
    [
        ([], None),
        (["--ray"], "local"),
        (["--ray", "--seeds", "3"], "local"),
        (["--ray", "auto", "--jobs", "3"], "auto"),
        (["--ray=10.0.0.1:6379"], "10.0.0.1:6379"),
    ],
)
def test_the_address_may_be_left_out(words, address, monkeypatch):
    monkeypatch.setattr(ift.lab.ray_tasks, "missing_extra", lambda *names: None)
    for verb in ("compare", "ablate"):
        args, rest = parse(verb, words)
        assert (args.ray, rest) == (address, [])


def test_typer_verbs_take_it_too():
    assert fill_address(["a", "b", "--ray"]) == ["a", "b", "--ray", "local"]
    assert fill_address(["--ray", "--limit", "3"]) == ["--ray", "local", "--limit", "3"]
    assert fill_address(["--ray", "auto", "a"]) == ["--ray", "auto", "a"]
    assert fill_address(["--ray=auto", "a"]) == ["--ray=auto", "a"]


@pytest.mark.parametrize(
    "words",
    [
        ["compare", "--ray"],
        ["ablate", "--ray", "auto"],
        ["evaluate", str(tiny_base_path()), "--ray"],
        ["generate", str(tiny_base_path()), "prompts.jsonl", "--ray"],
    ],
)
def test_the_missing_package_is_named_with_its_command(words, monkeypatch, tmp_path):
    """Red when: something is written or loaded first."""
    real = ift.lab.ray_tasks.missing_extra
    monkeypatch.setattr(
        ift.lab.ray_tasks, "missing_extra", lambda extra, name: real(extra, "no_such_package")
    )
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert MISSING.replace("ray is", "no_such_package is") in done.output
    assert [*tmp_path.iterdir()] == []
    check_ray(None)


def test_an_address_where_nothing_answers_is_refused_at_once(monkeypatch):
    """A port that was just free. Red when: the address is left to Ray, which would try for many minutes."""
    monkeypatch.setitem(
        sys.modules, "ray", SimpleNamespace(init=lambda **given: pytest.fail("Ray was asked"))
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    said = f"--ray 127.0.0.1:{port}: no cluster answers there .*ray start --head"
    with pytest.raises(UsageError, match=said), ray_tasks(f"127.0.0.1:{port}"):
        pass
    with ray_tasks(None) as executor:
        assert executor is None


def test_a_server_needs_no_ray(monkeypatch):
    monkeypatch.setattr(ift.lab.ray_tasks, "missing_extra", lambda *names: None)
    words = ["generate", "model", "prompts.jsonl", "--endpoint", "http://localhost:1/v1", "--ray"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    assert "leave out --ray" in done.output


def test_what_a_task_asks_for_and_how_many_fit():
    """CPUs as far as a node has them; a GPU where there is one, with at most its share of the node's CPUs."""
    small, large = {"CPU": 4.0, "memory": 1e9}, {"CPU": 16.0, "memory": 1e9}
    assert resources([small, large], 8) == {"CPU": 8}
    assert resources([small, small], 8) == {"CPU": 4}
    assert resources([{"memory": 1e9}], 8) == {"CPU": 1}
    assert places([small, large], {"CPU": 3}) == 1 + 5
    gpus = {"CPU": 16.0, "GPU": 4.0}
    assert resources([small, gpus], 8) == {"GPU": 1, "CPU": 4}
    assert resources([gpus], 2) == {"GPU": 1, "CPU": 2}
    assert places([small, gpus], {"GPU": 1, "CPU": 4}) == 4


class FakeRay:
    """Runs a task where it is waited for; keeps what was asked."""

    exceptions = SimpleNamespace(RayError=ZeroDivisionError)
    cloudpickle = SimpleNamespace(register_pickle_by_value=lambda module: None)

    def __init__(self, *nodes):
        self.given, self.options, self.pending, self.cancelled = nodes, [], [], []

    def nodes(self):
        lost = {"Alive": False, "Resources": {"CPU": 99.0, "GPU": 9.0}}
        return [lost, *({"Alive": True, "Resources": node} for node in self.given)]

    def remote(self, **options):
        self.options.append(options)
        return lambda function: SimpleNamespace(remote=lambda *given: self._add(function, given))

    def _add(self, function, given):
        self.pending.append((function, given))
        return len(self.pending) - 1

    def wait(self, references, num_returns, timeout=None):
        return references[:1], references[1:]

    def get(self, reference):
        function, given = self.pending[reference]
        return function(*given)

    def cancel(self, reference):
        self.cancelled.append(reference)


def python(folder, name, code):
    """A job whose module is a file of the folder, which is the working directory."""
    (folder / f"{name}.py").write_text(code)
    return Job((name,), Path(f"{name}.log"), Path(f"{name}.json"))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in PASSED:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_tasks_are_given_to_ray_and_their_ends_come_back(here, monkeypatch):
    """Red when: a task asks for other CPUs than its threads, a failure is lost, or the environment does not arrive."""
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    writes = "import os; open('good.json', 'w').write(os.environ['OMP_NUM_THREADS'] + os.environ['HF_HUB_OFFLINE'])"
    work = [python(here, "good", writes), python(here, "bad", "import sys; sys.exit('no room on the disk')")]
    ray = FakeRay({"CPU": 8.0})
    tasks = RayTasks(ray)
    assert dict(tasks.run(work, 2)) == {0: None, 1: "failed with exit code 1: no room on the disk"}
    assert (here / "good.json").read_text() == "31"
    assert ray.options == [{"num_cpus": 3, "num_gpus": 0, "max_retries": 3}]
    assert (tasks.at_once(2), tasks.speed(2, False)) == (2, 1.0)
    assert not ray.cancelled
    on_gpus = RayTasks(FakeRay({"CPU": 8.0, "GPU": 4.0}, {"CPU": 8.0, "GPU": 4.0}))
    assert (on_gpus.at_once(2), on_gpus.speed(2, False)) == (8, 8)
    assert RayTasks(FakeRay(*3 * [{"CPU": 8.0}])).speed(2, False) == 3 * 2 * 3 / 8


def test_a_study_whose_gpu_nodes_are_lost_does_not_go_on_on_cpus(here):
    ray = FakeRay({"CPU": 8.0}, {"CPU": 8.0, "GPU": 1.0})
    tasks = RayTasks(ray)
    ray.given = ray.given[:1]
    assert dict(tasks.run([python(here, "job", "open('job.json', 'w')")], 1)) == {0: None}
    assert ray.options[0]["num_gpus"] == 1
    assert tasks.at_once(1) == 1


def test_jobs_are_the_most_at_the_same_time_and_closing_cancels(here):
    ray = FakeRay({"CPU": 8.0})
    work = [python(here, f"job{number}", f"open('job{number}.json', 'w')") for number in range(4)]
    tasks = RayTasks(ray, limit=2)
    ended = tasks.run(work, 1)
    assert next(ended) == (0, None)
    assert len(ray.pending) == 2
    ended.close()
    assert ray.cancelled == [1]
    assert tasks.at_once(8) <= 2


def test_a_lost_task_is_a_failure(here):
    """What Ray raises when it gives up; the fake's `RayError` is any exception class."""
    ray = FakeRay({"CPU": 1.0})
    ray.get = lambda reference: 1 / 0
    (ended,) = RayTasks(ray).run([python(here, "job", "")], 1)
    assert ended == (0, "failed on the cluster, after 3 repetitions: division by zero")


def test_a_result_that_is_seen_late_is_waited_for(here, monkeypatch):
    job = python(here, "job", "")
    monkeypatch.setattr(time, "sleep", lambda seconds: (here / "job.json").touch())
    ray = FakeRay({"CPU": 1.0})
    ray.get = lambda reference: 0
    assert [*RayTasks(ray).run([job], 1)] == [(0, None)]


def test_what_a_node_lacks_is_named(tmp_path):
    """Red when: a process is started without its files, or the message does not say what and where."""
    said = run_process(["json"], "logs/a.log", [], str(tmp_path), {})
    assert f"which has no {tmp_path}/logs: the working directory, --output_dir, the model's folder" in said
    assert "at the same path on every node" in said
    said = run_process(["json"], "a.log", ["model"], str(tmp_path), {})
    assert f"which has no {tmp_path}/model:" in said
    assert run_process(["json"], "a.log", [], str(tmp_path / "none"), {}).startswith("failed on node ")
    assert [*tmp_path.iterdir()] == []


class Inline:
    """An executor that runs every job here; with `fails`, the last one fails and is not run."""

    def __init__(self, main, fails=False):
        self.main, self.fails, self.done = main, fails, []

    def run(self, work, jobs, started=None):
        for place, job in enumerate(work):
            if self.fails and place == len(work) - 1:
                job.log.write_text("out of memory\n")
                yield place, "failed with exit code 1: out of memory"
            assert all(one.exists() for one in job.reads)
            self.done.append(job)
            yield place, self.main(job.words[1])

    def at_once(self, jobs):
        return 2


@pytest.fixture
def prompts(tmp_path):
    """Five prompts of different lengths, one of two turns, with a batch of one at the end."""
    path = tmp_path / "prompts.jsonl"
    rows = [{"Frage": "Tom has 3 apples. " * number} for number in (3, 1, 2, 1)] + [
        {"turns": ["1 + 1?", "And 2?"]}
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def answered(prompts, name, executor=None):
    from ift.generation.answers import Settings

    out = prompts.with_name(name)
    given = (str(tiny_base_path()), str(prompts), str(out), None, Settings(max_new_tokens=6))
    lines = generate(*given, 2, None, None, LoadOptions(), executor=executor, columns={"Frage": "prompt"})
    return out.read_text(), lines[0]


def test_parts_of_the_prompts_give_the_same_file(prompts):
    """Two parts of five prompts in batches of two; the second command of a failed one answers what is missing."""
    from ift.generation.errors import EvaluationError
    from ift.lab.local_answers import main

    plain = answered(prompts, "plain.jsonl")
    fails = Inline(main, fails=True)
    with pytest.raises(
        EvaluationError, match=r"part 2 of the prompts failed with exit code 1: out of memory\n.*log"
    ):
        answered(prompts, "parts.jsonl", fails)
    assert len(fails.done) == 1
    again = Inline(main)
    assert answered(prompts, "parts.jsonl", again) == plain
    assert len(again.done) == 1
    assert sorted(one.name for one in prompts.parent.iterdir()) == [
        "parts.jsonl",
        "plain.jsonl",
        "prompts.jsonl",
    ]

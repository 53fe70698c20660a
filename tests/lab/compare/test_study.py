"""A study resumes, names what failed, mixes nothing up, and its records are what was trained."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from small_records import comparison, write
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

import ift.lab.compare.plan
from ift.cli.compare import parse
from ift.cli.main import app
from ift.lab import processes
from ift.lab.compare import trial
from ift.lab.compare.flops import COUNTED_STEPS, UNCOUNTED, StepFlops
from ift.lab.compare.plan import Entrant, Plan, compare_plan
from ift.lab.compare.run_study import _chosen, _label, _score, _work, report_study
from ift.lab.compare.study import Study, StudyError
from ift.lab.report import Trial, load
from ift.lab.report.chosen import best
from ift.lab.testbed import tiny_base_path

PLAN = compare_plan("arithmetic-small-clean", ["sft", "sft+dpo"], 2, 2, fairer=False)
WRITES = (
    "import json, sys; task = json.load(open(sys.argv[1]));"
    "json.dump({'config': task['chosen'], 'score': 0.5}, open(task['result'], 'w'))"
)


@pytest.fixture
def study(tmp_path):
    found = Study(PLAN, tmp_path / "study", tiny_base_path(), 2, ["compare"])
    found.open()
    return found


@pytest.fixture
def faked(monkeypatch):
    """Processes that only write a score; returns the names of their logs."""
    started = []

    def start(job, cores, slot):
        started.append(job.log.stem)
        return subprocess.Popen([sys.executable, "-c", WRITES, job.words[1]])

    monkeypatch.setattr(processes, "start", start)
    return started


def test_a_study_resumes(study, faked):
    done = []
    study.perform(study.searches(sequences=False), lambda task: done.append(task.title))
    assert sorted(done) == ["search sft learning_rate=0.0001", "search sft learning_rate=0.0003"]
    assert sorted(faked) == sorted(study._log(task).stem for task in study.searches(sequences=False))
    study.searches(sequences=False)[0].result.unlink()
    study.perform(study.searches(sequences=False), done.append)
    assert len(faked) == 3
    study.perform(study.searches(sequences=True), done.append)
    runs = study.runs()
    assert len(runs) == 1 + 2 * 2
    study.perform(runs, done.append)
    assert len(faked) == 3 + 2 + 5
    assert not (study.folder / "work").exists()


def test_a_run_takes_the_best_of_its_search_and_the_first_stages_best(study):
    """Scores by hand: sft 0.2 and 0.7 (rate 3e-4 wins); sft+dpo 0.9 and 0.9 (the first wins)."""

    def write(tasks, scores):
        for task, score in zip(tasks, scores, strict=True):
            task.result.write_text(json.dumps({"config": task.content["chosen"], "score": score}))

    write(study.searches(sequences=False), [0.2, 0.7])
    sequences = study.searches(sequences=True)
    assert all(task.content["first"] == {"learning_rate": 3e-4} for task in sequences)
    write(sequences, [0.9, 0.9])
    assert [line.partition(" was")[0] for line in _chosen(study)] == [
        "sft: learning rate 0.0003", "sft+dpo: learning rate 3e-05, beta 0.1",
    ]  # fmt: skip
    chosen = {task.title: (task.content["chosen"], task.content["first"]) for task in study.runs()}
    assert chosen["sft, seed 1"] == ({"learning_rate": 3e-4}, {})
    first = Entrant("sft+dpo").candidates(1)[0]
    assert chosen["sft+dpo, seed 0"] == (first, {"learning_rate": 3e-4})
    assert best([Trial({"a": 1}, 0.5), Trial({"b": 1}, 0.5)]).config == {"a": 1}


def test_without_a_search_runs_take_the_only_candidate(tmp_path):
    """DPO's first candidate, and SFT's as the first stage of the sequence; nothing has to be read from `search/`."""
    plan = compare_plan("arithmetic-small-clean", ["sft", "sft+dpo"], 2, 1, fairer=False)
    study = Study(plan, tmp_path / "study", tiny_base_path(), 2, ["compare"])
    study.open()
    assert study.searches(sequences=False) == study.searches(sequences=True) == []
    chosen = {task.title: task.content for task in study.runs()}
    last = chosen["sft+dpo, seed 1"]
    assert (last["chosen"], last["first"], last["tried"]) == (
        {"2.learning_rate": 3e-5, "2.beta": 0.1}, {"learning_rate": 1e-4}, []
    )  # fmt: skip


def test_a_failure_is_named_and_the_others_are_stopped(study, monkeypatch):
    begun = []

    def start(job, cores, slot):
        fails = json.loads(Path(job.words[1]).read_text())["chosen"]["learning_rate"] == 1e-4
        code = "import sys; sys.exit('no room on the disk')" if fails else "import time; time.sleep(60)"
        log = job.log.open("wb")
        begun.append(subprocess.Popen([sys.executable, "-c", code], stderr=log))
        return begun[-1]

    monkeypatch.setattr(processes, "start", start)
    said = r"learning_rate=0.0001 failed with exit code 1: no room on the disk\n.*repeat the command"
    with pytest.raises(StudyError, match=said):
        study.perform(study.searches(sequences=False), lambda task: None)
    assert len(begun) == 2
    assert all(process.poll() is not None for process in begun)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (
            9,
            r"was killed by signal 9 \(out of memory is the usual reason: give fewer --jobs.*last line was: step 3",
        ),
        (15, r"was killed by signal 15 \(somebody, or the scheduler"),
        (6, r"was killed by signal 6 \(another program"),
    ],
)
def test_a_process_that_a_signal_ended_is_not_the_methods_failure(study, monkeypatch, number, said):
    def start(job, cores, slot):
        code = f"import os; print('step 3', flush=True); os.kill(os.getpid(), {number})"
        return subprocess.Popen([sys.executable, "-c", code], stdout=job.log.open("wb"))

    monkeypatch.setattr(processes, "start", start)
    with pytest.raises(StudyError, match=said):
        study.perform(study.searches(sequences=False)[:1], lambda task: None)


def test_kill_stops_the_processes_of_a_study_as_ctrl_c_does(study, monkeypatch):
    """Red when: `kill` ends the command at once, and its trainings compute on without it."""
    begun = []

    def start(job, cores, slot):
        begun.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
        return begun[-1]

    monkeypatch.setattr(processes, "start", start)
    before = signal.getsignal(signal.SIGTERM)

    def kill(titles):
        if len(titles) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        study.perform(study.searches(sequences=False), lambda task: None, kill)
    assert len(begun) == 2
    assert all(process.poll() == -signal.SIGTERM for process in begun)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_process_that_starts_as_the_signal_comes_is_stopped_too(study, monkeypatch):
    """Red when: the exception comes after a process has started and before it is kept among those to stop."""
    begun = []

    def start(job, cores, slot):
        begun.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
        signal.raise_signal(signal.SIGTERM)
        return begun[-1]

    monkeypatch.setattr(processes, "start", start)
    with pytest.raises(KeyboardInterrupt):
        study.perform(study.searches(sequences=False), lambda task: None)
    assert begun
    assert all(process.poll() == -signal.SIGTERM for process in begun)


def test_a_second_ctrl_c_ends_processes_that_take_their_time(study, monkeypatch):
    slow = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
    begun = []

    def start(job, cores, slot):
        begun.append(subprocess.Popen([sys.executable, "-c", slow], stdout=subprocess.PIPE))
        begun[-1].stdout.readline()
        return begun[-1]

    def interrupt(titles):
        if len(titles) == 2:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(processes, "start", start)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            study.perform(study.searches(sequences=False), lambda task: None, interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    assert [process.wait(10) for process in begun] == [-signal.SIGKILL] * 2
    for process in begun:
        process.stdout.close()


def test_counted_flops_are_those_of_the_steps():
    """By hand: a step of y = W x, W 3x5, with 7 rows: 2*3*5*7 forward, the same again for the gradient of W.

    The second epoch is of fewer steps than are counted, and of half the rows: no epoch stands for another.
    """
    counter, layer = StepFlops(), torch.nn.Linear(5, 3, bias=False)
    for rows, steps in ((14, COUNTED_STEPS + 2), (7, COUNTED_STEPS - 1)):
        counter.on_epoch_begin(None, None, None)
        for _ in range(steps):
            counter.on_step_begin(None, None, None)
            layer(torch.ones(rows, 5)).sum().backward()
            counter.on_step_end(None, None, None)
    one = 2 * 2 * 3 * 5 * 7
    assert counter.counted == [[2 * one] * COUNTED_STEPS, [one] * (COUNTED_STEPS - 1)]
    assert counter.total == (COUNTED_STEPS + 2) * 2 * one + (COUNTED_STEPS - 1) * one


def test_the_heads_products_on_cuda_are_counted():
    """`addmm` with an output dtype, as the head calls it there, (7, 5) @ (5, 3): 2*3*5*7, as without."""
    a, b, total = torch.ones(7, 5), torch.ones(5, 3), torch.zeros(7, 3)
    with FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as counter:
        torch.addmm(total, a, b)
        total.addmm_(a, b)
    assert counter.get_total_flops() == 2 * 2 * 3 * 5 * 7
    counted = counter.flop_registry[torch.ops.aten.addmm](total, a, b, torch.float32, out_val=total)
    assert counted == 2 * 3 * 5 * 7


@pytest.mark.parametrize("name", ["flash", "efficient", "cudnn"])
def test_grouped_queries_on_cuda_are_counted(name):
    """4 query heads on 2 of keys, 3 rows, 5 queries, 7 keys, width 8: two products forward, five backward."""
    registry = FlopCounterMode(display=False, custom_mapping=UNCOUNTED).flop_registry
    query, key = torch.ones(3, 4, 5, 8), torch.ones(3, 2, 7, 8)
    forward = getattr(torch.ops.aten, f"_scaled_dot_product_{name}_attention")
    backward = getattr(torch.ops.aten, f"_scaled_dot_product_{name}_attention_backward")
    product = 2 * 3 * 4 * 5 * 7 * 8
    assert registry[forward](query, key, key, out_val=query) == 2 * product
    assert registry[backward](query, query, key, key, out_val=query) == 5 * product


@pytest.fixture
def task(tmp_path, monkeypatch):
    """A task of the smallest size: two steps of 16 rows, 12 problems to score."""
    monkeypatch.setattr(ift.lab.compare.plan, "PASSES", 0.08)
    entrant = Entrant("ift", "lambda 0.4", {"residual_lambda": 0.4}, "ift")
    plan = Plan("ablate", "arithmetic-small-clean", (entrant,), 2, 1, validation_rows=8, test_rows=12)
    tried = [{"config": {"learning_rate": 1e-4}, "score": 0.5}]
    more = {"entrant": asdict(entrant), "chosen": {"learning_rate": 1e-4}, "first": {}, "tried": tried}
    study = Study(plan, tmp_path, tiny_base_path(), 1, ["ablate"])
    return study._task("t", "run", "record.json", 3, more).content


def do(task, tmp_path):
    file = tmp_path / "task.json"
    file.write_text(json.dumps(task))
    trial.main(str(file))


def test_a_runs_record_is_what_was_trained(task, tmp_path):
    do(task, tmp_path)
    record = load(tmp_path / "record.json")
    assert (record.label, record.seed, record.experiment) == ("ift lambda 0.4", 3, "ablate")
    assert record.config["residual_lambda"] == 0.4
    assert record.config["propagation_gamma"] == 0.95
    assert record.config["learning_rate"] == 1e-4
    assert {*record.data} == {"train", "test", "longer"}
    assert record.data["train"].rows == 400
    assert record.cost.answers_seen == 32
    assert record.cost.labels == 0
    assert record.cost.flops > 1e9
    assert record.scores["test"]["n"] == 12
    errors, scores = record.error_steps["test"], record.scores["test"]
    wrong = sum(sample.first_wrong_step is not None for sample in record.samples if sample.split == "test")
    assert sum(errors) == wrong
    assert scores["exact_match"] >= 1 - sum(errors) / 12
    assert -100 < scores["target_log_likelihood"] < 0
    assert 0 <= scores["choice_accuracy"] <= 1
    assert [point["step"] for point in record.curves] == sorted(point["step"] for point in record.curves)
    assert record.search[0].score == 0.5
    assert not [*(tmp_path / "work").iterdir()]


def test_a_search_scores_on_validation_alone(task, tmp_path, monkeypatch):
    from ift.lab.testbed import families

    asked, real = [], families.family_problems
    monkeypatch.setattr(families, "family_problems", lambda *given: asked.append(given[1]) or real(*given))
    left_over = (
        tmp_path / "work" / "record-1"
    )  # of another process at the same task, in a study that was killed
    left_over.mkdir(parents=True)
    do(task | {"kind": "search"}, tmp_path)
    found = json.loads((tmp_path / "record.json").read_text())
    assert found["config"] == {"learning_rate": 1e-4}
    assert 0 <= found["score"] <= 1
    assert asked == ["validation"]
    assert [*(tmp_path / "work").iterdir()] == [left_over]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compare", "--methods", "sft,ipo"], "unknown method 'ipo'"),
        (["compare", "--budget", "huge"], "choose from quick, full, or give a time such as 45m or 2h"),
        (["compare", "--setting", "poems"], "--setting poems: choose from arithmetic-small-clean"),
        (["ablate", "--seeds", "1"], "an interval needs at least 2"),
        (["compare", "--jobs", "many"], "--jobs: invalid value: 'many'. Fix: give auto, or a whole number"),
        (["ablate", "--jobs", "0"], "--jobs 0: give 1 or more"),
    ],
)
def test_wrong_options_are_usage_errors(words, said, tmp_path):
    found = CliRunner().invoke(app, [*words, "--output_dir", str(tmp_path / "out")])
    assert found.exit_code == 2
    assert said in found.output
    assert not (tmp_path / "out").exists()


def test_jobs_auto_is_the_default(tmp_path):
    """None, as many as fit; on the command line and in YAML, where a number on the command line comes first."""
    (tmp_path / "study.yaml").write_text("jobs: auto\n")
    config = ["--config", str(tmp_path / "study.yaml")]
    for words, jobs in [
        ([], None),
        (["--jobs", "auto"], None),
        (config, None),
        ([*config, "--jobs", "3"], 3),
    ]:
        assert parse("ablate", words)[0].jobs == jobs


def test_a_line_says_what_a_trial_scored(study):
    task = study.searches(sequences=False)[0]
    plan = study.plan
    assert (_label(task), _score(task, plan)) == ("sft", "")
    task.result.write_text(json.dumps({"config": {}, "score": 0.5}))
    assert _score(task, plan) == ": exact match 50.0 %"
    task.result.write_text(json.dumps({"scores": {"test": {"exact_match": 0.25}}}))
    assert _score(task, plan) == ": exact match 25.0 %"
    assert (_label(study.pairs()[0]), _score(study.pairs()[0], plan)) == ("", "")
    name = "target_log_likelihood_per_token"
    plan = replace(plan, user_data={"metric": name, "pattern": None})
    for result in ({"config": {}, "score": -5.653}, {"scores": {"test": {name: -5.653}}}):
        task.result.write_text(json.dumps(result))
        assert _score(task, plan) == ": log-likelihood of the target, per token -5.653 (higher is better)"
    assert _work(study) == {"sft": 2 + 2, "sft+dpo": 2 + 2}


@pytest.mark.slow
def test_a_whole_small_study(tmp_path):
    from rich.console import Console

    from ift.lab.compare.run_study import run_study
    from ift.lab.progress import WorkProgress

    plan = compare_plan("arithmetic-small-clean", ["sft", "dpo"], 2, 1, False, validation_rows=8, test_rows=8)
    study = Study(plan, tmp_path, tiny_base_path(), 2, ["compare"])
    study.open()
    with WorkProgress(Console()) as progress:
        run_study(study, 2, progress, print)
    assert progress.done == progress.total == 1 + 3 + 5
    assert len([*(tmp_path / "runs").glob("*.json")]) == 5
    assert load(tmp_path / "runs" / "dpo-seed1.json").cost.labels == 400


def test_without_matplotlib_the_next_command_installs_it(study, monkeypatch):
    """Red when: the command that is proposed fails for the same missing package."""
    write(comparison(), study.folder / "runs")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    runs = study.folder / "runs"
    assert report_study(study).lines[-2] == (
        f"next: pip install 'intuitive-fine-tuning[report]' && ift report {runs} --metric exact_match"
    )

"""A study grows in its folder: finished runs are kept, what is new is trained, and another study is refused."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from rich.console import Console
from small_records import comparison, write

from ift.cli.compare import main, parse
from ift.data import DataError
from ift.lab import processes
from ift.lab.compare.budget import fit_to_budget
from ift.lab.compare.estimate import seconds_needed
from ift.lab.compare.growth import differences, kept_and_new, merged
from ift.lab.compare.plan import Entrant, Rates, ablate_plan, compare_plan
from ift.lab.compare.run_study import _ahead, _left, _with_seeds, report_study, run_study
from ift.lab.compare.study import Study, StudyError
from ift.lab.compare.study_args import parse_time
from ift.lab.compare.user_study import user_study
from ift.lab.progress import WorkProgress
from ift.lab.testbed import problems, tiny_base_path

SETTING = "arithmetic-small-clean"
MEASURED = {
    "step_seconds": 2.0, "steps": 10, "start_seconds": 1.0, "validation_row_seconds": 0.1, "test_row_seconds": 0.1,
    "peak_memory_bytes": 1, "weight_bytes": 1,
}  # fmt: skip
WRITES = (
    "import json, sys; task = json.load(open(sys.argv[1]));"
    "json.dump({'config': task.get('chosen'), 'score': 0.5}, open(task['result'], 'w'))"
)


@pytest.fixture
def started(monkeypatch):
    """Processes that only write a score; returns the names of their logs."""
    names = []

    def start(job, cores, slot):
        names.append(job.log.stem)
        return subprocess.Popen([sys.executable, "-c", WRITES, job.words[1]])

    monkeypatch.setattr(processes, "start", start)
    return names


def study_of(folder, methods, seeds, trials=2, **more):
    plan = compare_plan(SETTING, methods, seeds, trials, False, **more)
    found = Study(
        plan, folder, tiny_base_path(), 2, ["compare", "--seeds", "2", "--methods", ",".join(methods)]
    )
    found.open()
    found.probe()[0].result.write_text(json.dumps(MEASURED))
    return found


def do(study):
    study.perform(study.searches(sequences=False), lambda task: None)
    study.perform(study.searches(sequences=True), lambda task: None)
    study.perform(study.runs(), lambda task: None)


def test_more_seeds_and_methods_train_only_what_is_new(tmp_path, started):
    do(study_of(tmp_path, ["sft"], 2))
    assert kept_and_new(study_of(tmp_path / "empty", ["sft"], 2)) == []
    first = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*/*-*.json")}
    assert len(started) == 2 + 3
    started.clear()
    study = study_of(tmp_path, ["sft", "neftune"], 3)
    assert kept_and_new(study) == [
        "kept: sft (seeds 0, 1)",
        "new: sft (seed 2); neftune (seeds 0 to 2)",
    ]
    assert _left(study) == (2, 4)
    assert "2 trials to choose settings, 4 of 7 runs over 3 seeds" in _ahead(study)[0]
    # by hand: a training is 1 + 10 * 2 seconds; 200 validation and 500 test rows take 20 and 50
    assert seconds_needed(study) == pytest.approx(2 * (21 + 20) + 4 * (21 + 50))
    do(study)
    assert sorted(one.partition("-")[2] for one in started if one.startswith("runs")) == [
        "neftune-seed0", "neftune-seed1", "neftune-seed2", "sft-seed2",
    ]  # fmt: skip
    assert len(started) == 2 + 4
    assert {file: file.stat().st_mtime_ns for file in first} == first


def test_fewer_seeds_and_methods_than_the_folder_has_are_said_to_stay_in_the_report(tmp_path, started):
    do(study_of(tmp_path, ["sft", "neftune"], 3))
    study = study_of(tmp_path, ["sft"], 2)
    assert kept_and_new(study) == [
        "kept: sft (seeds 0, 1)",
        "new: nothing; the report is written again",
        "finished in this folder and part of the report, but not named in this command: sft (seed 2); neftune "
        "(seeds 0 to 2)",
    ]
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert (plan["seeds"], [one["method"] for one in plan["entrants"]]) == (3, ["sft", "neftune"])
    assert _left(study) == (0, 0)


def test_searched_sequences_and_names_that_begin_alike_are_counted_apart(tmp_path, started):
    """`sft` is the beginning of `sft-dropout` and of `sft+ift`: none of their trials counts for it."""
    do(study_of(tmp_path, ["sft-dropout", "sft+ift"], 2))
    (tmp_path / "search").joinpath(next(tmp_path.glob("search/sft-[0-9a-f]*.json")).name).unlink()
    study = study_of(tmp_path, ["sft-dropout", "sft+ift", "sft"], 2)
    left = {one.label: study.trials_left(one) for one in study.plan.entrants}
    assert left == {"sft": 1, "sft-dropout": 0, "sft+ift": 0}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trials": 3}, "settings tried for each method (2, now 3)"),
        ({"rates": Rates((1e-5, 1e-4), (1e-5,))}, "--learning_rates (0.0001, 0.0003, 3e-05"),
        (
            {"setting": "arithmetic-small-noisy"},
            "setting (arithmetic-small-clean, now arithmetic-small-noisy)",
        ),
        ({"test_rows": 100}, "--test_rows (500, now 100)"),
        ({"experiment": "ablate"}, "experiment (ift compare, now ift ablate)"),
        (
            {"time_budget": {"seconds": 600.0}},
            "--budget (no time, now 10m; repeat the command without --budget; you may raise --seeds and add "
            "methods)",
        ),
        ({"entrants": (Entrant("sft", settings={"loss_reduction": "token"}),)}, "settings of sft"),
    ],
)
def test_what_would_change_the_meaning_of_finished_runs_is_refused_by_name(tmp_path, changes, said):
    study = study_of(tmp_path, ["sft"], 2)
    before = (tmp_path / "plan.json").read_bytes()
    with pytest.raises(StudyError) as refused:
        replace(study, plan=replace(study.plan, seeds=5, **changes)).open()
    assert f"holds a study that cannot be compared with this one. Another {said}" in str(refused.value)
    assert "only --seeds may rise and methods be added" in str(refused.value)
    assert (tmp_path / "plan.json").read_bytes() == before


def test_an_ablation_grows_too(tmp_path):
    plans = [
        ablate_plan(SETTING, seeds, 1, True, variants).to_json()
        for seeds, variants in ((3, ["ift cumsum"]), (4, ["ift lambda 0.4"]))
    ]
    assert differences(*plans, finished=[]) == []
    found = merged(*plans)
    assert [one["variant"] for one in found["entrants"]] == ["", "", "cumsum", "lambda 0.4"]
    assert found["seeds"] == 4


def test_a_contender_that_takes_the_time_of_a_method_is_measured_when_it_is_added(tmp_path):
    study_of(tmp_path, ["sft"], 2)
    study = study_of(tmp_path, ["sft", "ift", "sft time of ift"], 2)
    assert [task.result.name for task in study.probe()] == ["measured.json", "measured-ift.json"]
    assert study.probe()[1].content["timed"] == ["ift"]
    later = MEASURED | {"step_seconds": 4.0, "ift_step_seconds": 6.0}
    study.probe()[1].result.write_text(json.dumps(later))
    assert [one.more_steps for one in fit_to_budget(study, 1, print).plan.entrants] == [1, 1, 1.5]
    assert study.measured() == MEASURED


def test_the_first_measurement_is_said_before_it_begins(tmp_path, monkeypatch):
    """Red when: a log stays empty while the first process loads torch and the model."""
    study, lines = study_of(tmp_path, ["sft"], 2), []
    study.probe()[0].result.unlink()

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Study, "perform", stop)
    with pytest.raises(KeyboardInterrupt):
        run_study(study, 1, WorkProgress(Console()), lines.append)
    assert lines[-1].startswith("measuring three steps and the scoring of a batch")


def test_what_is_loaded_is_said_before_it_is_loaded(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["--model_name_or_path", str(tiny_base_path()), "--dataset_name", "rows.jsonl"]
    with pytest.raises(DataError):
        main("compare", words)
    assert capsys.readouterr().out.startswith("loading torch, the tokenizer and the rows\n")


def test_what_the_searches_chose_is_said_before_the_runs(tmp_path, started):
    """Red when: neither the terminal nor the log says which rate the runs have, nor why where all trials are level."""
    lines = []
    run_study(study_of(tmp_path, ["sft"], 2), 2, WorkProgress(Console()), lines.append)
    assert lines[-1] == (
        "sft: learning rate 0.0001 was chosen from 2 settings, with the smallest learning rate tried: a "
        "lower one may be better. "
        "The validation score is the same, 0.5, for all 2; of these the one tried first was chosen."
    )
    result = json.loads(next(tmp_path.glob("logs/runs-sft-seed1.task.json")).read_text())
    assert result["tried"][0] == {"config": {"learning_rate": 0.0001}, "score": 0.5, "tie": None}


def test_a_study_that_was_fitted_to_a_time_grows_by_seeds_that_are_named(tmp_path):
    named = dict.fromkeys(("seeds", "trials", "validation_rows", "test_rows"))
    first = study_of(tmp_path, ["sft"], 3, time_budget={"seconds": 1e6, **named})
    decided = fit_to_budget(first, 1, print).plan
    lines = []
    again = study_of(tmp_path, ["sft"], 3, time_budget={"seconds": 600.0, **named})
    assert fit_to_budget(again, 1, lines.append).plan.seeds == decided.seeds == 10
    more = study_of(tmp_path, ["sft"], 12, time_budget={"seconds": 1e6, **named, "seeds": 12})
    found = fit_to_budget(more, 1, lines.append).plan
    assert replace(found, seeds=10, time_budget=None) == replace(decided, time_budget=None)
    assert lines[0].startswith("as decided when this study began: 10 seeds, 6 settings tried for each method")
    assert lines[1].startswith(
        "12 seeds (--seeds), the rest as decided when this study began: 6 settings tried"
    )


@pytest.mark.parametrize(("seconds", "time"), [(7200.0, "2h"), (5400.0, "90m"), (45.0, "45s")])
def test_a_study_of_a_budget_names_the_budget_to_repeat_it_with(tmp_path, seconds, time):
    """Red when: "now no time" stands there without the fix."""
    study_of(tmp_path, ["sft"], 2, time_budget={"seconds": seconds})
    with pytest.raises(StudyError) as refused:
        study_of(tmp_path, ["sft"], 2)
    assert (
        f"Another --budget ({time}, now no time; repeat the command with --budget {time}; you may raise "
        "--seeds and add methods)"
    ) in str(refused.value)
    assert parse_time(time) == seconds


def test_the_command_that_adds_seeds_keeps_the_budget(tmp_path):
    study = study_of(tmp_path, ["sft"], 2)
    words = ["compare", "--budget=2h", "--seeds", "2", "--methods", "sft"]
    assert _with_seeds(replace(study, command=words), 5) == "ift compare --budget 2h --methods sft --seeds 5"


def test_the_end_of_a_study_has_the_command_that_adds_seeds(tmp_path, monkeypatch):
    """Two seeds of each method: with the third there is a verdict. `dpo` is in the folder and not in the command."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # draw nothing
    study_of(tmp_path, ["sft", "ift", "dpo", "sft+dpo", "sft+ift"], 2)
    study = study_of(tmp_path, ["sft", "ift"], 2)
    write([replace(one, experiment="compare") for one in comparison(seeds=2)], tmp_path / "runs")
    for file in tmp_path.glob("runs/compare/*.json"):
        file.rename(tmp_path / "runs" / file.name)
    lines = report_study(study).lines
    assert lines[-1] == (
        "or add seeds (finished runs are kept): ift compare --methods sft,ift,dpo,sft+dpo,sft+ift --seeds 3"
    )
    assert "repeat the study's command with --seeds 3 and the same --output_dir" in lines[0]


@pytest.fixture
def user_command(tmp_path, monkeypatch):
    """Opens the folder of a study on rows of the user's own, with these flags in place of the usual ones."""
    monkeypatch.chdir(tmp_path)
    rows = [problem.row for problem in problems("train", 40)]

    def write_rows(found):
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))

    write_rows(rows)
    usual = {
        "methods": "sft,ift",
        "seeds": "2",
        "learning_rates": "1e-3",
        "max_steps": "2",
        "residual_lambda": "0.3",
    }
    (tmp_path / "c.yaml").write_text(f"model_name_or_path: {tiny_base_path()}\ndataset_name: rows.jsonl\n")

    def command(**flags):
        given = {"config": "c.yaml", "output_dir": "out", **usual, **flags}
        args, words = parse("compare", [f"--{name}={value}" for name, value in given.items() if value])
        return user_study(args, words, lambda line: None)

    command.write_rows, command.rows = write_rows, rows
    return command


def test_a_study_on_own_rows_grows(user_command, tmp_path):
    """Also by a method alone: the flags that only IFT knows may stay in the command."""
    user_command()
    study = user_command(methods="neftune", seeds="4")
    assert [one.label for one in study.plan.entrants] == ["neftune"]
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert [one["method"] for one in plan["entrants"]] == ["sft", "ift", "neftune"]
    assert (plan["seeds"], plan["own"]["methods"]) == (4, ["sft", "ift", "neftune"])
    assert {*study.plan.user_data["methods"]} == {*plan["own"]["methods"]}


def test_other_rows_flags_or_files_on_own_rows_are_refused_by_name(user_command, tmp_path):
    """A setting may move from the flags into the file; of the file counts what trials read."""
    weights, file = tmp_path / "w.py", tmp_path / "c.yaml"
    text, code = file.read_text(), "def w(losses, layout): return losses.detach() * 0 + 1\n"
    weights.write_text(code)
    user_command(token_weights="w.py:w")
    file.write_text(text + "max_steps: 2\nseeds: 9\neval_steps: 7\n")
    user_command(token_weights="w.py:w", max_steps=None, seeds="3")
    file.write_text(text + "weight_decay: 0.1\n")
    weights.write_text(code + "# changed\n")
    user_command.write_rows(user_command.rows[::-1])
    with pytest.raises(StudyError) as refused:
        user_command(token_weights="w.py:w", max_steps="3", residual_lambda=None, max_new_tokens="5")
    said = str(refused.value)
    for one in (
        "Another rows, or their order (train, test)",
        "another --weight_decay (not given, now 0.1)",
        "another --max_steps (2, now 3)",
        "another --residual_lambda (0.3, now not given)",
        "another content of the file of --token_weights",
    ):
        assert one in said
    assert re.search(r"another --max_new_tokens \(\d+, now 5\)", said)
    assert said.count("nother ") == 7  # these, and the other --output_dir

"""Every name that `--methods` takes: in the plan, trained at its cost, and run on the tiny base."""

import json
from dataclasses import replace
from statistics import fmean
from types import SimpleNamespace

import pytest

import ift.lab.compare.plan
from ift.lab.compare import trial
from ift.lab.compare.budget import fit_to_budget
from ift.lab.compare.plan import BEST_OF_TWO, CONTENDERS, SAME_TIME, compare_plan
from ift.lab.compare.study import Study
from ift.lab.compare.testbed import TestbedBackend
from ift.lab.report import Cost, load
from ift.lab.testbed import tiny_base_path
from ift.methods import CONTROLS, METHODS

MEASURED = {
    "step_seconds": 2.0, "ift_step_seconds": 3.0, "steps": 30, "start_seconds": 1.0, "validation_row_seconds": 0.1,
    "test_row_seconds": 0.1, "peak_memory_bytes": 1, "weight_bytes": 1,
}  # fmt: skip


def study_of(folder, *methods, **more):
    plan = compare_plan("arithmetic-small-clean", methods, 2, 1, False, **more)
    study = Study(plan, folder, tiny_base_path(), 1, ["compare"])
    study.open()
    return study


def test_contenders_bring_the_method_whose_settings_they_take():
    plan = compare_plan("x", ["ift", "sft time of ift", "ift as released"], 2, 3, fairer=False)
    assert [entrant.label for entrant in plan.entrants] == [
        "sft",
        "ift",
        "sft time of ift",
        "ift as released",
    ]
    assert [entrant.label for entrant in plan.searched()] == ["sft", "ift", "ift as released"]
    assert plan.entrants[3].settings == {"propagation_detach": "none"}
    full = compare_plan("x", ["sft", "sft 4/3 of the steps"], 2, 3, fairer=True)
    labels = [entrant.label for entrant in full.entrants]
    assert labels == ["sft", "sft token mean", "sft 4/3 of the steps"]


def test_the_plan_of_a_study_from_before_the_contenders_is_the_same():
    """Else a study begun with an earlier version could not be resumed."""
    plan = compare_plan("x", ["sft"], 2, 3, fairer=False).to_json()
    (entrant,) = plan["entrants"]
    assert {*entrant} == {"method", "variant", "settings", "like", "more_steps"}
    assert plan["time_budget"] is None


def test_the_same_time_is_that_of_the_measured_steps(tmp_path):
    """IFT's step takes 3 s, SFT's 2: half as many steps more."""
    study = study_of(tmp_path, "sft", "ift", "sft time of ift")
    (probe,) = study.probe()
    assert probe.content["timed"] == ["ift"]
    probe.result.write_text(json.dumps(MEASURED))
    found = fit_to_budget(study, 1, print).plan.entrants
    assert [one.more_steps for one in found] == [1, 1, 1.5]
    assert study_of(tmp_path / "other", "sft", "ift").probe()[0].content["timed"] == []


def test_the_first_measurement_times_the_other_method_too(tmp_path, monkeypatch):
    monkeypatch.setattr("ift.lab.compare.testbed.PROBE_ROWS", 4)
    (task,) = study_of(tmp_path, "sft time of ift").probe()
    file = tmp_path / "task.json"
    file.write_text(json.dumps(task.content))
    trial.main(str(file))
    assert json.loads(task.result.read_text())["ift_step_seconds"] > 0


def test_the_best_of_two_rates_counts_at_the_cost_of_both(tmp_path, monkeypatch):
    """Scores 0.2 at 1e-4 and 0.6 at 3e-4 on validation rows; the record says both, and adds what they took."""
    scores = {1e-4: 0.2, 3e-4: 0.6}

    def backend_of(task):
        rate = pytest.approx(task["chosen"]["learning_rate"])
        (score,) = [score for one, score in scores.items() if one == rate]
        return SimpleNamespace(choose=lambda folder: (score, 0.0), rate=task["chosen"]["learning_rate"])

    def train(backend, folder):
        cost = Cost(seconds=2.0, flops=10.0, peak_memory_bytes=7, answers_seen=5)
        return str(folder), {"config": {"learning_rate": backend.rate}, "cost": cost}

    monkeypatch.setattr(trial, "backend_of", backend_of)
    monkeypatch.setattr(trial, "_train", train)
    task = {"chosen": {"learning_rate": 1e-4}}
    folder, fields = trial._train_best(task, BEST_OF_TWO.rate_factors, tmp_path)
    assert folder.endswith("model-1")
    assert fields["config"]["learning_rate"] == pytest.approx(3e-4)
    assert [one.score for one in fields["search"]] == [0.2, 0.6]
    cost = fields["cost"]
    assert (cost.seconds, cost.flops, cost.answers_seen, cost.peak_memory_bytes) == (4, 20, 10, 7)


def test_the_testbed_has_the_values_of_rows_of_all_scores(tmp_path):
    """Red when: the interval of a score is for other seeds alone, as if every problem were scored anew."""
    (task, *_) = study_of(tmp_path, "ift", validation_rows=2, test_rows=6).runs()
    scored = TestbedBackend(task.content).score(str(tiny_base_path()))
    for split in ("test", "longer"):
        assert {*scored.row_scores[split]} == {*scored.scores[split]} - {"n"}
        for name, values in scored.row_scores[split].items():
            assert len(values) == scored.scores[split]["n"] == 6
            assert fmean(values) == pytest.approx(scored.scores[split][name], abs=1e-6)
    assert len({*scored.row_scores["test"]["mean_length"]}) > 1


@pytest.mark.slow
@pytest.mark.parametrize("name", [*METHODS, *CONTROLS, *CONTENDERS, "sft+dpo"])
def test_every_method_and_contender_runs(tmp_path, monkeypatch, name):
    """From the plan to the record, on the tiny base: two steps of sixteen answers, eight problems."""
    monkeypatch.setattr(ift.lab.compare.plan, "PASSES", 0.08)
    study = study_of(tmp_path, name, validation_rows=8, test_rows=8)
    entrants = tuple(replace(one, more_steps=1.5) if one.time_of else one for one in study.plan.entrants)
    study = replace(study, plan=replace(study.plan, entrants=entrants))
    (task,) = [one for one in study.runs() if one.title == f"{study.plan.entrants[-1].label}, seed 0"]
    file = tmp_path / "task.json"
    file.write_text(json.dumps(task.content))
    trial.main(str(file))
    record = load(task.result)
    assert record.label == study.plan.entrants[-1].label
    assert record.cost.flops > 1e9
    assert record.cost.answers_seen == {SAME_TIME.label: 48, BEST_OF_TWO.label: 64, "sft+dpo": 64}.get(
        name, 48 if "4/3" in name else 32
    )
    assert len(record.row_scores["test"]["exact_match"]) == 8

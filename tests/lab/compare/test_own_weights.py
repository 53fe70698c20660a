"""Contenders with weights of the user's own: named by their function, known by their file's hash, trained with them."""

import json
from dataclasses import asdict, replace

import pytest
from typer.testing import CliRunner

import ift.lab.compare.plan
from ift.cli.main import app
from ift.lab.compare import trial
from ift.lab.compare.growth import names_to_type
from ift.lab.compare.plan import ablate_plan, compare_plan
from ift.lab.compare.study import Study, StudyError
from ift.lab.compare.user_data import UserData
from ift.lab.report import load
from ift.lab.testbed import tiny_base_path

CODE = """
import torch

def late(losses, layout):
    "Weight 0 before position 4, else 2."
    return 2.0 * (torch.arange(losses.shape[1]) >= 4).expand_as(losses).to(losses)

def cumsum(losses, layout):
    return torch.ones_like(losses)

def short(losses, layout):
    return losses[:, 1:]
"""


@pytest.fixture
def weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "own" / "w.py"
    file.parent.mkdir()
    file.write_text(CODE)
    return file


def plan_of(*methods, trials=3):
    return compare_plan("arithmetic-small-clean", methods, 2, trials, False, validation_rows=8, test_rows=8)


def test_a_contender_is_named_by_its_function_and_searched_for_itself(weights):
    plan = plan_of("sft", "ift", "ift own/w.py:late", "sft+ift own/w.py:late")
    assert [one.label for one in plan.entrants] == ["sft", "ift", "ift late", "sft+ift late"]
    assert len(plan.searched()) == 4
    late, sequence = plan.entrants[2:]
    assert late.settings["token_weights"] == f"{weights}:late"  # the trials are other processes
    assert sequence.settings["2.token_weights"] == f"{weights}:late"
    assert len(late.weights_sha256) == 64
    ablation = ablate_plan("x", 2, 1, True, ["ift own/w.py:late"])
    assert [one.label for one in ablation.searched()] == []
    assert (ablation.entrants[-1].label, ablation.entrants[-1].like) == ("ift late", "ift")


def test_weights_of_the_users_own_without_the_residual_are_a_contender_too(weights, tmp_path):
    """So that the propagation is not confounded with the mix. Red when: lambda stays, or a grown study lacks it."""
    plan = plan_of("sft", "ift propagation only own/w.py:late", "sft+ift propagation only own/w.py:late")
    _, alone, sequence = plan.entrants
    assert (alone.label, sequence.label) == ("ift propagation only, late", "sft+ift propagation only, late")
    assert (alone.settings["residual_lambda"], alone.settings["token_weights"]) == (0.0, f"{weights}:late")
    assert sequence.settings["2.residual_lambda"] == 0.0
    study = Study(plan, tmp_path / "study", tiny_base_path(), 1, ["compare"])
    study.open()
    again = names_to_type(study)
    assert again[1] == f"ift propagation only {weights}:late"
    assert [one.label for one in plan_of(*again).entrants] == [one.label for one in plan.entrants]


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        (["sft own/w.py:late"], "sft has no weights of its own; give 'ift own/w.py:late'"),
        (["ift own/other.py:late"], "own/other.py: no such file"),
        (["ift own/w.py:late", "ift ./own/w.py:late"], "two contenders are called 'ift late'"),
        (["ift own/w.py:cumsum"], "two contenders are called 'ift cumsum', by the name of a function"),
    ],
)
def test_names_that_cannot_be_told_apart_or_trained_are_refused(weights, methods, said):
    with pytest.raises(ValueError, match=said):
        plan_of(*methods)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("short", "token_weights short: returned float32 of shape (2, 4)"),
        ("lat", "has no function 'lat'; did you mean"),
    ],
)
def test_a_function_is_tried_before_anything_is_trained(weights, tmp_path, function, said):
    found = CliRunner().invoke(
        app, ["compare", "--methods", f"sft,ift own/w.py:{function}", "--output_dir", "out"]
    )
    assert found.exit_code == 2
    assert said in found.output
    assert not (tmp_path / "out").exists()


def test_a_function_that_is_not_there_is_named_with_the_flag_that_was_typed(weights):
    found = CliRunner().invoke(app, ["ablate", "--variants", "ift own/w.py:lat"])
    assert found.exit_code == 2
    assert "ift ablate: --variants " in found.output
    assert "did you mean late?" in found.output
    found = CliRunner().invoke(app, ["compare", "--methods", "sft,ift own/w.py:lat"])
    assert "ift compare: --methods " in found.output


def test_a_changed_file_is_refused_and_a_moved_one_is_not(weights, tmp_path):
    def open_study(path):
        Study(plan_of("sft", f"ift {path}:late"), tmp_path / "out", tiny_base_path(), 1, ["compare"]).open()

    open_study(weights)
    open_study(weights.rename(tmp_path / "moved.py"))
    (tmp_path / "moved.py").write_text(f"{CODE}\n\ndef another(losses, layout):\n    return losses\n")
    open_study(tmp_path / "moved.py")  # another contender in the same file
    (tmp_path / "out" / "runs" / "ift_late-seed1.json").write_text("{}")
    (tmp_path / "moved.py").write_text(CODE.replace(">= 4", ">= 5"))
    said = (
        r"content of moved\.py, the weights of ift late \(finished runs used the other; put it back; or write"
    )
    with pytest.raises(StudyError, match=said):
        open_study(tmp_path / "moved.py")


def test_other_weights_are_accepted_until_a_run_has_used_them(weights, tmp_path):
    """A function that fails in its first training can be mended. Red when: the folder refuses it, or a trial stays."""

    def open_study():
        plan = plan_of("sft", "ift own/w.py:late", "ift own/w.py:cumsum2")
        study = Study(plan, tmp_path / "out", tiny_base_path(), 1, ["compare"])
        study.open()
        return study

    weights.write_text(f"{CODE}\n\ndef cumsum2(losses, layout):\n    return losses\n")
    first = open_study()
    for label in ("sft", "ift_late", "ift_cumsum2"):
        (tmp_path / "out" / "search" / f"{label}-{'0' * 12}.json").write_text("{}")
    (tmp_path / "out" / "runs" / "sft-seed0.json").write_text("{}")
    weights.write_text(weights.read_text().replace(">= 4", ">= 5"))
    second = open_study()
    hashes = [
        one["weights_sha256"]
        for one in json.loads((tmp_path / "out" / "plan.json").read_text())["entrants"][1:]
    ]
    assert hashes == [one.weights_sha256 for one in second.plan.entrants[1:]]
    assert hashes[0] != first.plan.entrants[1].weights_sha256
    assert hashes[1] == first.plan.entrants[2].weights_sha256
    kept = sorted(path.name.split("-")[0] for path in (tmp_path / "out" / "search").glob("*.json"))
    assert kept == ["ift_cumsum2", "sft"]


def test_on_the_users_rows_the_contender_alone_has_the_weights(weights):
    """Settings of the propagation are for the other contenders: with weights of one's own they would be refused."""
    words = ["--model_name_or_path", str(tiny_base_path()), "--dataset_name", "rows.jsonl"]
    data = UserData([*words, "--propagation_gamma", "0.5"], ["ift", "sft", "sft+ift"], {}, "text", None, 9)
    entrants = plan_of("ift", "ift own/w.py:late", "sft+ift own/w.py:late").entrants
    found = {
        one.label: [stage.config.token_weights for stage in data.stages(one.method, one.settings, "unused")]
        for one in entrants
    }
    spec = f"{weights}:late"
    assert found == {"sft": [None], "ift": [None], "ift late": [spec], "sft+ift late": [None, spec]}


def test_a_trial_trains_with_the_weights_and_records_the_function(weights, tmp_path, monkeypatch):
    """And refuses a file that has changed since the study began. The record has no absolute path."""
    monkeypatch.setattr(ift.lab.compare.plan, "PASSES", 0.04)
    study = Study(plan_of("ift own/w.py:late", trials=1), tmp_path / "out", tiny_base_path(), 1, ["compare"])
    study.open()
    task = next(task for task in study.runs() if task.title == "ift late, seed 0")
    asked = []
    monkeypatch.setattr(
        "ift.step.equations._own_weights",
        lambda function, losses, layout: asked.append(function.__name__) or function(losses, layout),
    )
    file = tmp_path / "task.json"
    file.write_text(json.dumps(task.content))
    trial.main(str(file))
    assert {*asked} == {"late"}
    record = load(task.result)
    assert (record.label, record.method, record.variant) == ("ift late", "ift", "late")
    assert record.config["token_weights"] == "w.py:late"
    assert record.config["token_weights_sha256"] == study.plan.entrants[-1].weights_sha256
    assert "propagation_gamma" not in record.config
    assert str(tmp_path) not in task.result.read_text()
    changed = replace(study.plan.entrants[-1], weights_sha256="0" * 64)
    file.write_text(json.dumps({**task.content, "entrant": asdict(changed)}))
    with pytest.raises(ValueError, match=r"w\.py has changed since the study began"):
        trial.main(str(file))

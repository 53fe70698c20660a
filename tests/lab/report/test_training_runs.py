"""Curves of training runs: read from their folders, finished or not; refused with the reason where they cannot be."""

import json
import os

import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

from ift.cli.main import app
from ift.lab.report import ReportError
from ift.lab.report.training_runs import curves_picture, last_values, read_run, training_folders


def run_folder(folder, lines, finished=True, tail=""):
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"finished": finished}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
    return folder


@pytest.fixture
def ift_run(tmp_path):
    lines = [
        {"step": 0, "end_nll": 0.5},
        {"step": 1, "loss": 2.0, "nll": 1.5},
        {"step": 2, "loss": 1.0, "nll": 0.75},
    ]
    return run_folder(
        tmp_path / "ift", [*lines, {"step": 2, "loss": 1.25}], finished=False, tail='{"step": 3, "lo'
    )


@pytest.fixture
def sft_run(tmp_path):
    return run_folder(
        tmp_path / "sft", [{"step": 1, "loss": 3.0}, {"step": 5, "loss": 2.0, "grad_norm": float("nan")}]
    )


def test_a_running_run_is_read_as_far_as_it_has_come(ift_run):
    """A half-written line is left out, and of a step that was logged twice the later value counts."""
    run = read_run(ift_run, "ift")
    assert run.curves["loss"] == ([1, 2], [2.0, 1.25])
    assert run.curves["end_nll"] == ([0], [0.5])
    assert run.state == "not finished, at step 2"


def test_the_lines_of_the_figure_are_those_of_the_runs(ift_run, sft_run):
    runs = [read_run(ift_run, "ift"), read_run(sft_run, "sft")]
    figure = Figure()
    curves_picture(runs).draw(figure)
    panel = figure.axes[0]
    drawn = [(list(line.get_xdata()), list(line.get_ydata())) for line in panel.lines]
    assert drawn[:2] == [([1, 2], [2.0, 1.25]), ([1, 5], [3.0, 2.0])]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ift", "sft"]
    assert last_values(runs)[0] == ["run", "state", "loss", "nll", "end_nll", "grad_norm"]
    assert last_values(runs)[2] == ["sft", "finished at step 5", "2", "–", "–", "nan"]


def test_the_verb_writes_page_table_and_figure(ift_run, sft_run, tmp_path):
    words = ["report", str(ift_run), str(sft_run), "--output_dir", str(tmp_path / "out")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "ift: not finished, at step 2\nsft: finished at step 5" in done.output
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<td>1.25</td>" in page
    assert "<script" not in page
    assert "| sft | finished at step 5 | 2 |" in (tmp_path / "out" / "report.md").read_text()
    assert (tmp_path / "out" / "figures" / "training-curves.png").stat().st_size > 5_000
    refused = CliRunner().invoke(app, [*words, "--metric", "loss"])
    assert refused.exit_code == 2
    assert "--metric is for records of ift compare" in refused.stderr


def test_stages_of_a_sequence_are_found_in_its_folder(tmp_path):
    for name in ("1-sft", "2-ift"):
        run_folder(tmp_path / "both" / name, [{"step": 1, "loss": 1.0}])
    assert [folder.name for folder in training_folders([str(tmp_path / "both")])] == ["1-sft", "2-ift"]


def test_runs_of_other_trainers_are_drawn_beside_those_of_ift(ift_run, tmp_path):
    """Red when: a folder of `IFTTrainer` (no run.json), or of trl (its trainer_state.json alone), is refused."""
    python = run_folder(tmp_path / "python", [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}])
    (python / "run.json").unlink()
    for step, loss in ((10, 4.0), (20, 3.0)):
        (tmp_path / "trl" / f"checkpoint-{step}").mkdir(parents=True)
        log = [{"step": one, "loss": loss, "eval_loss": 5.0, "eval_runtime": 1.0} for one in (5, step)]
        state = tmp_path / "trl" / f"checkpoint-{step}" / "trainer_state.json"
        state.write_text(json.dumps({"log_history": log, "global_step": step}))
        os.utime(state, (step, step))
    folders = training_folders([str(ift_run), str(python), str(tmp_path / "trl")])
    assert folders == [ift_run, python, tmp_path / "trl"]
    runs = [read_run(folder, folder.name) for folder in folders]
    assert [run.state for run in runs[1:]] == ["at step 2", "at step 20"]
    assert runs[2].curves == {"loss": ([5.0, 20.0], [3.0, 3.0])}


@pytest.mark.parametrize(
    ("more", "shown"),
    [
        ({"mean_token_accuracy": 0.5}, {"loss": 4.0, "nll": 4.0, "eval_nll": 5.0}),
        ({"mean_token_accuracy": 0.5, "rewards/margins": 0.1}, {"loss": 4.0}),
        ({}, {"loss": 4.0}),
    ],
)
def test_the_loss_of_trls_sft_is_that_of_its_targets(tmp_path, more, shown):
    """Red when: SFT of trl and IFT have no panel in common but the trained loss, which is not comparable."""
    log = [{"step": 5, "loss": 4.0, **more}, {"step": 5, "eval_loss": 5.0}]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": log, "global_step": 5}))
    assert {name: values for name, (_, (values,)) in read_run(tmp_path, "trl").curves.items()} == shown


def test_names_of_folders_are_text_on_the_page(tmp_path):
    folder = run_folder(tmp_path / "<b>x", [{"step": 1, "loss": 1.0}])
    done = CliRunner().invoke(app, ["report", str(folder), "--output_dir", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "<td>&lt;b&gt;x</td>" in (tmp_path / "out" / "report.html").read_text()


def test_what_cannot_be_drawn_is_refused(ift_run, tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(
        ReportError, match=r"other: found neither metrics.jsonl nor trainer_state.json, so this is not"
    ):
        training_folders([str(ift_run), str(tmp_path / "other")])
    with pytest.raises(ReportError, match="no metrics yet; wait for the first logged step"):
        read_run(run_folder(tmp_path / "new", []), "new")

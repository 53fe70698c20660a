"""What a run reports to the terminal, and that it reports nothing from Python."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from ift.data import DataReport, Prepared
from ift.lab.testbed import tiny_base_path
from ift.methods.stage import PreparedRows
from ift.runs import progress, train_method
from ift.runs.plan import packing_line
from ift.runs.results import StageResult


@pytest.fixture
def terminal(monkeypatch):
    """Standard output looks like a terminal of 40 columns."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((40, 24)))


def test_lines_break_between_words_only_and_a_metric_stays_with_its_value(terminal):
    values = [f"lookahead_accuracy{progress.NO_BREAK}0.9827", f"lambda{progress.NO_BREAK}0.2"]
    lines = progress.wrap("step 2/6  " + "  ".join(values)).splitlines()
    assert lines == ["step 2/6  lookahead_accuracy 0.9827", "  lambda 0.2"]
    path = "/a/path/that/is/longer/than/the/terminal/is/wide"
    assert path in progress.wrap(f"the model is in {path}").splitlines()[1]
    assert progress.wrap("  kept 57 of 57 rows, " + "and more " * 3, 8).splitlines()[1].startswith(" " * 12)


def test_lines_stay_whole_where_the_output_is_a_file(monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: False, raising=False)
    text = f"loss{progress.NO_BREAK}1 " + "word " * 40
    assert progress.wrap(text) == text.replace(progress.NO_BREAK, " ")


@pytest.mark.parametrize(
    ("values", "said"), [([], ""), ([2.0], ", nll 2"), ([2.0, 3.0, 1.5], ", nll 2 -> 1.5")]
)
def test_an_arrow_needs_two_values(values, said):
    display = object.__new__(progress.TrainingDisplay)
    display.key, display.values = "nll", values
    assert display.change() == said


def result(**more):
    return StageResult("ift", Path("out"), "base", 5.0, 40, None, (), **more)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, ""),
        ({"training_seconds": 50.0}, ""),
        (
            {"resumed_at": 20, "training_seconds": 75.4},
            " (steps 21 to 40; time of all 40 steps, without starting and saving the model: 0:01:15)",
        ),
        (
            {"resumed_at": 20, "training_seconds": None},
            " (steps 21 to 40; time of all 40 steps, without starting and saving the model: not known)",
        ),
    ],
)
def test_the_closing_line_of_a_resumed_run_tells_of_the_whole_run(more, said):
    assert progress.resumed(result(**more)) == said


def test_scores_of_answers_have_a_line_of_their_own():
    """Beside them only the entries of training and evaluation are shown."""
    lines = []
    display = object.__new__(progress.TrainingDisplay)
    display.key, display.values, display.bar, display.metrics = "nll", [], object(), progress.METRICS
    display.reporter = SimpleNamespace(message=lines.append)
    state = SimpleNamespace(global_step=20, max_steps=40)
    for logs in (
        {"eval_nll": 0.5, "eval_loss": 0.6, "epoch": 1.0},
        {"eval_answers_stopped": 0.75, "eval_exact_match": 0.5, "eval_sql": 0.25, "epoch": 1.0},
        {"end_nll": 1.0},
    ):
        display.on_log(None, state, None, logs)
    assert [line.replace(progress.NO_BREAK, " ") for line in lines] == [
        "evaluation 20/40  loss 0.6  nll 0.5",
        "evaluation 20/40  answers: answers_stopped 0.75  exact_match 0.5  sql 0.25",
    ]


def test_a_log_has_the_remaining_time_and_a_line_for_each_checkpoint(monkeypatch):
    """Twelve seconds for four steps since the run was resumed at step 8: eight more take 24. A terminal has a bar."""
    lines = []
    display = object.__new__(progress.TrainingDisplay)
    display.key, display.values, display.metrics = "nll", [], progress.METRICS
    display.reporter = SimpleNamespace(message=lines.append)
    monkeypatch.setattr(progress.time, "monotonic", lambda: 112.0)
    display.began = (100.0, 8)
    for disable, step in ((True, 12), (True, 20), (False, 12)):
        display.bar = SimpleNamespace(disable=disable)
        display.on_log(None, SimpleNamespace(global_step=step, max_steps=20), None, {"nll": 0.5})
    display.on_save(None, SimpleNamespace(global_step=12), None)
    assert [line.replace(progress.NO_BREAK, " ") for line in lines] == [
        "step 12/20  nll 0.5  about 0:00:24 left",
        "step 20/20  nll 0.5",
        "step 12/20  nll 0.5",
        "saved checkpoint-12",
    ]


@pytest.mark.parametrize(
    ("streaming", "dataset", "said"),
    [
        (
            False,
            range(4),
            "20 rows are packed into 4 sequences of up to 1,024 tokens and do not attend to each other",
        ),
        (
            False,
            range(20),
            "20 rows are packed into 20 sequences of up to 1,024 tokens and do not attend to each other; each sequence "
            "holds a single row, so packing has no effect here: raise max_length, or leave packing out",
        ),
        (
            True,
            iter(()),
            "rows are packed into sequences of up to 1,024 tokens and do not attend to each other",
        ),
    ],
)
def test_the_plan_says_how_rows_are_packed(streaming, dataset, said):
    trainer = SimpleNamespace(
        train_dataset=dataset, args=SimpleNamespace(packing=True, max_length=1024, packing_strategy="bfd")
    )
    report = DataReport("train", "text", "", streaming=streaming, rows_kept=20)
    rows = PreparedRows(None, {"train": Prepared(None, report)})
    assert packing_line(trainer, rows) == said


def test_train_method_reports_nothing(tmp_path, capfd):
    rows = [{"prompt": f"{n} plus {n}", "completion": f" {2 * n}"} for n in range(4)]
    settings = {"max_steps": 2, "logging_steps": 1, "save_strategy": "no"}
    result = train_method("ift", tiny_base_path(), rows, tmp_path / "out", settings)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "loss" not in printed.err
    assert "2/2" not in printed.err
    assert result.stages[0].steps == 2
    assert result.stages[0].read_back.startswith("read back")
    assert result.stages[0].warnings == ()

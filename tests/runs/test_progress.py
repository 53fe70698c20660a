"""What a run reports to the terminal, and that it reports nothing from Python."""

import os
import shutil

import pytest

from ift.lab.testbed import tiny_base_path
from ift.runs import progress, train_method


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

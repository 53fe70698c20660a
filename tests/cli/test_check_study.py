"""`ift check` of a study: what `ift compare` would refuse, with the score called before anything is trained."""

import json

import pytest
from typer.testing import CliRunner

from ift.cli.main import app
from ift.lab.testbed import problems, tiny_base_path


@pytest.fixture
def check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [problem.row for problem in problems("train", 40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.py").write_text(
        "def good(p, a, row): return len(a)\ndef bad(p, a, row): return row['nope']\n"
    )
    (tmp_path / "c.yaml").write_text(
        f"model_name_or_path: {tiny_base_path()}\ndataset_name: rows.jsonl\nmethods: [sft, ift]\nseeds: 3\n"
    )
    return lambda *words: CliRunner().invoke(app, ["check", "--config", "c.yaml", *words])


def test_a_study_is_checked_without_its_folder(check, tmp_path):
    found = check("--score", "mine.py:good")
    assert found.exit_code == 0, found.output
    assert "the target answers themselves score good" in found.output
    assert (
        "With 8 test rows and 3 seeds, only a very large difference between two methods is likely to be detected"
        in found.output
    )
    assert (
        "warning: this study is too small to compare methods and shows only that everything runs: 8 test rows"
        in found.output
    )
    assert "sft, ift: 3 seeds each\nok: ift compare would start with the same arguments" in found.output
    assert sorted(file.name for file in tmp_path.iterdir() if file.name != "__pycache__") == [
        "c.yaml", "mine.py", "rows.jsonl",
    ]  # fmt: skip


def test_a_broken_score_is_named_with_row_and_exception(check):
    found = check("--score", "mine.py:bad")
    assert found.exit_code == 1
    assert "ift check: mine.py:bad: row " in found.output
    assert ": KeyError: 'nope'; the answer was " in found.output


def test_flags_of_a_single_training_are_refused(check):
    found = check("--time")
    assert found.exit_code == 2
    assert "--time works for a single training only, and methods is a setting of ift compare" in found.output


def test_a_study_that_cannot_grow_is_named_by_its_own_folder(check, tmp_path):
    """And the folder is only read. Red when: the message names a temporary folder."""
    from ift.lab.compare.plan import compare_plan
    from ift.lab.compare.study import Study

    plan = compare_plan("another", ["sft", "ift"], 3, 3, False)
    Study(plan, tmp_path / "mine", tiny_base_path(), 1, ["compare"]).open()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "mine").rglob("*")}
    found = check("--output_dir", "mine")
    assert found.exit_code == 1
    assert "ift check: mine holds a study that cannot be compared with this one" in found.output
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "mine").rglob("*")} == before


def test_weights_that_would_stop_the_first_step_are_refused_before_the_rows(check, tmp_path):
    (tmp_path / "w.py").write_text("def centred(losses, layout):\n    return losses - losses.mean()\n")
    for words in (("--methods", "sft,ift w.py:centred"), ("--token_weights", "w.py:centred")):
        found = check(*words)
        assert found.exit_code in (1, 2)
        assert "set centred.may_be_negative = True" in found.output
        assert "preparing, checking" not in found.output

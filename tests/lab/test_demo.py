"""The demo: each method's learning rate comes from validation, and the record says what was tried."""

import json
import os
import subprocess
import sys

import pytest

from ift.lab import demo


def test_paired_difference_by_hand():
    """Gains 1, 0, 0, -1: mean 0, variance 2/3, half width 1.96 * sqrt(2/3/4) = 0.8002."""
    mean, low, high = demo.paired_difference([True, True, False, False], [False, True, False, True])
    assert mean == 0
    assert (low, high) == pytest.approx((-0.8002, 0.8002), abs=1e-4)


def test_the_rate_that_scores_best_on_validation_is_kept(monkeypatch, tmp_path):
    """Validation 0.4, 0.6, 0.6: the second rate, the first of the two best."""
    shares = {"sft-1e-4": 0.4, "sft-3e-4": 0.6, "sft-1e-3": 0.6}
    monkeypatch.setattr(demo, "LEARNING_RATES", ("1e-4", "3e-4", "1e-3"))
    monkeypatch.setattr(demo, "_trained", lambda base, rows, out, flags: {"command": " ".join(flags)})
    monkeypatch.setattr(demo, "_scored", lambda folder, problems, name: {"exact_match": shares[name]})
    best = demo._best("base", tmp_path / "rows", tmp_path, "sft", ["--a"], [])
    assert best == {
        "command": "--a --learning_rate=3e-4",
        "folder": "sft-3e-4",
        "learning_rate": "3e-4",
        "validation": {"1e-4": 0.4, "3e-4": 0.6, "1e-3": 0.6},
    }


def test_the_demo_runs_and_says_nothing_of_what_trl_will_change(tmp_path):
    code = (
        "import ift.lab.demo as demo; demo.LEARNING_RATES = ('1e-3',); demo.VALIDATION_ROWS = 4; "
        "raise SystemExit(demo.main('out', 0, 16, 6))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "FutureWarning" not in done.stdout + done.stderr
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["results"]["ift"]["learning_rate"] == "1e-3"
    assert record["results"]["sft"]["n"] == 6
    assert (tmp_path / "out" / record["results"]["ift"]["folder"] / "model.safetensors").is_file()
    assert (tmp_path / "out" / "curves.png").is_file()

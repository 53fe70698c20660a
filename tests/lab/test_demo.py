"""The demo: each method's learning rate comes from validation, and the record says what was tried."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from ift.lab import demo
from ift.lab.compare.estimate import span


def test_paired_difference_by_hand():
    """Gains 1, 0, 0, -1: mean 0, variance 2/3, half width 1.96 * sqrt(2/3/4) = 0.8002."""
    mean, low, high = demo.paired_difference([True, True, False, False], [False, True, False, True])
    assert mean == 0
    assert (low, high) == pytest.approx((-0.8002, 0.8002), abs=1e-4)


def test_the_rate_that_scores_best_on_validation_is_kept(monkeypatch, tmp_path):
    """Validation 0.4, 0.6, 0.6: the second rate, the first of the two best."""
    shares = {"sft-1e-4": 0.4, "sft-3e-4": 0.6, "sft-1e-3": 0.6}
    monkeypatch.setattr(demo, "LEARNING_RATES", ("1e-4", "3e-4", "1e-3"))
    monkeypatch.setattr(
        demo, "_trained", lambda base, rows, out, flags, estimate: {"command": " ".join(flags)}
    )
    monkeypatch.setattr(demo, "_scored", lambda folder, problems, name: {"exact_match": shares[name]})
    best = demo._best("base", tmp_path / "rows", tmp_path, "sft", ["--a"], [], None)
    assert best == {
        "command": "--a --learning_rate=3e-4",
        "folder": "sft-3e-4",
        "learning_rate": "3e-4",
        "validation": {"1e-4": 0.4, "3e-4": 0.6, "1e-3": 0.6},
    }


def test_the_first_lines_say_what_follows_and_name_a_smaller_demo():
    said = demo.what_follows(400, 200, 500)
    assert said.startswith(
        "4 trainings follow, sft and ift each with 2 learning rates: 50 steps of 16 rows, then answers to 200 "
        "problems. The better training of each method, and the base, answer 500 more."
    )
    assert said.endswith(" Shorter: ift demo --train_rows 64 --test_rows 50")
    assert "Shorter" not in demo.what_follows(64, 50, 50)


def test_the_time_is_said_once_after_a_few_steps(monkeypatch, capsys):
    """Base scored in 100 s, first step 10 s after it, steps of 2 s: 2 x (2 x 10 + (1 + 4/3) x 50 x 2) + 100 x 3.8."""
    clock = [0.0]
    monkeypatch.setattr(demo, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    estimate = demo.TimeEstimate(100.0, 400, 200, 500)
    for _ in range(2):
        for step in range(1, 6):
            clock[0] += 10.0 if step == 1 else 2.0
            estimate.on_step_end(None, SimpleNamespace(global_step=step, max_steps=50), None)
    seconds = 2 * (2 * 10 + (1 + 4 / 3) * 50 * 2) + 100 * (1 + 2 * (2 * 200 + 500) / 500)
    assert (
        capsys.readouterr().out
        == f"the whole demo takes about {span(seconds)}\n"
        == ("the whole demo takes about 17 minutes\n")
    )


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
    assert "2 trainings follow" in done.stdout
    assert done.stdout.count("the whole demo takes about ") == 1
    assert "FutureWarning" not in done.stdout + done.stderr
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["results"]["ift"]["learning_rate"] == "1e-3"
    assert record["results"]["sft"]["n"] == 6
    assert record["validation_rows"] == 4
    assert (tmp_path / "out" / record["results"]["ift"]["folder"] / "model.safetensors").is_file()
    assert (tmp_path / "out" / "curves.png").is_file()

"""`ift train --num_processes 2` on a CPU, from its command line to its saved weights."""

import json
import subprocess
import sys

import pytest
from killed_runs import weights
from short_runs import ROWS, SHORT


@pytest.mark.slow
def test_two_processes_save_the_weights_of_one(chat_model, write_rows, tmp_path):
    """Seven rows, two epochs, global batches of 4 and 3. Red when: one process runs, or a row comes twice."""
    rows = write_rows(ROWS["messages"][:7])
    flags = {
        **SHORT,
        "max_steps": -1,
        "num_train_epochs": 2,
        "optim": "sgd",  # Adam's first steps are the gradient's sign, whatever its size: rounding would move weights
        "learning_rate": 0.1,
        "residual_noise_std": 0.5,
        "lookahead": "sample",
    }

    ends = {}

    def run(out, batch, *more):
        told = {**flags, "per_device_train_batch_size": batch, "output_dir": tmp_path / out}
        words = [f"--{name}={value}" for name, value in told.items()]
        words += [f"--model_name_or_path={chat_model}", f"--dataset_name={rows}", *more]
        command = [sys.executable, "-m", "ift.cli.main", "train", *words]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        lines = (tmp_path / out / "metrics.jsonl").read_text().splitlines()
        found = [json.loads(line) for line in lines]
        ends[out] = [line["end_nll"] for line in found if "end_nll" in line]
        return done.stdout, weights(tmp_path / out), [line for line in found if "end_nll" not in line]

    said, ours, log = run("two", 2, "--num_processes", "2")
    _, expected, expected_log = run("one", 4)
    assert "2 processes on the CPU" in said
    largest = max(float(weight.abs().max()) for weight in expected.values())
    gap = max(float((ours[name] - expected[name]).abs().max()) for name in expected)
    before = weights(chat_model)
    moved = max(float((before[name] - expected[name]).abs().max()) for name in expected)
    assert gap <= 1e-5 * largest < 1e-3 * moved
    assert [line["num_tokens"] for line in log] == [line["num_tokens"] for line in expected_log]
    assert log[-1]["step"] == 4
    assert ends["two"] == pytest.approx(ends["one"], rel=1e-5)
    assert len(ends["one"]) == 4

"""Two processes are one: gradients and metrics of TDPO do not depend on the ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import tdpo_worker

import two_processes
from models import assert_same_gradients


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory):
    script = Path(__file__).parent / "tdpo_worker.py"
    return two_processes.of_two_processes(script, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", tdpo_worker.CASES)
def test_two_processes_are_one(of_two_processes, tmp_path, name):
    two, one = of_two_processes[name], tdpo_worker.run_case(name, tmp_path, 4)
    assert_same_gradients(two["gradients"], one["gradients"])
    keys = [
        key
        for key in one["log"]
        if key.startswith(("rewards", "logps", "kl")) or key in ("loss", "num_tokens")
    ]
    assert len(keys) == 10
    for key in keys:
        assert two["log"][key] == pytest.approx(one["log"][key], rel=1e-5), key

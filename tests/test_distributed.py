"""Two processes are one: gradients, metrics and evaluation of a global batch do not depend on the ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

import distributed_worker
import two_processes
from models import assert_same_gradients


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory):
    script = Path(__file__).parent / "distributed_worker.py"
    return two_processes.of_two_processes(script, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", distributed_worker.CASES)
def test_two_processes_are_one(of_two_processes, tmp_path, name):
    two, one = of_two_processes[name], distributed_worker.run_case(name, tmp_path, 8)
    assert_same_gradients(two["gradients"], one["gradients"])
    same = ("loss", "nll", "residual_nll", "entropy", "lookahead_accuracy", "eos_nll", "num_tokens", "lambda")
    for key in (*same, "propagation_weight_max", "propagation_negative_share"):
        assert two["log"][key] == pytest.approx(one["log"][key], rel=1e-5), key
    for key in one["metrics"]:
        if not key.endswith(("runtime", "per_second")):
            assert two["metrics"][key] == pytest.approx(one["metrics"][key], rel=1e-5), key

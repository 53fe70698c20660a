"""Two processes are one: gradients and metrics of TDPO do not depend on the ranks."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import tdpo_worker
import torch

from models import assert_same_gradients


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environment |= {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    here = Path(__file__).parent
    paths = [str(here), str(here.parent), os.environ.get("PYTHONPATH")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    ranks = [
        subprocess.Popen(
            [sys.executable, str(here / "tdpo_worker.py"), str(folder)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        told = [rank.communicate(timeout=120)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(text[-3000:] for text in told)
    return torch.load(folder / "found.pt", weights_only=False)


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

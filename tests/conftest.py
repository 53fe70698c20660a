"""Shared test settings: offline, one thread, one seed."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

import pytest
import torch

from ift.step.shared_prefix.work import LEAST_WORK

LEAST_WORK["cpu"] = 0.0  # a shared prefix pays from a size on that no test has: "auto" would never share here
torch.set_num_threads(1)  # tiny tensors: a second thread costs more than it gives


SLOW_SECONDS = 1800  # after which a slow test has failed; for others `timeout` of pyproject.toml holds


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(SLOW_SECONDS))


@pytest.fixture(autouse=True)
def _fixed_seed():
    torch.manual_seed(0)

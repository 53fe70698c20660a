"""Shared test settings: offline, one thread, one seed."""

from __future__ import annotations

import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

import pytest

SLOW_SECONDS = 1800  # after which a slow test has failed; for others `timeout` of pyproject.toml holds


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(SLOW_SECONDS))


@pytest.fixture(scope="session", autouse=True)
def _small_tensors():
    """Imports torch here: xdist's first process, which runs no test, starts the others without it."""
    import torch

    from ift.step.shared_prefix.work import LEAST_WORK

    LEAST_WORK["cpu"] = 0.0  # "auto" would share none of the tests' small batches
    torch.set_num_threads(1)  # tiny tensors: a second thread costs more than it gives


@pytest.fixture(scope="module", autouse=True)
def _libraries_are_no_garbage():
    """Leaves what is there when a file begins out of every later collection.

    accelerate and `train_run` collect garbage in each training, and a heap with all libraries takes half a second.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def each_peak_once():
    """The memory of the same passes of the same model, half of the time of a short run, is counted once."""
    from ift.check import memory

    count, known = memory.passes_peak, {}

    def passes_peak(model, passes):
        weights = tuple((name, one.dtype, one.requires_grad) for name, one in model.named_parameters())
        config = model.config
        key = (str(model), str(config), config._attn_implementation, weights, passes)
        if key not in known:
            known[key] = count(model, passes)
        return known[key]

    memory.passes_peak = passes_peak
    yield
    memory.passes_peak = count


@pytest.fixture(autouse=True)
def _fixed_seed():
    import torch

    torch.manual_seed(0)

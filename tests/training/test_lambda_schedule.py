"""Lambda over a training against the oracle; its noise."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from ift.training import lambda_schedule as F

settings.register_profile("fast", max_examples=25, deadline=None, derandomize=True)
settings.load_profile("fast")


@given(
    st.integers(0, 40),
    st.integers(1, 40),
    st.floats(0, 1),
    st.none() | st.floats(0, 1),
    st.floats(0, 1),
)
def test_scheduled_lambda_is_the_references(step, total, target, start, ratio):
    arguments = (step, total, target, start, ratio)
    assert F.scheduled_lambda(*arguments) == pytest.approx(reference.scheduled_lambda(*arguments), abs=1e-12)


def test_noisy_lambda_is_stateless_clamped_and_normal():
    draws = [F.noisy_lambda(0.4, 0.1, 7, step) for step in range(4000)]
    torch.manual_seed(99)  # the global generator has no say, and is not moved
    before = torch.random.get_rng_state()
    assert [F.noisy_lambda(0.4, 0.1, 7, step) for step in (3, 2, 3)] == [draws[3], draws[2], draws[3]]
    assert torch.equal(before, torch.random.get_rng_state())
    noise = (torch.tensor(draws, dtype=torch.float64) / 0.4 - 1) / 0.1
    assert abs(noise.mean()) < 4 / math.sqrt(4000)
    assert abs(noise.std() - 1) < 0.05
    assert abs(torch.corrcoef(torch.stack([noise[:-1], noise[1:]]))[0, 1]) < 4 / math.sqrt(4000)
    wild = [F.noisy_lambda(0.5, 10.0, 7, step) for step in range(50)]
    assert min(wild) == 0
    assert max(wild) == 1
    assert F.noisy_lambda(0.5, 0.0, 7, 3) == 0.5
    assert F.noisy_lambda(0.4, 0.1, 8, 3) != draws[3]
    for seed in (0, 2**63, -5):
        assert 0 <= F.noisy_lambda(0.4, 0.5, seed, 10**9) <= 1

"""Lambda over a training run: warm-up, and the noise of Table 7 (Hua et al., arXiv:2405.11870v3)."""

from __future__ import annotations

import math

import torch


def scheduled_lambda(
    step: int, total_steps: int, target: float, start: float | None, warmup_ratio: float
) -> float:
    """Lambda at an optimiser step (from 0): linear from `start` (None: 0) to `target` in the warm-up, then constant."""
    warmup = math.ceil(warmup_ratio * total_steps)
    if step >= warmup:
        return target
    begin = start or 0.0
    return begin + (target - begin) * step / warmup


def noisy_lambda(residual_lambda: float, noise_std: float, seed: int, step: int) -> float:
    """Table 7: lambda * (1 + sigma * n), n ~ N(0, 1), clamped to [0, 1]; stateless in (seed, step)."""
    if noise_std == 0:
        return residual_lambda
    generator = torch.Generator().manual_seed(
        (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9) % (1 << 63)
    )
    noise = torch.randn((), generator=generator, dtype=torch.float64).item()
    return min(1.0, max(0.0, residual_lambda * (1 + noise_std * noise)))

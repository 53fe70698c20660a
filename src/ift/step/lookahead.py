"""The look-ahead: the model's own guess at every trained position (Algorithm 1, arXiv:2405.11870v3).

Pure tensor functions, like `equations`; no gradient flows through anything here. The greedy guess, which is the
paper's, is in this file; `lookahead_variants` has the sampled and the expected one.

Shape legend: V vocabulary, H width, N trained positions, n of them in one tile, K candidates of one guess.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ift.step.head import Head
from ift.step.lookahead_variants import SampledToken, TopCandidates
from ift.step.settings import StepSettings


@dataclass(frozen=True)
class LookAhead:
    """What the model expects at each of N trained positions. No gradient flows through any field.

    Attributes:
        ids: (N, K) int64. K is 1 for greedy and sampled guesses, the top-k for the expected one.
        probabilities: (N, K) float32, each row sums to 1.
        top1: (N,) int64. The argmax, for every kind of guess.
        nll: (N,) float32. Teacher-forced -log pi(x_t | x_<t).
    """

    ids: Tensor
    probabilities: Tensor
    top1: Tensor
    nll: Tensor


@torch.no_grad()
def look_ahead(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    settings: StepSettings,
    uniforms: Tensor | None = None,
    tile: tuple[int, int] = (4096, 32768),
) -> LookAhead:
    """The model's guess p_t at every trained position, in tiles: no (N, V) tensor is ever built.

    Args:
        hidden: (N, H), the state that predicts each trained position.
        head: the model's own head.
        targets: (N,) int64, the target tokens x_t, for the teacher-forced negative log-likelihood.
        settings: the kind of guess, its temperature and its number of candidates.
        uniforms: (N,) float32 in (0, 1), the noise of a sampled guess; needed for that kind alone.
        tile: tokens and vocabulary entries of the largest tile.
    """
    parts = []
    for start in range(0, max(len(hidden), 1), tile[0]):
        rows = slice(start, start + tile[0])
        noise = None if uniforms is None else uniforms[rows]
        parts.append(_look_ahead_tile(hidden[rows], head, targets[rows], settings, noise, tile[1]))
    names = ("ids", "probabilities", "top1", "nll")
    return LookAhead(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def _look_ahead_tile(
    hidden: Tensor, head: Head, targets: Tensor, settings: StepSettings, uniforms: Tensor | None, width: int
) -> LookAhead:
    """`look_ahead` for the n tokens of one tile, over tiles of `width` vocabulary entries."""
    best = torch.full((len(hidden),), -math.inf, device=hidden.device)  # (n,) running maximum
    top1 = torch.zeros(len(hidden), dtype=torch.int64, device=hidden.device)
    log_z, target_logit = best.clone(), best.clone()
    variant = _variant(hidden, head, settings, uniforms, width)
    for start, z in head.tiles(hidden, width):  # (n, width)
        value, index = z.max(-1)
        top1 = torch.where(value > best, index + start, top1)  # p_t = argmax_v pi(v | x_<t)
        best = torch.maximum(best, value)
        log_z = torch.logaddexp(log_z, z.logsumexp(-1))
        local = (targets - start).clamp(0, z.shape[1] - 1)
        inside = (targets >= start) & (targets < start + z.shape[1])
        target_logit = torch.where(inside, z.gather(1, local[:, None])[:, 0], target_logit)
        if variant is not None:
            variant.add(start, z)
    nll = log_z - target_logit
    if variant is None:
        return LookAhead(top1[:, None], torch.ones_like(best)[:, None], top1, nll)
    return LookAhead(*variant.guess(), top1, nll)


def _variant(
    hidden: Tensor, head: Head, settings: StepSettings, uniforms: Tensor | None, width: int
) -> SampledToken | TopCandidates | None:
    """What accumulates a sampled or expected guess; None for the greedy guess."""
    if settings.lookahead == "expected":
        return TopCandidates(hidden, settings.lookahead_top_k, settings.lookahead_temperature)
    if settings.lookahead == "sample":
        assert uniforms is not None  # nosec B101 # for the type checker
        return SampledToken(hidden, head, uniforms, settings.lookahead_temperature, width)
    return None

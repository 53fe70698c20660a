"""The log-probability of each target token under a language-model head, without a tensor of all logits (N, V).

The head's product is computed in tiles of tokens by vocabulary entries and folded into running sums; the backward pass
computes each tile again. On a CPU every operation, its order and the tiles are those of trl 1.16's chunked head, so
that the results are the same bits (tests/step/test_scored_log_probs.py compares them).

Shape legend: N states, H width, V vocabulary; n and v are one tile's share of N and V.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ift.step.head import Head

TILE_TOKENS = 4096  # of the largest tile
TILE_WIDTH = 32768  # vocabulary entries of the largest tile; fewer if it would exceed one of these limits:
TILE_ENTRIES = 1 << 22  # 16 MiB in float32; two or three such tensors exist at a time
TILE_ENTRIES_GPU = 1 << 25  # 128 MiB


def tile_shape(tokens: int, device: torch.device) -> tuple[int, int]:
    """Tokens and vocabulary entries of the largest tile of logits. The width changes results by rounding errors alone.

    Args:
        tokens: trained positions N to project.
        device: where they are projected. On a GPU tiles are larger, as each costs a dozen kernel launches.
    """
    entries = TILE_ENTRIES_GPU if device.type in ("cuda", "xpu") else TILE_ENTRIES
    width = entries // max(1, min(tokens, TILE_TOKENS)) // 64 * 64
    return TILE_TOKENS, min(TILE_WIDTH, max(64, width))


def every_tile(tokens: int, entries: int, width: int) -> tuple[Sequence[int], Sequence[int]]:
    """The first token of each tile, and its first vocabulary entry; arguments: N, V and the width of a tile."""
    return range(0, tokens, TILE_TOKENS), range(0, entries, width)


def scored_log_probs(
    hidden: Tensor,
    head: Head,
    targets: Tensor,
    width: int | None = None,
    tiles: Callable[[int, int, int], tuple[Sequence[int], Sequence[int]]] = every_tile,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores each target with the head.

    Args:
        hidden: (N, H), the state that predicts each target. Gradient flows to it if it requires one.
        head: gradient flows to its weight and bias, each if it requires one. Its weights must be whole
            here and in the backward pass: see `ift.step.model.with_head`.
        targets: (N,) int64.
        width: vocabulary entries of the largest tile; None takes that of `tile_shape`.
        tiles: which tiles are computed. All are, except where only memory counts (`ift.check.fake_step`).

    Returns:
        Log-probability (N,) float32 with gradient; entropy of the prediction (N,) float32 and whether the target is
        the most likely token (N,) bool (of tied tokens, the lowest id), both without gradient.
    """
    width = width or tile_shape(len(hidden), hidden.device)[1]
    scores: tuple[Tensor, Tensor, Tensor] = _ScoredLogProbs.apply(  # type: ignore[no-untyped-call]
        hidden, head.weight, head.bias, targets, head.scale, head.softcap, width, tiles
    )
    return scores


class _ScoredLogProbs(torch.autograd.Function):
    """`scored_log_probs` on plain tensors. All sums are in float32, for products of any dtype."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        scale: float,
        softcap: float | None,
        width: int,
        tiles: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        maximum = torch.full((len(hidden),), -math.inf, device=hidden.device)  # of the logits so far
        # sum of e^z, sum of z e^z, the target's z
        total, moment, chosen = (torch.zeros_like(maximum) for _ in range(3))
        best = torch.full_like(targets, -1)  # the argmax so far
        for rows, start, _, _, tile in _tiles(hidden, weight, bias, dtype, width, tiles):
            z, _ = _logits(tile, scale, softcap)  # (n, v)
            value, index = z.max(-1)
            best[rows] = torch.where(value > maximum[rows], index + start, best[rows])
            column, inside = _target_column(targets[rows] - start, z.shape[1])
            chosen[rows] = torch.where(inside, z.gather(1, column)[:, 0], chosen[rows])
            higher = torch.maximum(maximum[rows], value)
            rescale = torch.exp(maximum[rows] - higher)
            exponentials = (z - higher[:, None]).exp_()  # (n, v)
            total[rows] = total[rows] * rescale + exponentials.sum(-1)
            moment[rows] = moment[rows] * rescale + exponentials.mul_(z).sum(-1)
            maximum[rows] = higher
        log_z = maximum + torch.log(total)
        entropy, top1 = log_z - moment / total, best == targets
        ctx.save_for_backward(hidden, weight, bias, targets, log_z)
        ctx.settings = (
            dtype,
            scale,
            softcap,
            width,
            tiles,
        )  # autocast, which sets the dtype, is off in the backward pass
        ctx.mark_non_differentiable(entropy, top1)
        return chosen - log_z, entropy, top1

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        """By logit: d log p(target) / d z_j = [j is the target] - p_j; then through softcap and scale."""
        hidden, weight, bias, targets, log_z = ctx.saved_tensors
        dtype, scale, softcap, width, tiles = ctx.settings
        inputs = hidden, weight, bias
        sums = [
            x.new_zeros(x.shape, dtype=torch.float32) if needed else None
            for x, needed in zip(inputs, ctx.needs_input_grad[:3], strict=True)
        ]
        to_hidden, to_weight, to_bias = sums
        for rows, start, states, part, tile in _tiles(hidden, weight, bias, dtype, width, tiles):
            z, squashed = _logits(tile, scale, softcap)  # (n, v)
            to_z = z.sub_(log_z[rows, None]).exp_().neg_()
            column, inside = _target_column(targets[rows] - start, z.shape[1])
            to_z.scatter_add_(1, column, inside[:, None].float()).mul_(gradient[rows, None])
            if squashed is not None:
                to_z.mul_(squashed.square_().neg_().add_(1))
            tile.copy_(to_z if scale == 1 else to_z.mul_(scale))
            if to_hidden is not None:
                _add_product(to_hidden[rows], tile, part)
            if to_weight is not None:
                _add_product(to_weight[start : start + len(part)], tile.t(), states)
            if to_bias is not None:
                to_bias[start : start + len(part)] += tile.sum(0, dtype=torch.float32)
        gradients = [None if s is None else s.to(x.dtype) for s, x in zip(sums, inputs, strict=True)]
        return (*gradients, None, None, None, None, None)


def _tiles(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, width: int, tiles: Any
) -> Iterator[tuple[slice, int, Tensor, Tensor, Tensor]]:
    """The head's product tile by tile: rows of N, first column of V, states (n, H), weights (v, H), product (n, v).

    All in `dtype`. The product may be overwritten; the next tile uses the same memory. Its rows are `width` apart, as
    trl's are: with H = 1 a library's product was seen to depend on that in the last bit.
    """
    buffer = hidden.new_empty((min(len(hidden), TILE_TOKENS), width), dtype=dtype)
    firsts, starts = tiles(len(hidden), len(weight), width)
    for first in firsts:
        rows = slice(first, first + TILE_TOKENS)
        states = hidden[rows].to(dtype)
        for start in starts:
            part = weight[start : start + width].to(dtype)
            tile = torch.mm(states, part.t(), out=buffer[: len(states), : len(part)])
            if bias is not None:
                tile.add_(bias[start : start + width].to(dtype))
            yield rows, start, states, part, tile


def _logits(product: Tensor, scale: float, softcap: float | None) -> tuple[Tensor, Tensor | None]:
    """Logits in float32 of a tile, and tanh(scale * product / softcap) if there is a softcap; in place if possible."""
    z = product.float()
    z = z if scale == 1 else z.mul_(scale)
    if softcap is None:
        return z, None
    squashed = z.div_(softcap).tanh_()
    return squashed * softcap, squashed


def _target_column(local: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Each target's column (n, 1), clamped to the tile, and whether the tile has it (n,); no GPU synchronisation."""
    return local.clamp(0, width - 1)[:, None], (local >= 0) & (local < width)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """`total += left @ right` in float32: a product rounded to bfloat16 before it is added would bias the gradient."""
    if total.is_cuda and left.dtype in (torch.bfloat16, torch.float16):
        torch.addmm(total, left, right, out_dtype=torch.float32, out=total)
    else:
        total.addmm_(left.float(), right.float())

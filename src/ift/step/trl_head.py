"""trl's fused head, the only thing of trl that a step touches; it is imported when it is first used.

tests/training/test_contract.py checks what is assumed of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ift.step.lookahead import Head

TORCH_TILE = 1 << 22  # entries of a tile where plain torch folds it, with half a dozen copies of it alive


def tile_shape(tokens: int, device: torch.device) -> tuple[int, int]:
    """Tokens and vocabulary entries of the largest tile of logits: trl's own on GPUs, where Triton folds it in place.

    Elsewhere (a CPU) a tile is folded by torch, which copies it; there it is narrower, 16 MiB in float32: at trl's
    width (half a GiB) it would be the peak of a step. The result is the same but for rounding.

    Args:
        tokens: trained positions N to project.
        device: where.
    """
    from trl.kernels import chunked_logprob
    from trl.trainer import utils as trl_utils

    height, width = chunked_logprob.TOKEN_CHUNK_SIZE, trl_utils._CHUNKED_LOGPROB_CHUNK_SIZE
    if device.type not in ("cuda", "xpu"):
        width = min(width, max(64, TORCH_TILE // max(1, min(tokens, height)) // 64 * 64))
    return height, width


def scored_log_probs(hidden: Tensor, head: Head, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Trl's chunked kernel on N states: log-probability (N,), entropy (N,) and is-top-1 (N,) of each target.

    float32, computed in tiles with no (N, V) tensor; gradient flows to `hidden` and the head through the first two.
    """
    from trl.kernels import chunked_logprob

    log_probs, entropy, _, _, is_top1 = chunked_logprob.ChunkedLogProbFunction.apply(
        hidden,
        head.weight,
        head.bias,
        targets,
        1.0,
        tile_shape(len(hidden), hidden.device)[1],
        head.softcap,
        head.scale,
        ("entropy", "is_top1"),
    )
    return log_probs, entropy, is_top1

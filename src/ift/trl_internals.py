"""Every internal of trl and transformers that ift touches, in one place; tests/test_contract.py checks each of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
from trl.kernels import chunked_logprob
from trl.trainer import utils as trl_utils

from ift.lookahead import Head

__all__ = ["SendsNothing", "auxiliary_loss", "head_of", "scored_log_probs", "tile_shape"]


TORCH_TILE = 1 << 22  # entries of a tile where plain torch folds it, with half a dozen copies of it alive


def tile_shape(tokens: int, device: torch.device) -> tuple[int, int]:
    """Tokens and vocabulary entries of the largest tile of logits: trl's own on GPUs, where Triton folds it in place.

    Elsewhere (a CPU) a tile is folded by torch, which copies it; there it is narrower, 16 MiB in float32: at trl's
    width (half a GiB) it would be the peak of a step. The result is the same but for rounding.

    Args:
        tokens: trained positions N to project.
        device: where.
    """
    height, width = chunked_logprob.TOKEN_CHUNK_SIZE, trl_utils._CHUNKED_LOGPROB_CHUNK_SIZE
    if device.type not in ("cuda", "xpu"):
        width = min(width, max(64, TORCH_TILE // max(1, min(tokens, height)) // 64 * 64))
    return height, width


def head_of(model: Any) -> Head:
    """The model's head, looked up at each call (PEFT and FSDP replace it); a sharded head is gathered once."""
    module, config = model.get_output_embeddings(), model.config.get_text_config()
    weight, bias = module.weight, getattr(module, "bias", None)
    if isinstance(weight, DTensor):
        weight = weight.full_tensor()
        bias = None if bias is None else bias.full_tensor()
    return Head(weight, bias, _logit_scale(config), getattr(config, "final_logit_softcapping", None))


def _logit_scale(config: Any) -> float:
    """The factor that some families put on their logits; a wrong one is caught by `support.check_head`."""
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if getattr(config, name, None) is not None:
            return float(getattr(config, name))
    scaling = getattr(config, "logits_scaling", None)
    if scaling is None:
        return 1.0
    return float(scaling) if config.model_type == "hyperclovax" else 1.0 / scaling


def scored_log_probs(hidden: Tensor, head: Head, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Trl's chunked kernel on N states: log-probability (N,), entropy (N,) and is-top-1 (N,) of each target.

    float32, computed in tiles with no (N, V) tensor; gradient flows to `hidden` and the head through the first two.
    """
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


def auxiliary_loss(model: Any, router_logits: Any, attention_mask: Tensor | None) -> Tensor:
    """The load-balancing loss of a mixture of experts, unweighted, as trl's own trainer computes it."""
    config = model.config.get_text_config()
    loss = load_balancing_loss_func(
        router_logits, config.num_experts, config.num_experts_per_tok, attention_mask
    )
    return torch.as_tensor(loss)


class SendsNothing:
    """Mixin before a trl trainer: nothing is reported to the Hub; trl sends a ping for every trainer that is made."""

    def _send_telemetry(self) -> None:
        """Instead of trl's."""

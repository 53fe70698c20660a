"""Access to a model's parts: the unwrapped module, its head, evaluation mode, the experts' load-balancing loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from ift.step.head import Head


def unwrapped(model: nn.Module) -> Any:
    """The causal language model inside DDP, FSDP, torch.compile and PEFT wrappers."""
    inner = extract_model_from_parallel(model)
    return (
        inner.get_base_model()
        if hasattr(inner, "peft_config") and hasattr(inner, "get_base_model")
        else inner
    )


def has_weights(model: nn.Module) -> bool:
    """Whether the model can be run outside a training step: loaded, and neither wrapped nor sharded (FSDP, ZeRO-3)."""
    wrapped = extract_model_from_parallel(model) is not model
    return not wrapped and not any(
        isinstance(p, DTensor) or hasattr(p, "ds_id") or p.is_meta for p in model.parameters()
    )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """While active, every module is in evaluation mode (dropout and checkpointing off); the modes are then restored."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def keep_quantised_layout(model: nn.Module) -> None:
    """Leaves the weights of bitsandbytes' 4-bit layers as they were quantised.

    On a CPU with AVX512-BF16 the first pass without gradients would change them for good to a layout through which no
    gradient flows (and which small layers do not have).
    """
    for module in model.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 (for mypy, a module has only modules)


def head_of(model: Any) -> Head:
    """The model's head; gathered if FSDP2 shards it. Look it up for each step, since PEFT and FSDP replace it."""
    module, config = model.get_output_embeddings(), model.config.get_text_config()
    weight, bias = module.weight, getattr(module, "bias", None)
    if isinstance(weight, DTensor):
        weight = weight.full_tensor()
        bias = None if bias is None else bias.full_tensor()
    return Head(weight, bias, _logit_scale(config), getattr(config, "final_logit_softcapping", None))


def with_head(model: Any, function: Callable[[Head, Tensor], Any], states: Tensor) -> Any:
    """Returns `function(head, states)`, with unsharded weights in `head`. Call it after the backbone's forward.

    FSDP2 and DeepSpeed ZeRO-3 gather a module's weights for its forward and backward passes only, by hooks on the
    module. If the head is still sharded after the backbone's forward, `function` therefore runs as the forward of the
    head's module. Elsewhere it would read a shard, and the gradient would lack the other ranks' part.
    """
    module: Any = model.get_output_embeddings()
    sharded = isinstance(module.weight, DTensor) and isinstance(module, FSDPModule)
    if not (sharded or hasattr(module.weight, "ds_id")):
        return function(head_of(model), states)
    original = module.forward
    module.forward = lambda states: function(head_of(model), states)
    try:
        return module(states)
    finally:
        module.forward = original


def _logit_scale(config: Any) -> float:
    """The factor that some families apply to their logits; `model_checks.check_head` detects a wrong one."""
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if getattr(config, name, None) is not None:
            return float(getattr(config, name))
    scaling = getattr(config, "logits_scaling", None)
    if scaling is None:
        return 1.0
    return float(scaling) if config.model_type == "hyperclovax" else 1.0 / scaling


def auxiliary_loss(model: Any, router_logits: Any, attention_mask: Tensor | None) -> Tensor:
    """The load-balancing loss of a mixture of experts, unweighted, as trl's own trainer computes it."""
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func  # slow to import

    config = model.config.get_text_config()
    loss = load_balancing_loss_func(
        router_logits, config.num_experts, config.num_experts_per_tok, attention_mask
    )
    return torch.as_tensor(loss)

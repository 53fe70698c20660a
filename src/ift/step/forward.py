"""Adds an argument to a model's forward, so that wrappers (DDP, FSDP2, PEFT) see one ordinary forward call."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ift.step.model import has_weights, unwrapped
from ift.step.model_checks import check_architecture, check_causal, check_head


def add_forward_argument(model: nn.Module, argument: str, function: Callable[..., Any]) -> None:
    """Makes `model(..., argument=value)` return `function(inner model, value, ...)`. Idempotent.

    Without the argument, or with None, the forward is unchanged.

    Args:
        model: a causal language model of transformers, bare or wrapped.
        argument: name of the keyword argument.
        function: takes the unwrapped model, the argument's value and the other keyword arguments of the call.

    Raises:
        ValueError: the architecture cannot be trained with IFT, or its head transforms logits in an unknown way; the
            message names the model and the reason.
    """
    check_architecture(model)  # on every call: an adapter may have been added since the last one
    inner = unwrapped(model)
    enabled = f"_{argument}_enabled"
    if getattr(inner, enabled, False):
        return
    original = inner.forward
    unbound = getattr(original, "__func__", None)  # a copy of the model must not run the forward of this one

    @functools.wraps(type(inner).forward)  # generate() and Trainer read the signature
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        value = kwargs.pop(argument, None)
        if value is not None:
            return function(self, value, **kwargs)
        return original(*args, **kwargs) if unbound is None else unbound(self, *args, **kwargs)

    if has_weights(model):
        check_causal(model)
        check_head(model)
        torch.clear_autocast_cache()  # weights cast without a graph must not be reused in training
    inner.forward = types.MethodType(forward, inner)
    setattr(inner, enabled, True)

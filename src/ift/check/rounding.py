"""Learning rates that are too small for weights in 16 bits."""

from __future__ import annotations

from typing import Any

import torch

from ift.check.engines import Engine, Held

TYPICAL = 0.02  # of a weight, where the configuration has no `initializer_range`
# optimisers whose step is about the learning rate, whatever the gradient is; two of them keep what was rounded away
NORMALISED, EXACT = ("adam", "lion", "rmsprop", "lamb", "ademamix"), ("anyprecision", "stable_adamw")


def lost_updates(config: Any, held: Held, engine: Engine, read: Any, dtype: torch.dtype) -> str:
    """The problem and fix where most of an optimiser's steps are rounded away; "" without.

    The sum of a weight and a step is rounded to the nearest number that the weight's dtype has: a step below half the
    distance to it is lost. That is at least 2^-9 of a weight in bfloat16, 2^-12 in float16.

    Args:
        config: The training's settings.
        held: What a step holds.
        engine: Of the run: DeepSpeed and FSDP2 in mixed precision have trained weights in float32.
        read: The model's configuration.
        dtype: Of the weights as they are loaded; beside a base in few bits trl makes an adapter's bfloat16.
    """
    few_bits = held.unsharded > 0
    dtype = torch.bfloat16 if few_bits else dtype
    optimizer = str(getattr(config.optim, "value", config.optim))
    if not held.trained or held.optimised(engine) >= 4 * held.trained or dtype.itemsize != 2:
        return ""
    if not any(one in optimizer for one in NORMALISED) or any(one in optimizer for one in EXACT):
        return ""
    bits = 9 if dtype == torch.bfloat16 else 12
    typical = getattr(read.get_text_config(), "initializer_range", None) or TYPICAL
    least = typical * 2.0**-bits
    if not 0 < config.learning_rate < least:
        return ""
    name = str(dtype).removeprefix("torch.")
    # LoRA's own matrices are in float32, and its whole copies of modules in 16 bits, but with a base in few bits
    if few_bits:
        weights, other = "matrices of the adapter", "a higher learning rate, or LoRA on a base in 16 bits"
    elif held.optimised(engine) > 2 * held.trained:
        weights, other = (
            "copies of lora_modules_to_save",
            "--dtype float32 (the default), or a higher learning rate",
        )
    else:
        weights, other = (
            "weights",
            "--dtype float32 (the default), or LoRA, whose adapter is float32 on such weights",
        )
    return (
        f"the {weights} are trained in {name}, without a copy in float32, and learning_rate {config.learning_rate:g} "
        f"is too small for them: an update below 2^-{bits} of a weight is rounded away ({least:.1e} for a weight of "
        f"{typical:g}), and an update of {optimizer} is about as large as the learning rate. Fix: {other}"
    )

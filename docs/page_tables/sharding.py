"""The bytes that each of many GPUs sends in a training step, by arithmetic.

AdamW, weights kept in float32, computed in bfloat16, as ift's accelerate configurations have it. How often a block is
gathered is measured on two processes (tests/training/test_distributed.py); nothing here was measured on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ift.check.engines import FULL

STRATEGIES = ("ddp", "zero2", "zero3", "fsdp2")
HALF = 2  # bytes of bfloat16


@dataclass(frozen=True)
class Gathers:
    """How often a step's passes need the weights whole, where they lie in shards.

    Attributes:
        block: of every block.
        root: of what lies outside the blocks: embeddings, head, last norm.
        more_blocks: blocks that FSDP2 gathers besides: going backward it fetches the block that ran before, and before
            the first block of the mixed pass ran the last one of the look-ahead.
    """

    block: int
    root: int
    more_blocks: int


GATHERS = {
    "sft": Gathers(block=2, root=2, more_blocks=0),  # forward, backward
    "ift": Gathers(
        block=3, root=2, more_blocks=1
    ),  # look-ahead, forward, backward, as GPUs run it; the root once
    "dpo": Gathers(block=3, root=3, more_blocks=0),  # forward, backward; the reference's forward
}


@dataclass(frozen=True)
class Shape:
    """Parameters of a model by where they lie.

    Attributes:
        blocks: number of blocks.
        block: parameters of each.
        root: parameters outside the blocks.
    """

    blocks: int
    block: int
    root: int

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        return self.blocks * self.block + self.root


def shape_of(config: Any) -> Shape:
    """The shape of the causal language model of a transformers configuration; no weight is made.

    Raises:
        ValueError: its blocks are not all of one size.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    sizes = [sum(p.numel() for p in block.parameters()) for block in model.get_decoder().layers]
    if len(set(sizes)) != 1:
        raise ValueError(
            f"The blocks of {type(model).__name__} have {min(sizes)} to {max(sizes)} parameters; "
            "this arithmetic is for models whose blocks are all of one size."
        )
    every = sum(p.numel() for p in model.parameters())
    return Shape(len(sizes), sizes[0], every - sum(sizes))


def sent_bytes(shape: Shape, method: str, strategy: str, gpus: int) -> int:
    """Bytes that one GPU sends in one optimiser step without accumulation; one GPU sends nothing.

    Args:
        shape: of the model.
        method: "sft", "ift" or "dpo", as `GATHERS` has them.
        strategy: one of `STRATEGIES`.
        gpus: 1 or more.

    Raises:
        ValueError: a strategy, a method or a number of GPUs that is not known here.
    """
    if strategy not in STRATEGIES or method not in GATHERS or gpus < 1:
        raise ValueError(
            f"Found strategy {strategy!r}, method {method!r}, {gpus} GPUs; give one of {', '.join(STRATEGIES)}, one of "
            f"{', '.join(GATHERS)}, and 1 GPU or more."
        )
    return round(_passed(shape, method, strategy) * (gpus - 1) / gpus)


def gathered_parameters(shape: Shape, method: str) -> int:
    """Parameters that each GPU gathers in one forward and backward, where the model lies in shards."""
    times = GATHERS[method]
    return (times.block * shape.blocks + times.more_blocks) * shape.block + times.root * shape.root


def _passed(shape: Shape, method: str, strategy: str) -> int:
    """Bytes that rings of very many GPUs pass through each: an all-reduce passes everything twice, the others once."""
    if strategy == "ddp":
        return 2 * FULL * shape.parameters  # gradients in float32
    if strategy == "zero2":
        return 2 * HALF * shape.parameters  # gradients out, new weights in
    return HALF * (gathered_parameters(shape, method) + shape.parameters)  # weights in, gradients out

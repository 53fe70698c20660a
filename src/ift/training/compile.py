"""torch.compile, block by block."""

from __future__ import annotations

from typing import Any

from accelerate.utils.other import is_repeated_blocks
from torch import nn

from ift.step.model import unwrapped


def compile_blocks(model: nn.Module, **options: Any) -> None:
    """Compile every decoder layer in place: one graph for all of them; hooks, names and weights stay what they were.

    Args:
        model: a language model, in wrappers or not.
        options: of `torch.compile`.
    """

    def compile_in(module: nn.Module) -> None:
        for child in module.children():
            if is_repeated_blocks(child):
                for block in child.children():
                    block.compile(**options)
            else:
                compile_in(child)

    compile_in(unwrapped(model))

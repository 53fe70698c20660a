"""torch.compile, one decoder layer at a time."""

from __future__ import annotations

from typing import Any

from accelerate.utils.other import is_repeated_blocks
from torch import nn

from ift.step.model import unwrapped


def compile_blocks(model: nn.Module, **options: Any) -> None:
    """Compiles every decoder layer in place with one shared graph; hooks, names and weights are unchanged."""

    def compile_in(module: nn.Module) -> None:
        for child in module.children():
            if is_repeated_blocks(child):
                for block in child.children():
                    block.compile(**options)
            else:
                compile_in(child)

    compile_in(unwrapped(model))

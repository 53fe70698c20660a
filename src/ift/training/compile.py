"""The decoder layers of a model, and torch.compile for one of them at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from accelerate.utils.other import is_repeated_blocks
from torch import nn

from ift.step.model import unwrapped


def decoder_layers(module: nn.Module) -> Iterator[nn.Module]:
    """Every decoder layer below a module."""
    for child in module.children():
        yield from child.children() if is_repeated_blocks(child) else decoder_layers(child)


def compile_blocks(model: nn.Module, **options: Any) -> None:
    """Compiles every decoder layer in place with one shared graph; hooks, names and weights are unchanged."""
    for layer in decoder_layers(unwrapped(model)):
        layer.compile(**options)

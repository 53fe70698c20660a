"""A language-model head as pure tensors. Shape legend: V vocabulary, H width, n tokens of one tile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Head:
    """A language-model head: logits = softcap(scale * (hidden @ weight.T + bias)).

    Attributes:
        weight: (V, H).
        bias: (V,) or None.
        scale: factor on the logits.
        softcap: c of c * tanh(z / c), or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: Tensor, start: int, end: int) -> Tensor:
        """Logits (n, end - start) in float32 of hidden (n, H) for the vocabulary slice [start, end)."""
        bias = None if self.bias is None else self.bias[start:end]
        z = torch.nn.functional.linear(hidden, self.weight[start:end], bias).float()
        z = z if self.scale == 1 else z * self.scale
        return z if self.softcap is None else self.softcap * torch.tanh(z / self.softcap)

    def tiles(self, hidden: Tensor, width: int) -> Iterator[tuple[int, Tensor]]:
        """Tiles of `width` vocabulary entries: the first entry's id, and the logits (n, width) of hidden (n, H)."""
        vocabulary = len(self.weight)
        for start in range(0, vocabulary, width):
            yield start, self.logits(hidden, start, min(start + width, vocabulary))

"""Compares the logits of two models on a few rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from ift.data.samples import ids_and_labels
from ift.step.model import evaluating, unwrapped

ROWS, TOKENS = 3, 128  # rows that are compared, and tokens of each
EXACT, ROUNDED = (
    1e-3,
    0.1,
)  # limits in standard deviations of the logits: in float32, and in bfloat16 or float16


@dataclass(frozen=True)
class Difference:
    """The difference between the logits of two models.

    Attributes:
        largest: Largest absolute difference of a logit.
        relative: Root mean square of the differences, in standard deviations of the logits.
        limit: The largest `relative` that is attributed to rounding.
    """

    largest: float
    relative: float
    limit: float

    @property
    def same(self) -> bool:
        """Whether the difference is within rounding; False for NaN."""
        return self.relative <= self.limit

    def __str__(self) -> str:
        return (
            f"largest difference of a logit {self.largest:.3g}, on average {self.relative:.2g} standard deviations, "
            f"and up to {self.limit:g} standard deviations are rounding"
        )


def first_rows_ids(dataset: Iterable[Any]) -> list[list[int]]:
    """Token ids of the first rows of a prepared data set, truncated to `TOKENS`; for pairs, of the chosen side."""
    rows = islice(iter(dataset), ROWS)
    return [ids_and_labels(row)[0][:TOKENS] for row in rows]


@torch.no_grad()
def compute_logits(
    model: Any, rows: Sequence[Sequence[int]], precision: Callable[[], Any] = nullcontext
) -> list[Tensor]:
    """Logits of each row separately, (T, V) float32 on the CPU; the model's mode is restored.

    Args:
        model: A causal language model or `PeftModel`, wrapped or not.
        rows: Token ids.
        precision: Returns a context manager such as autocast.
    """
    device = unwrapped(model).device
    with evaluating(model), torch.compiler.set_stance("force_eager"), precision():
        return [
            model(input_ids=torch.tensor([list(row)], device=device), use_cache=False).logits[0].float().cpu()
            for row in rows
        ]


def compare_logits(first: Sequence[Tensor], second: Sequence[Tensor], *, rounded: bool) -> Difference:
    """Compares logits; `rounded` is whether either side was computed in bfloat16 or float16."""
    limit = ROUNDED if rounded else EXACT
    if any(one.shape != other.shape for one, other in zip(first, second, strict=True)):
        return Difference(float("inf"), float("inf"), limit)
    one, other = (torch.cat([part.flatten() for part in parts]) for parts in (first, second))
    differences = (one - other).abs()
    deviation = one.std().clamp_min(1e-6)
    return Difference(float(differences.max()), float(differences.square().mean().sqrt() / deviation), limit)

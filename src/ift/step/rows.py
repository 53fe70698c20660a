"""Which positions of a batch are trained, and where its documents begin.

Shape legend: B rows, T positions, N trained positions. Everything of shape (B, T) is indexed by the *target* token:
entry t belongs to token t, predicted from tokens < t.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ift.labels import IGNORED


@dataclass(frozen=True)
class RowLayout:
    """Which positions are trained, and where documents begin.

    Attributes:
        trained: (B, T) bool. The label is not -100, the token is attended, and it is not the first of its document.
        attended: (B, T) bool. Not padding, by the attention mask (token ids are not used).
        documents: (B, T) int64. A document's number, unique in the batch; an unpacked row is one document.
        positions: (B, T) int64. Index of the token inside its document, padding not counted.
    """

    trained: Tensor
    attended: Tensor
    documents: Tensor
    positions: Tensor

    @cached_property
    def facts(self) -> tuple[int, bool]:
        """N, and whether some row begins with padding. The first use causes one GPU synchronisation."""
        trained, padded = torch.stack([self.trained.sum(), (~self.attended[:, 0]).sum()]).tolist()
        return trained, padded > 0

    @cached_property
    def trained_positions(self) -> Tensor:
        """(N,) int64, indices into the flattened batch, row by row."""
        return true_positions(self.trained, self.facts[0])

    def at_trained(self, values: Tensor) -> Tensor:
        """(N, ...), the entries of `values` (B, T, ...) at the trained positions, row by row. Gradient flows."""
        return values.flatten(0, 1).index_select(0, self.trained_positions.to(values.device))

    def scatter(self, values: Tensor, fill: Tensor) -> Tensor:
        """`fill` (B, T) with `values` (N,) at the trained positions: the inverse of `at_trained`. Gradient flows."""
        positions = self.trained_positions.to(fill.device)
        return fill.flatten().index_put((positions,), values.to(fill.device)).view_as(fill)

    def per_document(self, values: Tensor) -> Tensor:
        """Sum of `values` (B, T) over each position's document, at every position (B, T). Gradient flows."""
        sums = values.new_zeros(values.numel()).index_add(0, self.documents.flatten(), values.flatten())
        return sums[self.documents]


def true_positions(mask: Tensor, count: int) -> Tensor:
    """(count,) int64, where a mask is true, in the flattened mask; no GPU synchronisation.

    Args:
        mask: bool, of any shape.
        count: its true entries.
    """
    flat = mask.flatten()
    if flat.device.type in ("cpu", "cuda"):
        return torch.nonzero_static(flat, size=count)[:, 0]
    return flat.nonzero()[:, 0]  # other backends do not have it


def row_layout(
    labels: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None
) -> RowLayout:
    """Finds the trained positions and the documents of a batch.

    Args:
        labels: (B, T) int64, -100 where nothing is learned.
        attention_mask: (B, T), 0 on padding at either side; None when every position is a token (packed rows).
        position_ids: (B, T) or (1, T) int64; a 0 on an attended token begins a document. None: one document a row.
    """
    attended = torch.ones_like(labels, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    count = attended.cumsum(1)  # (B, T)
    starts = attended & (count == 1)
    if position_ids is not None:
        starts = starts | (attended & (position_ids.expand_as(labels) == 0))
    trained = (labels != IGNORED) & attended & ~starts
    borders = starts & (count > 1)
    borders[:, 0] = True  # left padding belongs to the document that follows it
    documents = borders.flatten().cumsum(0).view_as(labels) - 1
    first = torch.where(starts, count, 0).cummax(1).values  # (B, T) count at the document's first token
    return RowLayout(trained, attended, documents, (count - first).clamp(min=0))


def count_items(layout: RowLayout, reduction: str) -> Tensor:
    """What a batch's loss is divided by: documents with a trained token ("sequence") or trained tokens ("token")."""
    if reduction == "token":
        return layout.trained.sum()
    return (
        torch.zeros_like(layout.documents.flatten())
        .index_add(0, layout.documents.flatten(), layout.trained.flatten().long())
        .gt(0)
        .sum()
    )

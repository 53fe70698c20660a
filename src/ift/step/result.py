"""What a step returns. Shape legend: B rows, T positions."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput

from ift.step.rows import RowLayout


@dataclass
class TokenScores(ModelOutput):
    """Scores of every position's token, each (B, T), indexed by the target token and 0 where nothing is trained.

    Args:
        losses: float32, -log pi(x_t | e_<t) under the mixed input; gradient flows.
        entropy: float32, of the prediction under the mixed input; no gradient.
        top1: bool, whether the target is the argmax under the mixed input.
        nll: float32, teacher-forced -log pi(x_t | x_<t); no gradient. With lambda 0 it is `losses`, detached.
        lookahead_ids: int64, the model's argmax under the target's prefix (the input's id where nothing is trained);
            None with lambda 0.
        lookahead_hits: bool, whether the model's argmax equals the target.
        aux_loss: scalar, the experts' load-balancing loss of the mixed pass, unweighted; None if not asked for.
        shared_prefix: whether both passes shared the prefix of their rows (`shared_prefix`); None with lambda 0, which
            takes one pass.
        layout: trained positions and documents of the batch.
    """

    losses: Tensor = None  # type: ignore[assignment]
    entropy: Tensor = None  # type: ignore[assignment]
    top1: Tensor = None  # type: ignore[assignment]
    nll: Tensor = None  # type: ignore[assignment]
    lookahead_ids: Tensor | None = None
    lookahead_hits: Tensor = None  # type: ignore[assignment]
    aux_loss: Tensor | None = None
    shared_prefix: bool | None = None
    layout: RowLayout = None  # type: ignore[assignment]


@dataclass(frozen=True)
class IFTLoss:
    """The result of one step.

    Attributes:
        loss: scalar float32 with gradient, reduced over the batch or over `num_items`; experts' loss not included.
        weights: (B, T) float32 without gradient, the propagation weights; 0 where nothing is trained.
        gradient: (B, T) float32 without gradient, d loss / d losses; where it is negative the step pushes that token's
            loss up.
        scores: per-token scores, see `TokenScores`.
        layout: trained positions and documents of the batch.
    """

    loss: Tensor
    weights: Tensor
    gradient: Tensor
    scores: TokenScores
    layout: RowLayout

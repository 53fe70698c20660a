"""`ift_loss`: one IFT step on one batch, for the trainer and for anyone's own loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ift.functional import RowLayout, propagated_loss
from ift.residual import Step, TokenScores, enable_residual


@dataclass(frozen=True)
class IFTLoss:
    """What one step gives.

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


def ift_loss(
    model: nn.Module,
    batch: Mapping[str, Any],
    *,
    residual_lambda: float = 0.2,
    lookahead: str = "greedy",
    lookahead_temperature: float = 1.0,
    lookahead_top_k: int = 64,
    lookahead_prefix: str = "auto",
    propagation: str = "bellman",
    propagation_gamma: float = 0.95,
    propagation_detach: str = "scale",
    loss_reduction: str = "sequence",
    num_items: Tensor | float | None = None,
    seed: int = 0,
    step: int = 0,
) -> IFTLoss:
    """The IFT loss of a batch (Algorithm 1, arXiv:2405.11870v3). Call `.loss.backward()` on what it returns.

    Args:
        model: a causal language model of transformers, bare or wrapped (PEFT, DDP, FSDP2).
        batch: `input_ids` (B, T) int64 and `labels` (B, T) int64 with -100 where nothing is learned; optionally
            `attention_mask` (B, T), and `position_ids` for packed rows (then without a mask). Further entries go to
            the model.
        residual_lambda: share of the guess in the input, in [0, 1]; 0 skips the look-ahead pass.
        lookahead: the guess: "greedy", "sample" or "expected".
        lookahead_temperature: > 0, of "sample" and "expected".
        lookahead_top_k: candidates of "expected".
        lookahead_prefix: "shared" computes what precedes the first trained token once for both passes, where that is
            exact; "full" computes it twice; "auto" shares on a CPU. Loss and gradient are the same.
        propagation: the weights: "bellman", "cumsum" or "none".
        propagation_gamma: decay in (0, 1].
        propagation_detach: what of the bellman weights carries no gradient: their "scale" (Algorithm 1 as printed),
            "none" (the released code) or the "weights" as a whole.
        loss_reduction: "sequence" or "token".
        num_items: rows ("sequence") or trained tokens ("token") of the global batch; None counts this batch.
        seed: of the sampled look-ahead's noise.
        step: optimiser step, for the same noise.

    Raises:
        ValueError: the model cannot be trained with IFT; the message says why.
    """
    enable_residual(model)
    how = Step(
        residual_lambda, lookahead, lookahead_temperature, lookahead_top_k, seed, step, lookahead_prefix
    )
    scores: TokenScores = model(**batch, ift_step=how)
    losses, layout = scores.losses, scores.layout
    how_far = (propagation, propagation_gamma, propagation_detach, loss_reduction)
    loss, weights, gradient = propagated_loss(losses, layout, *how_far, num_items)
    return IFTLoss(loss, weights, gradient, scores, layout)

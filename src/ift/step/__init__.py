"""The method: one step of Intuitive Fine-Tuning on one batch. torch and transformers; no trl, no files.

In reading order: `settings` (the method's settings), `rows` (which positions are trained), `equations` (Eq. 17,
weights, reduction), `lookahead` (the model's own guess), `algorithm` (`ift_loss` and its two passes). They use `head`
(logits), `lookahead_variants` (sampled and expected guesses), `mixed_input` (how the mix reaches the model),
`scored_log_probs` (a token's loss under the head), `forward` (one more argument of the model's forward), `result`,
`model` and `model_checks`. `shared_prefix` gives the same results with less computation.
"""

from ift.labels import IGNORED
from ift.step.algorithm import enable_residual, ift_loss
from ift.step.equations import (
    propagated_loss,
    propagation_weights,
    reduce_losses,
    suffix_sums,
    temporal_residual,
)
from ift.step.result import IFTLoss, TokenScores
from ift.step.rows import RowLayout, count_items, row_layout
from ift.step.settings import StepSettings

__all__ = [
    "IGNORED",
    "IFTLoss",
    "RowLayout",
    "StepSettings",
    "TokenScores",
    "count_items",
    "enable_residual",
    "ift_loss",
    "propagated_loss",
    "propagation_weights",
    "reduce_losses",
    "row_layout",
    "suffix_sums",
    "temporal_residual",
]

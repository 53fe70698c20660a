"""The method: one step of Intuitive Fine-Tuning on one batch. torch and transformers; no trl, no files.

In reading order: `rows` (which positions are trained), `equations` (Eq. 17, weights, reduction), `lookahead` (the
model's own guess), `algorithm` (the two passes, `ift_loss`), `mixed_input` (how the mix reaches the model),
`scored_log_probs` (a token's loss under the head), `result`, `model`, `model_checks`; `shared_prefix`
computes less, and the same.
"""

from ift.step.algorithm import Step, enable_residual, ift_loss
from ift.step.equations import (
    propagated_loss,
    propagation_weights,
    reduce_losses,
    suffix_sums,
    temporal_residual,
)
from ift.step.result import IFTLoss, TokenScores
from ift.step.rows import IGNORED, RowLayout, count_items, row_layout

__all__ = [
    "IGNORED",
    "IFTLoss",
    "RowLayout",
    "Step",
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

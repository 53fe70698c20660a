"""Arguments of `Trainer` that need the full logits, and what takes their place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SCORES = (
    "To score answers during training, use `ift train --eval_generate N --eval_score NAME`, or a TrainerCallback that "
    "generates in on_evaluate (docs/coming_from.md has one)."
)
INSTEAD = {
    "compute_metrics": _SCORES,
    "preprocess_logits_for_metrics": _SCORES,
    "compute_loss_func": "IFT has its own loss; `token_weights` takes a function that weighs its tokens.",
}


def refuse_arguments(given: Mapping[str, Any]) -> None:
    """Raises ValueError for an argument that is not None and needs the full logits."""
    for name, instead in INSTEAD.items():
        if given.get(name) is not None:
            raise ValueError(f"{name} needs the full logits, which IFT never builds. {instead}")

"""ift: Intuitive Fine-Tuning (Hua et al., ACL 2025, arXiv:2405.11870) on the Hugging Face stack."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ift.runs.from_python import train_method
    from ift.step.algorithm import enable_residual, ift_loss
    from ift.step.result import IFTLoss
    from ift.training.config import IFTConfig
    from ift.training.end_watch import EndWatch
    from ift.training.trainer import IFTTrainer

__version__ = "0.1.0"
__all__ = ["EndWatch", "IFTConfig", "IFTLoss", "IFTTrainer", "enable_residual", "ift_loss", "train_method"]

_HOMES = {
    "EndWatch": "ift.training.end_watch",
    "IFTConfig": "ift.training.config",
    "IFTLoss": "ift.step.algorithm",
    "IFTTrainer": "ift.training.trainer",
    "enable_residual": "ift.step.algorithm",
    "ift_loss": "ift.step.algorithm",
    "train_method": "ift.runs.from_python",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562): importing trl takes seconds, and `ift --help` must not."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ift' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

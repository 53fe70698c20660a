"""The methods IFT is compared with, each exact to its formula, from one table (docs/baselines.md).

Importing this room imports neither torch, transformers nor trl.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ift.baselines.methods import ALIASES, CONTROLS, METHODS, Method, parse_methods

if TYPE_CHECKING:
    from ift.baselines.train import StageResult, TrainResult, train_method

__all__ = [
    "ALIASES",
    "CONTROLS",
    "METHODS",
    "Method",
    "StageResult",
    "TrainResult",
    "parse_methods",
    "train_method",
]


def __getattr__(name: str) -> Any:
    """Load `train_method` and its results on first use (PEP 562)."""
    if name not in ("StageResult", "TrainResult", "train_method"):
        raise AttributeError(f"module 'ift.baselines' has no attribute {name!r}")
    return getattr(import_module("ift.baselines.train"), name)

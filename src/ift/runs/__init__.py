"""One run: its arguments, its processes, its folder, its progress, what was saved read back.

`train_method` is the run from Python.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ift.runs.from_python import StageResult, TrainResult, train_method

__all__ = ["StageResult", "TrainResult", "train_method"]


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562): importing trl takes seconds."""
    if name not in __all__:
        raise AttributeError(f"module 'ift.runs' has no attribute {name!r}")
    return getattr(import_module("ift.runs.from_python"), name)

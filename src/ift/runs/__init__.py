"""A training run: parsing its arguments, starting its processes, training, saving and verifying the model.

`train_run` is the main function; `train_method` starts a run from Python.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "StageResult": "ift.runs.results",
    "TrainResult": "ift.runs.results",
    "train_method": "ift.runs.from_python",
}
__all__ = ["StageResult", "TrainResult", "train_method"]


def __getattr__(name: str) -> Any:
    """Loads a public name on first use (PEP 562): importing trl takes seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ift.runs' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

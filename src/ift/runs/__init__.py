"""One training run: arguments, processes, output folder, progress; training, saving and verifying.

`train_run` is the main function; `train_method` starts a run from Python.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ift.runs.from_python import train_method
    from ift.runs.results import StageResult, TrainResult

__all__ = ["StageResult", "TrainResult", "train_method"]


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562): importing trl takes seconds."""
    if name not in __all__:
        raise AttributeError(f"module 'ift.runs' has no attribute {name!r}")
    home = "ift.runs.from_python" if name == "train_method" else "ift.runs.results"
    return getattr(import_module(home), name)

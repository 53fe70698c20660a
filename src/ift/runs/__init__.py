"""One training run: arguments, processes, output folder, progress; training, saving and verifying.

`train_run` is the main function; `train_method` starts a run from Python.
"""

from __future__ import annotations

from typing import Any

__all__ = ["train_method"]


def __getattr__(name: str) -> Any:
    """Loads `train_method` on first use (PEP 562): importing trl takes seconds."""
    if name != "train_method":
        raise AttributeError(f"module 'ift.runs' has no attribute {name!r}")
    from ift.runs.from_python import train_method

    return train_method

"""Options of every verb that loads a model."""

from __future__ import annotations

import typer

DTYPE = typer.Option("auto", help="Precision of the weights, such as bfloat16; auto: as saved.")
DEVICE = typer.Option(None, help="Device, such as cuda:1 (default: the accelerator, if any).")
TRUST_REMOTE_CODE = typer.Option(
    False, "--trust_remote_code", help="Run Python code that comes with the model."
)
ALLOW_PICKLE = typer.Option(
    False, "--allow_pickle_weights", help="Load PyTorch pickle files (.bin) if there are no safetensors."
)

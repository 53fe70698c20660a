"""The settings of a run on a GPU, for a plan on a machine without one."""

from __future__ import annotations

import copy
from typing import Any

import torch

GPU = torch.device("cuda")


def on_planned_gpu(stage: Any) -> tuple[Any, torch.device, str]:
    """The stage as `ift train` would run it on a GPU with bfloat16, the device, and what was assumed ("" for nothing).

    Without an accelerator the settings were read as those of a CPU, where `bf16` is off unless it is given.
    """
    config = stage.config
    given = {"bf16", "fp16"} & set(getattr(stage, "named", ()))
    if torch.accelerator.is_available() or given or config.bf16 or config.fp16:
        return stage, GPU, ""
    planned = copy.copy(stage)
    planned.config = copy.copy(config)
    planned.config.bf16 = True
    return (
        planned,
        GPU,
        "the plan assumes a GPU that computes in bfloat16 (NVIDIA: Ampere or newer), the default on a GPU; for an "
        "older GPU give --bf16 false",
    )

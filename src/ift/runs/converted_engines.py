"""Engines of other tools' configurations (DeepSpeed, FSDP): which `--accelerate_config` to launch with here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

from ift.runs.converted_datasets import Settings, Translated
from ift.runs.harmless_names import Same

FEW_BITS = (
    "load_in_4bit",
    "load_in_8bit",
    "use_4bit",
    "use_8bit",
    "quantization_bit",
    "bits",
    "quant_config",
)


def few_bits(settings: Settings) -> bool:
    """Whether a file of any tool loads the weights in 4 or 8 bits."""
    return settings.get("adapter") == "qlora" or any(settings.get(name) for name in FEW_BITS)


def engine(kind: str) -> Callable[[Any, Settings], Translated]:
    """DeepSpeed's configuration, or FSDP's: the engine is chosen when the run is launched."""

    def translate(value: Any, settings: Settings) -> Translated:
        if not value or value == "ddp":
            return Same("it is off")
        name, launch = "fsdp2", "launch with --num_processes N (docs/many_gpus.md)"
        if kind == "deepspeed" or (isinstance(value, Mapping) and value.get("name") == "deepspeed"):
            if few_bits(settings):
                return f"weights in few bits run under ddp and fsdp2 here: {launch}"
            name = f"zero{_zero_stage(value)}"
        return launch.replace("with", f"with --accelerate_config {name}")

    return translate


def _zero_stage(value: Any) -> str:
    """The stage of ZeRO in DeepSpeed's configuration or in its file's name; 2 for none."""
    if isinstance(value, Mapping) and isinstance(value.get("zero_optimization"), Mapping):
        found = str(value["zero_optimization"].get("stage"))
    else:
        file = PurePath(str(value.get("config_file") if isinstance(value, Mapping) else value)).stem
        found = next(
            (digit for digit in "123" if any(f"{mark}{digit}" in file for mark in ("z", "zero"))), ""
        )
    return "3" if found == "3" else "2"

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
        name = "fsdp2"
        if kind == "deepspeed" or (isinstance(value, Mapping) and value.get("name") == "deepspeed"):
            # weights in few bits do not run under DeepSpeed here
            name = "ddp" if few_bits(settings) else f"zero{_zero_stage(value)}"
        return {"accelerate_config": name}

    return translate


def lost_of_engine(name: str) -> Callable[[Any], dict[str, str]]:
    """Offloading to the CPU in DeepSpeed's or FSDP's configuration, or in its file's name: ift's engines have none."""

    def lost(value: Any) -> dict[str, str]:
        on = "offload" in str(value).lower() if not isinstance(value, Mapping) else _offloads(value)
        reason = (
            "an accelerate configuration of your own can set it: --accelerate_config FILE (docs/many_gpus.md)"
        )
        return {f"{name}.offload": f"weights and states stay on the GPUs; {reason}"} if on else {}

    return lost


def _offloads(value: Mapping[str, Any]) -> bool:
    """Whether a setting about offloading is on, at any depth."""
    for key, one in value.items():
        inside = _offloads(one) if isinstance(one, Mapping) and "offload" not in str(key) else False
        if isinstance(one, Mapping) and "offload" in str(key):
            inside = one.get("device", "none") != "none"
        elif "offload" in str(key) or str(key) == "config_file":
            inside = one is True or "offload" in str(one).lower()
        if inside:
            return True
    return False


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

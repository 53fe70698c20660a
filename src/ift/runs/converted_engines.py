"""Engines of other tools' configurations (DeepSpeed, FSDP): which `--accelerate_config` to launch with here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ift.runs.converted_datasets import Settings, Translated
from ift.runs.converted_deepspeed import OWN, UNKNOWN_STAGE, Unread, keys_of_deepspeed, stage_of
from ift.runs.converted_names import KeysInside
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
_WRAPPED = Same("ift shards every block of the model: speed and memory alone")
_COMMUNICATION = Same("it orders the same computation: speed and memory alone")
_FILES = Same("ift saves whole weights, which every tool loads")
_SPLIT = Same("ift divides weights, gradients and states over all devices: speed and memory alone")
FSDP = {  # without fsdp_
    "version": Same("ift runs FSDP2, which computes the same"),
    "fsdp": _SPLIT,
    "full_shard": _SPLIT,
    "shard_grad_op": _SPLIT,
    "hybrid_shard": _SPLIT,
    "hybrid_shard_zero2": _SPLIT,
    "no_shard": _SPLIT,
    "sharding_strategy": _SPLIT,
    "reshard_after_forward": Same(
        "ift frees the gathered weights after each block (true): memory and speed alone"
    ),
    "cpu_ram_efficient_loading": Same("ift reads the weights once per machine (true): memory alone"),
    "sync_module_states": Same("ift reads the weights once per machine (true): memory alone"),
    "pin_memory": _COMMUNICATION,
    "auto_wrap": _WRAPPED,
    "auto_wrap_policy": _WRAPPED,
    "transformer_layer_cls_to_wrap": _WRAPPED,
    "min_num_params": _WRAPPED,
    "use_orig_params": _WRAPPED,
    "backward_prefetch": _COMMUNICATION,
    "forward_prefetch": _COMMUNICATION,
    "limit_all_gathers": _COMMUNICATION,
    "state_dict_type": _FILES,
    "final_state_dict_type": _FILES,
    "dcp_path": _FILES,
}
PRECISION = ("mixed_precision", "mixed_precision_policy", "mp_policy")
OFFLOADING = ("offload_params", "cpu_offload", "offload")


def few_bits(settings: Settings) -> bool:
    """Whether a file of any tool loads the weights in 4 or 8 bits."""
    return settings.get("adapter") == "qlora" or any(settings.get(name) for name in FEW_BITS)


def engine(kind: str) -> Callable[[Any, Settings], Translated]:
    """DeepSpeed's configuration (a value of `read_named`), or FSDP's: the engine is chosen when the run is launched."""

    def translate(value: Any, settings: Settings) -> Translated:
        if not value or value == "ddp":
            return Same("it is off")
        inside = _keys(kind, value, settings)
        if not _is_deepspeed(kind, value):
            return {"accelerate_config": "fsdp2", **inside.settings}
        stage = stage_of(value)
        name = {"": UNKNOWN_STAGE, "0": "ddp", "3": "zero3"}.get(stage, "zero2")
        # weights in few bits do not run under DeepSpeed here
        return {"accelerate_config": "ddp" if few_bits(settings) else name, **inside.settings}

    return translate


def lost_of_engine(kind: str, name: str) -> Callable[[Any, Settings], dict[str, str]]:
    """Every key inside an engine's configuration that does not become a setting, by its full name, and why."""

    def lost(value: Any, settings: Settings) -> dict[str, str]:
        if not value or value == "ddp":
            return {}
        return {f"{name}{key}": reason for key, reason in _keys(kind, value, settings).lost.items()}

    return lost


def missing_engine(value: Any) -> str:
    """What is to be filled in for a configuration of DeepSpeed whose stage is not known."""
    named = value if isinstance(value, Unread) else Unread(str(value), "it is not known")
    return f"zero2 for stage 1 or 2 of ZeRO, zero3 for stage 3: {named.reason}, and its name does not tell the stage"


def _is_deepspeed(kind: str, value: Any) -> bool:
    return kind == "deepspeed" or isinstance(value, Unread) or (
        isinstance(value, Mapping) and value.get("name") == "deepspeed"
    )  # fmt: skip


def _keys(kind: str, value: Any, settings: Settings) -> KeysInside:
    """What becomes of each key."""
    if _is_deepspeed(kind, value):
        return keys_of_deepspeed(value, settings)
    found = KeysInside(settings)
    if isinstance(value, str | list):
        words = value.replace(",", " ").split() if isinstance(value, str) else value
        value = {str(word): True for word in words}
    for key, one in value.items() if isinstance(value, Mapping) else ():
        _sort_fsdp(str(key), one, found)
    return found


def _sort_fsdp(key: str, value: Any, found: KeysInside) -> None:
    """Sorts one key of FSDP's configuration."""
    short = key.removeprefix("fsdp_")
    if short in FSDP:
        found.lost[f".{key}"] = FSDP[short]
    elif short in OFFLOADING:
        on = Same(f"weights and states stay on the GPUs; {OWN}")
        found.lost[f".{key}"] = on if value else Same("it is off")
    elif short == "activation_checkpointing" and value:
        found.take(f".{key}", "gradient_checkpointing", True)
    elif short == "activation_checkpointing":
        found.lost[f".{key}"] = Same("it is off; gradient_checkpointing is the setting")
    elif short in PRECISION and str(value).lower() in ("bf16", "bfloat16"):
        found.lost[f".{key}"] = Same("ift's engine also computes in bfloat16")
    elif short == "name":
        return
    elif value in (False, None):
        found.lost[f".{key}"] = Same("it is off")
    else:
        found.lost[f".{key}"] = f"the engines of ift do not set it; {OWN}"

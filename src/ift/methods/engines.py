"""Refuses what is known to go wrong under an engine, with a quantised base, or with offloaded weights."""

from __future__ import annotations

import os
import re
from typing import Any

from ift.methods.start import start_options
from ift.models.loading import load_config

# transformers' names of the optimisers of bitsandbytes; adamw_torch_8bit is torchao's
BITSANDBYTES_OPTIMISER = re.compile(r"(?!.*torch).*(8bit|32bit|bnb|paged)|lion|ademamix")
FSDP2_FIX = "Use FSDP2 (--accelerate_config fsdp2, or fsdp_version: 2 in your accelerate configuration)."


def is_ift(stage: Any) -> bool:
    """Whether the trainer of an `ift.methods.stage.Stage` is an `IFTTrainer`."""
    from ift.training.trainer import IFTTrainer

    return issubclass(stage.method.load()[0], IFTTrainer)


def refuse_engines(stage: Any) -> None:
    """Raises ValueError for what is known to go wrong with an `ift.methods.stage.Stage`, before a model is loaded."""
    config = stage.config
    engine = f"fsdp{version}" if (version := fsdp_version(config)) else "ddp"
    if config.deepspeed_plugin is not None:
        engine = f"zero{config.deepspeed_plugin.zero_stage}"
    problem = problem_of_engine(stage, engine)
    if splits_tensors(config):
        problem = problem or _problem_of_optimiser(config, "tensor parallelism")
    if problem:
        raise ValueError(problem)
    _refuse_quantised_weights(stage)


def problem_of_engine(stage: Any, engine: str) -> str:
    """Why a stage cannot run under an engine, with the fix; "" if it can.

    Args:
        stage: An `ift.methods.stage.Stage`.
        engine: "ddp", "zero2", "zero3", "fsdp1" or "fsdp2".
    """
    if engine == "zero3" and not is_ift(stage):
        return (
            f"{stage.method.name} under DeepSpeed ZeRO-3: trl reads the head's weight outside the head's forward, "
            "and the backward pass fails. Use ZeRO-2, FSDP2 or DDP; sft and ift run under ZeRO-3."
        )
    if engine == "fsdp1" and stage.model.use_peft:
        # peft 0.21 looks for tensors by the names of modules, and removes only the outermost wrapper's part of them
        return f"LoRA under FSDP1: peft saves the adapter without its tensors. {FSDP2_FIX}"
    return _problem_of_optimiser(stage.config, "FSDP2") if engine == "fsdp2" else ""


def _problem_of_optimiser(config: Any, engine: str) -> str:
    """Names an optimiser of bitsandbytes on weights that are split, for which it has no step."""
    name = str(getattr(config.optim, "value", config.optim))
    if not BITSANDBYTES_OPTIMISER.match(name):
        return ""
    return (
        f"optim {name} under {engine}: bitsandbytes has no step for split weights. Use --optim adamw_torch (or "
        "adamw_torch_8bit of torchao), DDP or ZeRO-2."
    )


def _refuse_quantised_weights(stage: Any) -> None:
    """Raises ValueError for a quantised model without an adapter."""
    model_args = stage.model
    flag = "load_in_4bit" if model_args.load_in_4bit else "load_in_8bit" if model_args.load_in_8bit else ""
    if model_args.use_peft or not (flag or _bitsandbytes_in_files(stage)):
        return
    found = flag or f"{model_args.model_name_or_path} is saved in few bits (bitsandbytes)"
    other = f"leave {flag} out" if flag else "give the model in full precision"
    raise ValueError(
        f"{found}, without an adapter: quantised weights cannot be trained themselves. Fix: --use_peft true, or {other}"
    )


def _bitsandbytes_in_files(stage: Any) -> bool:
    """Whether the model's config.json says that its weights were saved quantised by bitsandbytes."""
    read = load_config(stage.model.model_name_or_path, start_options(stage))
    return (getattr(read, "quantization_config", None) or {}).get("quant_method") == "bitsandbytes"


def splits_tensors(config: Any) -> bool:
    """Whether the model is loaded with transformers' tensor parallelism."""
    return any((config.model_init_kwargs or {}).get(name) for name in ("tp_plan", "tp_size"))


def fsdp_version(config: Any) -> int | None:
    """The version of FSDP that a training configuration, or the launcher's environment, asks for; None without FSDP."""
    given = config.fsdp_plugin_args
    if given is not None:
        return int(given.get("fsdp_version", 1))
    if os.environ.get("ACCELERATE_USE_FSDP") != "true":
        return None
    return int(os.environ.get("FSDP_VERSION", "1"))

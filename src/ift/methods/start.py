"""Loads the model that a stage starts from (a full model or an adapter), and records facts about it."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import Any

from ift.data import DataError
from ift.models.adapters import CONFIG, adapter_config, check_adapter_names
from ift.models.limits import check_special_ids, known_positions, learned_positions
from ift.models.loading import LoadOptions, load_config, load_network
from ift.models.model_folder import local_path
from ift.models.record import ModelRecord, model_sha256, read_record
from ift.text import did_you_mean

# Field of trl's ModelConfig -> field of peft's configuration
ADAPTER_FIELDS = {
    "lora_r": "r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout", "use_dora": "use_dora",
    "use_rslora": "use_rslora", "lora_target_modules": "target_modules", "lora_modules_to_save": "modules_to_save",
    "lora_target_parameters": "target_parameters",
}  # fmt: skip


def start_options(stage: Any) -> LoadOptions:
    """How the stage's model is loaded: its model arguments, overridden by `model_init_kwargs`."""
    from accelerate import PartialState
    from trl import get_quantization_config

    model_args, config, state = stage.model, stage.config, PartialState()
    kind = getattr(state.distributed_type, "value", state.distributed_type)
    alone = str(kind) not in ("MULTI_GPU", "DEEPSPEED")
    on_cpu = state.device.type in ("cpu", "mps")
    further: dict[str, Any] = {
        "attn_implementation": model_args.attn_implementation,
        "device_map": "auto" if alone and not on_cpu else None,  # as in trl
        **(config.model_init_kwargs or {}),
    }
    if (quantization := get_quantization_config(model_args)) is not None:
        further["quantization_config"] = quantization
    return LoadOptions(
        dtype=model_args.dtype,
        trust_remote_code=config.trust_remote_code,
        allow_pickle_weights=not further.get("use_safetensors", True),
        revision=model_args.model_revision,
        further=further,
    )


def start_network(stage: Any) -> Any:
    """Loads the model to train; a `PeftModel` if the stage starts from an adapter. Errors as in `load_network`."""
    if (
        stage.model.load_in_8bit
    ):  # bitsandbytes would warn in each layer of each pass that inputs become float16
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    return load_network(stage.model.model_name_or_path, start_options(stage), trainable=True)


def continues_adapter(stage: Any) -> bool:
    """Whether the stage starts from an adapter, and trains it further."""
    return adapter_config(local_path(stage.model.model_name_or_path), stage.model.model_revision) is not None


def start_adapter(stage: Any) -> Any | None:
    """The configuration of the adapter that a stage continues or creates; None if all weights are trained."""
    from trl import get_peft_config

    model_args = stage.model
    name = local_path(model_args.model_name_or_path)
    if (found := adapter_config(name, model_args.model_revision)) is not None:
        found.inference_mode = False  # peft saves True, with which nothing is trained
        return found
    if (new := get_peft_config(model_args)) is not None:
        new.revision = (
            model_args.model_revision
        )  # of the base, so that the adapter is loaded onto the same weights
    return new


def use_given_adapter(stage: Any) -> None:
    """Sets `use_peft` if the model is an adapter, whose training is then continued.

    Raises:
        DataError: A LoRA setting differs from those of the adapter, or requests another task.
    """
    from trl import ModelConfig

    model_args, name = stage.model, stage.model.model_name_or_path
    if model_args.use_peft and model_args.lora_task_type != "CAUSAL_LM":
        raise DataError(
            f"lora_task_type is {model_args.lora_task_type!r}, but ift trains causal language models. Fix: leave it out"
        )
    found = adapter_config(local_path(name), model_args.model_revision)
    if found is None:
        return
    default = {one.name: getattr(ModelConfig(), one.name) for one in fields(ModelConfig)}
    for flag, key in ADAPTER_FIELDS.items():
        wanted, present = getattr(model_args, flag, None), getattr(found, key, None)
        same = wanted in (default.get(flag), present) or _names(wanted) in (_names(present), {"all-linear"})
        if not same:
            raise DataError(
                f"{flag} is {wanted!r}, but the adapter {name} has {present!r} and its training is continued. Fix: "
                f"leave --{flag} out; or merge the adapter first, and train the merged model: {merge_command(name)}"
            )
    model_args.use_peft = True


def _names(value: Any) -> set[str]:
    """The items of a list, a set, a string or None, as strings."""
    return {str(one) for one in (value if isinstance(value, list | set | tuple) else [value])}


def merge_command(name: str) -> str:
    """A shell command that merges an adapter into its base."""
    return shlex.join(["ift", "merge", name, "--output_dir", f"{Path(name).name}-merged"])


def explain_saved_modules(stage: Any, network: Any) -> str:
    """What follows from a `lora_modules_to_save` that names one side of a tied matrix; "" for nothing.

    Raises:
        DataError: It names no module of the model, or both sides: two copies cannot both be loaded again.
    """
    if not stage.model.use_peft or not stage.model.lora_modules_to_save:
        return ""
    modules = {name: module for name, module in network.named_modules() if name}
    wanted = {name: _ending_with(name, modules) for name in sorted(_names(stage.model.lora_modules_to_save))}
    for name, found in wanted.items():
        if not found:
            hint = did_you_mean(name, sorted({one.rpartition(".")[2] for one in modules})) or "."
            raise DataError(
                f"lora_modules_to_save: the model has no module {name}{hint} Fix: name "
                "modules of the model, such as embed_tokens or lm_head, or leave it out"
            )
    if not getattr(network.config.get_text_config(), "tie_word_embeddings", False):
        return ""
    given, read = network.get_input_embeddings(), network.get_output_embeddings()
    sides = {name: module for name, module in modules.items() if module in (given, read)}
    saved = [name for found in wanted.values() for name in found if name in sides]
    both = " and ".join(sorted(name.rpartition(".")[2] for name in sides))
    one_matrix = f"lora_modules_to_save: {both} are one matrix in this model (tie_word_embeddings)"
    if len(saved) > 1:
        raise DataError(
            f"{one_matrix}, and the adapter would train two copies of it. Fix: name only the embedding"
        )
    if not saved:
        return ""
    side, other = ("output", "input") if sides[saved[0]] is read else ("input", "output")
    return (
        f"{one_matrix}. The adapter trains a copy of it for the {side} alone, and the {other} keeps the old one. Fix, "
        "if both are meant: train all weights (without --use_peft)"
    )


def _ending_with(name: str, modules: Collection[str]) -> list[str]:
    """The modules that peft finds for a name: those whose path ends with it."""
    return [one for one in modules if one == name or one.endswith(f".{name}")]


def check_adapter(stage: Any, network: Any) -> None:
    """Raises DataError for a name in a list of LoRA that the model lacks, and as `explain_saved_modules`."""
    from trl import get_peft_config

    explain_saved_modules(stage, network)
    name = local_path(stage.model.model_name_or_path)
    if adapter_config(name, stage.model.model_revision) is None:  # a new adapter, not one that is continued
        check_adapter_names(network, get_peft_config(stage.model), "lora_")


def check_limits(stage: Any, tokenizer: Any, longest_row: int, network: Any) -> None:
    """Raises DataError for a special id without an embedding, a too long row, and as `check_adapter`."""
    name = stage.model.model_name_or_path
    check_adapter(stage, network)
    check_special_ids(name, tokenizer, network)
    if problem := explain_too_long(longest_row, learned_positions(network)):
        raise DataError(f"{name}: {problem}")


def explain_too_long(longest_row: int, positions: int | None) -> str:
    """The problem and fix of rows that are longer than a model's table of positions; "" without a problem."""
    if positions is None or longest_row <= positions:
        return ""
    return (
        f"rows have up to {longest_row:,} tokens, and the model has learned {positions:,} positions. Fix: --max_length "
        f"{positions}, or a model with a longer context"
    )


def model_positions(stage: Any) -> tuple[str, int] | None:
    """Name and number of the positions of the stage's model, from its configuration; None if they are unknown."""
    try:
        return known_positions(load_config(stage.model.model_name_or_path, start_options(stage)))
    except (OSError, ValueError):
        return None


def model_record(stage: Any, reports: Any) -> ModelRecord:
    """The record that is saved with the model: how prompts were written, the first model, and an adapter's base."""
    prompts = reports["train"].prompts
    name = local_path(stage.model.model_name_or_path)
    first = (read_record(name).trained_from or Path(name).name) if Path(name).is_dir() else name
    adapter = start_adapter(stage)
    if adapter is None:
        return ModelRecord(prompts, trained_from=first)
    args = stage.model
    dtype = "" if args.load_in_4bit or args.load_in_8bit or args.dtype in (None, "auto") else args.dtype
    base = Path(adapter.base_model_name_or_path if (Path(name) / CONFIG).exists() else name).expanduser()
    sha256 = model_sha256(base) if base.is_dir() else ""
    return ModelRecord(prompts, sha256, first, dtype)

"""What a stage starts from: a full model, or an adapter that is trained on; and what is recorded about it."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ift.data import DataError
from ift.models.adapters import CONFIG, adapter_config
from ift.models.limits import check_special_ids, learned_positions
from ift.models.loading import LoadOptions, load_network, local_path
from ift.models.record import ModelRecord, model_sha256, write_record

# trl's ModelConfig calls some of peft's settings otherwise
ADAPTER_FIELDS = {
    "lora_r": "r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout", "use_dora": "use_dora",
    "use_rslora": "use_rslora", "lora_target_modules": "target_modules", "lora_modules_to_save": "modules_to_save",
    "lora_target_parameters": "target_parameters",
}  # fmt: skip


def start_options(stage: Any) -> LoadOptions:
    """How the start of a stage is loaded: its model arguments, and `model_init_kwargs` over them."""
    from accelerate import PartialState
    from trl import get_quantization_config

    told, config, state = stage.model, stage.config, PartialState()
    alone = str(getattr(state.distributed_type, "value", state.distributed_type)) not in (
        "MULTI_GPU",
        "DEEPSPEED",
    )
    on_cpu = state.device.type in ("cpu", "mps")
    further: dict[str, Any] = {
        "attn_implementation": told.attn_implementation,
        "device_map": "auto" if alone and not on_cpu else None,  # as trl places it
        **(config.model_init_kwargs or {}),
    }
    if (quantization := get_quantization_config(told)) is not None:
        further["quantization_config"] = quantization
    return LoadOptions(
        dtype=told.dtype,
        trust_remote_code=config.trust_remote_code,
        allow_pickle_weights=not further.get("use_safetensors", True),
        revision=told.model_revision,
        further=further,
    )


def start_network(stage: Any) -> Any:
    """The model that a stage trains; a `PeftModel` where it starts from an adapter.

    Raises:
        DataError: See `ift.models.loading.load_network`.
    """
    return load_network(stage.model.model_name_or_path, start_options(stage), trainable=True)


def start_adapter(stage: Any) -> Any | None:
    """The configuration of the adapter that a stage starts from or makes; None where all weights are trained."""
    from trl import get_peft_config

    told = stage.model
    name = local_path(told.model_name_or_path)
    if (found := adapter_config(name, told.model_revision)) is not None:
        return found
    if (new := get_peft_config(told)) is not None:
        new.revision = told.model_revision  # of the base, which the adapter is loaded onto again
    return new


def train_on_adapter(stage: Any) -> None:
    """Where the start is an adapter, training goes on with that adapter: `use_peft` is set.

    Raises:
        DataError: A setting asks for another adapter than the one that is there, or for a task that is not trained.
    """
    from trl import ModelConfig

    told, name = stage.model, stage.model.model_name_or_path
    if told.use_peft and told.lora_task_type != "CAUSAL_LM":
        raise DataError(
            f"lora_task_type is {told.lora_task_type!r}: a causal language model is trained. Fix: leave it out"
        )
    found = adapter_config(local_path(name), told.model_revision)
    if found is None:
        return
    default = {one.name: getattr(ModelConfig(), one.name) for one in fields(ModelConfig)}
    for flag, key in ADAPTER_FIELDS.items():
        wanted, there = getattr(told, flag, None), getattr(found, key, None)
        same = wanted in (default.get(flag), there) or _names(wanted) in (_names(there), {"all-linear"})
        if not same:
            raise DataError(
                f"{flag} is {wanted!r}, and {name} is an adapter with {there!r}, which is trained on as it is. Fix: "
                f"leave --{flag} out; or merge the adapter first, and train the merged model: {merge_command(name)}"
            )
    told.use_peft = True


def _names(value: Any) -> set[str]:
    """The names of a list, a set, a text or nothing."""
    return {str(one) for one in (value if isinstance(value, list | set | tuple) else [value])}


def merge_command(name: str) -> str:
    """A command that merges an adapter into its base."""
    target = f"{Path(name).name}-merged"
    return f"python -c \"from ift.models.merging import save_merged; save_merged('{name}', '{target}')\""


def check_limits(stage: Any, tokenizer: Any, longest_row: int, network: Any) -> None:
    """Raise DataError where a special id or the longest row is beyond what the model embeds."""
    name = stage.model.model_name_or_path
    check_special_ids(name, tokenizer, network)
    if said := too_long(longest_row, learned_positions(network)):
        raise DataError(f"{name}: {said}")


def too_long(longest_row: int, positions: int | None) -> str:
    """What is wrong with rows that are longer than a model's table of positions; empty where nothing is."""
    if positions is None or longest_row <= positions:
        return ""
    return (
        f"rows have up to {longest_row:,} tokens, and the model has learned {positions:,} positions. Fix: --max_length "
        f"{positions}, or a model with a longer context"
    )


def model_record(stage: Any, reports: Any) -> ModelRecord:
    """What is recorded beside the trained model: how its prompts were written, and its base if it is an adapter."""
    prompts = reports["train"].prompts
    name = local_path(stage.model.model_name_or_path)
    adapter = start_adapter(stage)
    if adapter is None:
        return ModelRecord(prompts)
    base = Path(adapter.base_model_name_or_path if (Path(name) / CONFIG).exists() else name).expanduser()
    if not base.is_dir():
        return ModelRecord(prompts)
    return ModelRecord(prompts, str(base.absolute()), model_sha256(base))


class RecordInCheckpoints(TrainerCallback):
    """Writes the model's record into every checkpoint."""

    def __init__(self, record: ModelRecord) -> None:
        self.record = record

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add the file, before the checkpoint is sealed."""
        if state.is_world_process_zero:
            write_record(Path(args.output_dir) / f"checkpoint-{state.global_step}", self.record)

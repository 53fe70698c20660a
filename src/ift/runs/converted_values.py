"""Settings of other tools whose *values* have to be translated too, one function for each (names: other_tools.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

from ift.runs.converted_datasets import (
    Settings,
    Translated,
    lost_of_entries,
    lost_of_mixture,
    translate_datasets,
    translate_mixer,
    translate_mixture,
)

PAIRS = ("dpo", "orpo", "simpo")
FLASH = {"fa2": "flash_attention_2", "fa3": "flash_attention_3", "sdpa": "sdpa", "disabled": "eager"}


def _if_on(found: dict[str, Any], off: str = "it is off") -> Callable[[Any, Settings], Translated]:
    """The translation of a switch: settings where it is on."""
    return lambda value, settings: dict(found) if value else off


def _method(value: Any, settings: Settings) -> Translated:
    """The stage of LLaMA-Factory, or `rl` of Axolotl."""
    name = str(settings.get("pref_loss") or value).lower()
    name = "dpo" if name == "sigmoid" else name
    if name in ("sft", "pt"):
        return {"method": "ift"}
    if name == "ipo":
        return {"method": "dpo", "loss_type": ["ipo"]}
    return {"method": name} if name in PAIRS else f"{name} is no method here: the result trains IFT"


def _adapter(value: Any, settings: Settings) -> Translated:
    if value in ("lora", "qlora"):
        return {"use_peft": True, **({"load_in_4bit": True} if value == "qlora" else {})}
    if value == "full":
        return {}
    return f"{value} is no adapter here: LoRA and DoRA are"


def _targets(value: Any, settings: Settings) -> Translated:
    names = [one.strip() for one in value.split(",")] if isinstance(value, str) else list(value)
    return {"lora_target_modules": "all-linear" if names in (["all"], ["all-linear"]) else names}


def _bits(value: Any, settings: Settings) -> Translated:
    return {f"load_in_{value}bit": True} if value in (4, 8) else f"{value} bits: 4 and 8 are loaded here"


def _peft(value: Any, settings: Settings) -> Translated:
    """The nested section of LLaMA-Factory's newer files."""
    if not isinstance(value, Mapping) or value.get("name") != "lora":
        return "LoRA and DoRA are the adapters here"
    names = {"r": "lora_r", "lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout"}
    found = {"use_peft": True, **{names[key]: one for key, one in value.items() if key in names}}
    targets = _targets(value["target_modules"], settings) if value.get("target_modules") else {}
    return {**found, **targets}  # type: ignore[dict-item]


def _attention(value: Any, settings: Settings) -> Translated:
    if value in (True, "auto"):
        return {"attn_implementation": "flash_attention_2"} if value is True else "transformers chooses"
    return {"attn_implementation": FLASH.get(str(value), str(value))} if value else "it is off"


def _precision(name: str) -> Callable[[Any, Settings], Translated]:
    """bf16 and fp16, which are also "auto" elsewhere."""
    return lambda value, settings: "auto is the default here" if value == "auto" else {name: value}


def _held_out(value: Any, settings: Settings) -> Translated:
    if not value:
        return {"eval_strategy": "no"}
    return {"test_split_size": value, "eval_strategy": settings.get("eval_strategy") or "steps"}


def _per_epoch(name: str) -> Callable[[Any, Settings], Translated]:
    """A number per epoch, as the share of all steps between two; none is "no"."""

    def translate(value: Any, settings: Settings) -> Translated:
        if name == "eval" and not (settings.get("val_set_size") or settings.get("test_datasets")):
            return "there are no evaluation rows"
        epochs = float(settings.get("num_epochs") or 1)
        share = 1 / (value * epochs) if value else 1
        kind = "epoch" if value == 1 else "steps" if value and share < 1 else "no"
        return {f"{name}_strategy": kind, **({f"{name}_steps": round(share, 6)} if kind == "steps" else {})}

    return translate


def _special_tokens(value: Any, settings: Settings) -> Translated:
    if value.get("eos_token"):
        return {"eos_token": value["eos_token"]}
    return "the special tokens are those of the tokenizer"


def _lost_of_special_tokens(value: Any) -> dict[str, str]:
    reasons = {"pad_token": "is not needed: padding is neither trained nor attended to, whatever its token"}
    lost = [name for name in value if name != "eos_token" and value[name]]
    return {f"special_tokens.{name}": reasons.get(name, "it is that of the tokenizer") for name in lost}


def _wandb(variable: str) -> Callable[[Any, Settings], Translated]:
    """A setting of wandb, as an environment variable in the file's `env:`."""

    def translate(value: Any, settings: Settings) -> Translated:
        text = str(value).lower() if isinstance(value, bool) else str(value)
        reported = settings.get("report_to") or ("wandb" if settings.get("use_wandb", True) else "none")
        return {"report_to": reported, "env": {variable: text}}

    return translate


def _loss_type(value: Any, settings: Settings) -> Translated:
    return {"method": "dft"} if value == "dft" else {"loss_type": value}


def _chat_template(value: Any, settings: Settings) -> Translated:
    if isinstance(value, str) and value.endswith(".jinja"):
        return {"chat_template_path": value}
    if value in (None, "tokenizer_default"):
        return "the model's own chat template is used here too"
    return (
        f"the model's own chat template is used, or User: and Assistant: where it has none. To keep {value!s:.40} "
        "save it as a .jinja file and name that in chat_template_path"
    )


def _engine(value: Any, settings: Settings) -> Translated:
    """DeepSpeed's file, or FSDP: the engine is chosen when the run is launched."""
    if not value:
        return "it is off"
    file = PurePath(value).stem if isinstance(value, str) else ""
    stage = next((digit for digit in "123" if any(f"{mark}{digit}" in file for mark in ("z", "zero"))), None)
    few_bits = any(settings.get(name) for name in ("load_in_4bit", "load_in_8bit", "quantization_bit"))
    if isinstance(value, str) and (few_bits or settings.get("adapter") == "qlora"):
        return "weights in few bits run under ddp and fsdp2 here: launch with --num_processes N (docs/many_gpus.md)"
    name = f"zero{stage}" if stage in ("2", "3") else "fsdp2" if not isinstance(value, str) else "zero2"
    return f"launch with --accelerate_config {name} --num_processes N (docs/many_gpus.md)"


VALUES: dict[str, Callable[[Any, Settings], Translated]] = {
    "adapter": _adapter,
    "attn_implementation": _attention,
    "auto_resume_from_checkpoints": _if_on({"resume": "auto"}),
    "bf16": _precision("bf16"),
    "bits": _bits,
    "chat_template": _chat_template,
    "chat_template_jinja": _chat_template,
    "dataset": translate_datasets,
    "dataset_mixer": translate_mixer,
    "dataset_mixture": translate_mixture,
    "datasets": translate_datasets,
    "deepspeed": _engine,
    "dpo_beta": lambda value, settings: {"beta": value},
    "dataset_kwargs": lambda value, written: (
        "every row is prepared here; rows with input_ids are used unchanged"
    ),
    "env": lambda value, settings: {"env": value},
    "enable_tensorboard": _if_on({"report_to": "tensorboard"}),
    "enable_wandb": _if_on({"report_to": "wandb"}),
    "evals_per_epoch": _per_epoch("eval"),
    "finetuning_type": _adapter,
    "flash_attention": _attention,
    "flash_attn": _attention,
    "fp16": _precision("fp16"),
    "fsdp": _engine,
    "fsdp_config": _engine,
    "gradient_checkpointing": lambda value, settings: {"gradient_checkpointing": bool(value)},
    "group_by_length": _if_on({"train_sampling_strategy": "group_by_length"}),
    "lora_target": _targets,
    "loss_type": _loss_type,
    "lora_target_linear": _if_on({"lora_target_modules": "all-linear"}),
    "lora_target_modules": _targets,
    "peft_config": _peft,
    "pref_beta": lambda value, settings: {"beta": value},
    "pref_loss": lambda value, settings: _method("dpo", settings),
    "pure_bf16": _if_on({"dtype": "bfloat16"}),
    "quant_config": lambda value, settings: _bits(value.get("quantization_bit"), settings),
    "quantization_bit": _bits,
    "rl": _method,
    "rl_beta": lambda value, settings: {"beta": value},
    "saves_per_epoch": _per_epoch("save"),
    "special_tokens": _special_tokens,
    "stage": _method,
    "target_modules": _targets,
    "template_file": _chat_template,
    "train_on_inputs": _if_on({"completion_only_loss": False}, "answers alone are trained here too"),
    "train_on_prompt": _if_on({"completion_only_loss": False}, "answers alone are trained here too"),
    "training_type": _adapter,
    "use_gradient_checkpointing": lambda value, settings: {"gradient_checkpointing": bool(value)},
    "use_wandb": _if_on({"report_to": "wandb"}),
    "val_set_size": _held_out,
    "val_size": _held_out,
}
WANDB = {f"wandb_{name}": f"WANDB_{name.upper()}"
         for name in ("project", "entity", "watch", "log_model", "run_id", "mode", "run_group")}  # fmt: skip
VALUES |= {name: _wandb(variable) for name, variable in WANDB.items()}
# keys inside a value that are lost, by their full names
LOST_INSIDE: Mapping[str, Callable[[Any], dict[str, str]]] = {
    "dataset_mixture": lost_of_mixture,
    "datasets": lost_of_entries,
    "special_tokens": _lost_of_special_tokens,
}
# what a translation above has used of other settings
USED_BY: Mapping[str, tuple[str, ...]] = {
    "dataset": ("max_samples",),
    "dataset_mixer": ("dataset_splits",),
}

"""Settings of other tools whose *values* have to be translated too, one function for each (names: other_tools.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ift.runs.converted_datasets import Settings, Translated, lost_of_entries, translate_datasets
from ift.runs.converted_engines import engine, lost_of_engine
from ift.runs.converted_evaluation import datasets, evaluation_rows, held_out, lost_of_evaluation
from ift.runs.converted_mixtures import (
    lost_of_mixer,
    lost_of_mixture,
    translate_configs,
    translate_mixer,
    translate_mixture,
    translate_splits,
)
from ift.runs.converted_nested import (
    LOST_OF_MAPPINGS,
    bits,
    bnb_config,
    peft_config,
    quant_config,
    special_tokens,
    targets,
    trl_section,
)
from ift.runs.converted_registry import lost_of_names
from ift.runs.converted_stages import STAGE_VALUES
from ift.runs.converted_switches import (
    ANSWERS,
    answers_only,
    bias,
    copies,
    mask_history,
    mix_strategy,
    neat_packing,
    train_on_eos,
)
from ift.runs.harmless_names import Same

KERNELS = ("liger", "cut_cross_entropy", "cutcrossentropy", "kernels", "scattermoe", "sonicmoe")
LOGS = ("swanlab",)
PARALLEL = ("context_parallel_size", "cp_size", "sequence_parallel_degree", "tensor_parallel_size",
            "tensor_model_parallel_size", "pipeline_model_parallel_size")  # fmt: skip
FLASH = {"fa2": "flash_attention_2", "fa3": "flash_attention_3", "sdpa": "sdpa", "disabled": "eager"}


def _if_on(found: dict[str, Any], off: str = "it is off") -> Callable[[Any, Settings], Translated]:
    """The translation of a switch: settings where it is on."""
    return lambda value, settings: dict(found) if value else Same(off)


def _adapter(value: Any, settings: Settings) -> Translated:
    if value in ("lora", "qlora"):
        return {"use_peft": True, **({"load_in_4bit": True} if value == "qlora" else {})}
    if value == "full":
        return Same("ift also trains all weights without use_peft")
    return f"{value} is no adapter of ift, and all weights would be trained: set use_peft: true for LoRA"


def _attention(value: Any, settings: Settings) -> Translated:
    if value in (True, "auto"):
        return {"attn_implementation": "flash_attention_2"} if value is True else Same("transformers chooses")
    return {"attn_implementation": FLASH.get(str(value), str(value))} if value else Same("it is off")


def _precision(name: str) -> Callable[[Any, Settings], Translated]:
    """bf16 and fp16, which are also "auto" elsewhere."""
    return lambda value, settings: Same("auto is the default here") if value == "auto" else {name: value}


def _per_epoch(name: str) -> Callable[[Any, Settings], Translated]:
    """A number per epoch, as the share of all steps between two; none is "no"."""

    def translate(value: Any, settings: Settings) -> Translated:
        if name == "eval" and not (settings.get("val_set_size") or settings.get("test_datasets")):
            return Same("there are no evaluation rows")
        epochs = float(settings.get("num_epochs") or 1)
        share = 1 / (value * epochs) if value else 1
        kind = "epoch" if value == 1 else "steps" if value and share < 1 else "no"
        return {f"{name}_strategy": kind, **({f"{name}_steps": round(share, 6)} if kind == "steps" else {})}

    return translate


def _wandb(variable: str) -> Callable[[Any, Settings], Translated]:
    """A setting of wandb, as an environment variable in the file's `env:`."""

    def translate(value: Any, settings: Settings) -> Translated:
        text = str(value).lower() if isinstance(value, bool) else str(value)
        reported = settings.get("report_to") or ("wandb" if settings.get("use_wandb", True) else "none")
        return {"report_to": reported, "env": {variable: text}}

    return translate


def _hub_model_id(value: Any, settings: Settings) -> Translated:
    """With this key alone Axolotl uploads, and transformers does not."""
    lost = "ift uploads only with push_to_hub: true (Axolotl with this key alone); set both to upload"
    return {"hub_model_id": value} if settings.get("push_to_hub") else lost


def _loss_type(value: Any, settings: Settings) -> Translated:
    return {"method": "dft"} if value == "dft" else {"loss_type": value}


def _chat_template(value: Any, settings: Settings) -> Translated:
    if isinstance(value, str) and value.endswith(".jinja"):
        return {"chat_template_path": value}
    if value == "jinja" and settings.get("chat_template_jinja"):
        return Same("chat_template_jinja says which")
    if value in (None, "tokenizer_default"):
        return Same("ift also uses the model's own chat template")
    given = "this text" if "{" in str(value) else str(value)
    return (
        "ift uses the model's own chat template if it has one. A base model without one gets lines that begin with "
        f"User: and Assistant:, which is another format than {given:.40}: name the Jinja file of the template in "
        "chat_template_path (the chat_template.jinja of a model that has it), and in eos_token the token that ends "
        "its turns. ift check shows the rows"
    )


def _long_rows(value: Any, settings: Settings) -> Translated:
    """excess_length_strategy of Axolotl."""
    if value == "truncate":
        return Same("ift also truncates rows longer than max_length at their end")
    return (
        "ift truncates rows longer than max_length at their end, and refuses a run if these are more than 20 % of the "
        "rows; ift check counts them. To drop them, remove them from the file"
    )


def _parallel(value: Any, settings: Settings) -> Translated:
    """A number of processes that share each row, in place of taking rows of their own."""
    if value in (0, 1, "1", "auto", False):
        return Same("it is off")
    return (
        "ift gives every process rows of its own, and the other tool lets some of them share rows: with as many "
        f"processes, a step has more rows here, by a factor of {value}. Divide gradient_accumulation_steps or "
        f"--num_processes by {value} to keep the batch"
    )


def _minimum_rate(value: Any, settings: Settings) -> Translated:
    """cosine_min_lr_ratio of Axolotl, a share of the peak."""
    if not value or settings.get("lr_scheduler", "cosine") != "cosine":
        return Same("it belongs to the cosine schedule, which is not set")
    return {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": value}}


def _scheduler(value: Any, settings: Settings) -> Translated:
    """lr_scheduler; cosine_min_lr_ratio names another kind of cosine."""
    return {
        "lr_scheduler_type": "cosine_with_min_lr"
        if settings.get("cosine_min_lr_ratio") and value == "cosine"
        else value
    }


def _plugins(value: Any, settings: Settings) -> Translated:
    """Plugins of Axolotl: kernels, or another trainer."""
    names = [str(one) for one in (value if isinstance(value, list) else [value])]
    others = [name for name in names if not any(one in name.lower() for one in (*KERNELS, *LOGS))]
    if others:
        return f"{', '.join(others)}: has no counterpart, the plugins of the other tool change its trainer"
    return Same("kernels that compute the same in less time or memory, or logs (report_to)")


VALUES: dict[str, Callable[[Any, Settings], Translated]] = {
    "adapter": _adapter,
    "attn_implementation": _attention,
    "auto_resume_from_checkpoints": _if_on({"resume": "auto"}),
    "bf16": _precision("bf16"),
    "bits": bits,
    "chat_template": _chat_template,
    "chat_template_jinja": _chat_template,
    "dataset": datasets,
    "dataset_configs": translate_configs,
    "dataset_mixer": translate_mixer,
    "dataset_mixture": translate_mixture,
    "dataset_splits": translate_splits,
    "datasets": datasets,
    "deepspeed": engine("deepspeed"),
    "dataset_exact_deduplication": copies,
    "disable_shuffling": _if_on({"train_sampling_strategy": "sequential"}),
    "dpo_beta": lambda value, settings: {"beta": value},
    "dist_config": engine("fsdp"),
    "disable_gradient_checkpointing": lambda value, settings: {"gradient_checkpointing": not value},
    "dpo_use_weighting": lambda value, settings: {"use_weighting": value},
    "dpo_loss_type": lambda value, settings: {"loss_type": value},
    "excess_length_strategy": _long_rows,
    "bfloat16": _if_on({"dtype": "bfloat16"}),
    "float16": _if_on({"dtype": "float16"}),
    "bnb_config_kwargs": bnb_config,
    "bias": bias,
    "cosine_min_lr_ratio": _minimum_rate,
    **dict.fromkeys(PARALLEL, _parallel),
    "curriculum_sampling": _if_on({"train_sampling_strategy": "sequential"}),
    "lr_scheduler": _scheduler,
    "mask_history": mask_history,
    "mix_strategy": mix_strategy,
    "neat_packing": neat_packing,
    "orpo_alpha": lambda value, settings: {"beta": value},
    "plugins": _plugins,
    "pretraining_dataset": translate_datasets,
    "template": _chat_template,
    "use_dft_loss": _if_on({"method": "dft"}),
    "dataset_kwargs": lambda value, written: (
        "ift prepares every row itself; rows with input_ids are used unchanged"
    ),
    "env": lambda value, settings: {"env": value},
    "enable_tensorboard": _if_on({"report_to": "tensorboard"}),
    "enable_wandb": _if_on({"report_to": "wandb"}),
    "hub_model_id": _hub_model_id,
    "eval_dataset": evaluation_rows("eval_dataset"),
    "evals_per_epoch": _per_epoch("eval"),
    "finetuning_type": _adapter,
    "flash_attention": _attention,
    "flash_attn": _attention,
    "fp16": _precision("fp16"),
    "fsdp": engine("fsdp"),
    "fsdp_config": engine("fsdp"),
    "gradient_checkpointing": lambda value, settings: {"gradient_checkpointing": bool(value)},
    "group_by_length": _if_on({"train_sampling_strategy": "group_by_length"}),
    "lora_target": targets,
    "loss_type": _loss_type,
    "lora_target_linear": _if_on({"lora_target_modules": "all-linear"}),
    "lora_target_modules": targets,
    "peft_config": peft_config,
    "pure_bf16": _if_on({"dtype": "bfloat16"}),
    "quant_config": quant_config,
    "quantization_bit": bits,
    "rl_beta": lambda value, settings: {"beta": value},
    "saves_per_epoch": _per_epoch("save"),
    "special_tokens": special_tokens,
    "target_modules": targets,
    "test_datasets": evaluation_rows("test_datasets"),
    "template_file": _chat_template,
    "train_on_eos": train_on_eos,
    "train_on_responses_only": answers_only,
    "train_on_inputs": _if_on({"completion_only_loss": False}, ANSWERS),
    "train_on_prompt": _if_on({"completion_only_loss": False}, ANSWERS),
    "training_type": _adapter,
    "trl": trl_section,
    "use_gradient_checkpointing": lambda value, settings: {"gradient_checkpointing": bool(value)},
    "use_wandb": _if_on({"report_to": "wandb"}),
    "val_set_size": held_out,
    "val_size": held_out,
}
WANDB = {f"wandb_{name}": f"WANDB_{name.upper()}"
         for name in ("project", "entity", "watch", "log_model", "run_id", "mode", "run_group")}  # fmt: skip
VALUES |= STAGE_VALUES
VALUES |= {name: _wandb(variable) for name, variable in WANDB.items()}
# keys inside a value that are lost, by their full names
LOST_INSIDE: Mapping[str, Callable[[Any, Settings], dict[str, str]]] = {
    "dataset": lambda value, settings: lost_of_names(value),
    "eval_dataset": lost_of_evaluation("eval_dataset"),
    "test_datasets": lost_of_evaluation("test_datasets"),
    "dataset_mixer": lambda value, settings: lost_of_mixer(value),
    "dataset_mixture": lambda value, settings: lost_of_mixture(value),
    "datasets": lambda value, settings: lost_of_entries(value),
    "pretraining_dataset": lambda value, settings: lost_of_entries(value, "pretraining_dataset"),
    **LOST_OF_MAPPINGS,
    "deepspeed": lost_of_engine("deepspeed", "deepspeed"),
    **{name: lost_of_engine("fsdp", name) for name in ("dist_config", "fsdp", "fsdp_config")},
}
# what a translation above has used of other settings
USED_BY: Mapping[str, tuple[str, ...]] = {
    "dataset": ("max_samples", "dataset_dir"),
}

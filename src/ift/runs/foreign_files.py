"""Which tool a configuration file is from."""

from __future__ import annotations

from collections.abc import Collection

SIGNS = {  # tool -> settings that only its files have
    "trl": ("dataset_mixture", "dataset_mixer", "max_seq_length", "torch_dtype", "model_name_or_path"),
    "Axolotl": ("base_model", "sequence_len", "micro_batch_size", "lora_target_linear", "datasets"),
    "LLaMA-Factory": (
        "finetuning_type",
        "cutoff_len",
        "template",
        "stage",
        "dist_config",
        "model_class",
        "train_dataset",
    ),
    "unsloth": ("training", "lora", "random_state", "use_unsloth"),
}


def foreign_tool(keys: Collection[str]) -> tuple[str, list[str]] | None:
    """The tool whose configuration file these keys are from, and the keys that say so; None if it may be ift's own."""
    for tool, signs in SIGNS.items():
        found = [key for key in keys if key in signs and key not in ("datasets", "model_name_or_path")]
        if len(found) > 1:
            return tool, found
    return None

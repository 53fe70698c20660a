"""Names of settings in other tools and in earlier versions of trl and transformers, and their equivalents here.

They come before similar names: `warmup_ratio` is similar to `residual_warmup_ratio`, which is something else.
"""

from __future__ import annotations

from collections.abc import Mapping

RENAMED: Mapping[str, str] = {  # takes the same values and means the same
    "warmup_ratio": "warmup_steps",  # below 1 it is a share of all steps
    "torch_dtype": "dtype",
    "max_seq_length": "max_length",
    "max_seq_len": "max_length",
    "evaluation_strategy": "eval_strategy",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "no_cuda": "use_cpu",
    "use_lora": "use_peft",
    "lora_rank": "lora_r",
    "peft_lora_r": "lora_r",
    "peft_lora_alpha": "lora_alpha",
    "lora_target": "lora_target_modules",
    "target_modules": "lora_target_modules",
    "modules_to_save": "lora_modules_to_save",
    "additional_target": "lora_modules_to_save",
    "r": "lora_r",
    "use_4bit": "load_in_4bit",
    "use_8bit": "load_in_8bit",
    "bnb_4bit_use_double_quant": "use_bnb_nested_quant",
    "double_quantization": "use_bnb_nested_quant",
    "tokenizer_revision": "model_revision",
    "preprocessing_num_workers": "dataset_num_proc",
    "dataset_processes": "dataset_num_proc",
    "num_proc": "dataset_num_proc",
    "neftune_alpha": "neftune_noise_alpha",
    "noisy_embedding_alpha": "neftune_noise_alpha",
    "base_model": "model_name_or_path",
    "model_name": "model_name_or_path",
    "sequence_len": "max_length",
    "sample_packing": "packing",
    "eval_sample_packing": "eval_packing",
    "micro_batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "num_epochs": "num_train_epochs",
    "epochs": "num_train_epochs",
    "optimizer": "optim",
    "lr_scheduler": "lr_scheduler_type",
    "wandb_name": "run_name",
    "cutoff_len": "max_length",
    "neat_packing": "packing",
    "dataset": "dataset_name",
    "dataset_path": "dataset_name",
    "train_file": "dataset_name",
    "data_path": "dataset_name",
    "lr": "learning_rate",
    "train_batch_size": "per_device_train_batch_size",
    "grad_accum": "gradient_accumulation_steps",
    "gradient_accumulation": "gradient_accumulation_steps",
    "clip_grad_norm": "max_grad_norm",
    "output": "output_dir",
}

EXPLAINED: Mapping[str, str] = {  # not needed, or said in another way
    "lora_target_linear": "corresponds to lora_target_modules: all-linear",
    "flash_attn": "corresponds to attn_implementation: flash_attention_2",
    "quantization_bit": "corresponds to load_in_4bit or load_in_8bit",
    "use_gradient_checkpointing": "corresponds to gradient_checkpointing: true",
    "batch_size": "corresponds to per_device_train_batch_size, rows of one device, and gradient_accumulation_steps",
    "stage": "corresponds to method: sft, dpo, orpo and others (docs/baselines.md)",
    "chat_template": "is not needed: the model's own chat template is used; chat_template_path names another",
    "chat_template_jinja": "corresponds to chat_template_path, the path of a Jinja file",
    "dataset_mixture": "corresponds to datasets: a list of entries with path and fraction (docs/data.md)",
    "test_datasets": "corresponds to dataset_test_split",
    "wandb_project": "is set in the environment: WANDB_PROJECT",
    "max_prompt_length": "is not needed: max_length cuts whole rows, and the report counts what is cut",
    "auto_resume_from_checkpoints": "corresponds to resume: auto",
    "predict_with_generate": "corresponds to eval_generate: a number of answers",
    "early_stopping_patience": "has no counterpart: load_best_model_at_end keeps the best checkpoint",
    "unfrozen_parameters": "has no counterpart: all weights are trained, or LoRA's with use_peft",
    "resize_token_embeddings_to_32x": "has no counterpart: the embedding keeps its size",
    "use_fast_tokenizer": "is not needed: transformers finds the class",
    "train_on_responses_only": "is not needed: answers alone are trained",
    "dataset_batch_size": "is not needed: rows are prepared one by one",
    "save_safetensors": "is not needed: weights are always saved as safetensors",
    "low_cpu_mem_usage": "is not needed: transformers loads weights that way",
    "overwrite_cache": "is not needed: rows are read anew where a file has changed",
    "train_on_inputs": "is not needed: answers alone are trained; completion_only_loss: false trains every token",
    "train_on_prompt": "is not needed: answers alone are trained; completion_only_loss: false trains every token",
    "mask_history": "has no counterpart: every assistant turn is trained; mark turns in the rows (docs/data.md)",
    "train_on_eos": "is not needed: the token that ends an answer is trained",
    "group_by_length": "is now train_sampling_strategy: group_by_length",
    "val_set_size": "corresponds to eval_strategy: steps, which cuts 5 % off the rows, or by a --dataset_test_split",
    "val_size": "corresponds to eval_strategy: steps, which cuts 5 % off the rows, or by a --dataset_test_split",
    "max_samples": "corresponds to a split: --dataset_train_split 'train[:1000]'",
    "max_train_samples": "corresponds to a split: --dataset_train_split 'train[:1000]'",
    "max_eval_samples": "corresponds to a split: --dataset_test_split 'test[:200]'",
    "dataset_splits": "corresponds to dataset_train_split and dataset_test_split",
    "dataset_mixer": "corresponds to datasets: a list of entries with path and fraction (docs/data.md)",
    "dataset_dir": "is part of dataset_name, which takes the path of a file or folder",
    "dataset_format": "is not needed: the format is found from the columns (docs/data.md)",
    "dataset_prepared_path": "is not needed: prepared rows are kept in the cache of datasets",
    "template": "is not needed: the model's own chat template is used; chat_template_path names another",
    "eot_tokens": "is not needed: the tokens that end a turn are found in the template; eos_token names another",
    "special_tokens": "corresponds to eos_token and pad_token",
    "tokenizer_type": "is not needed: transformers finds the class",
    "model_type": "is not needed: transformers finds the class",
    "tokenizer_name_or_path": "has no counterpart: the tokenizer is the one in the model's folder",
    "tokenizer_name": "has no counterpart: the tokenizer is the one in the model's folder",
    "adapter": "corresponds to use_peft: true (with load_in_4bit: true for qlora)",
    "adapter_name_or_path": "corresponds to model_name_or_path, which takes the folder of an adapter",
    "lora_model_dir": "corresponds to model_name_or_path, which takes the folder of an adapter",
    "finetuning_type": "corresponds to use_peft: true for lora; without it all weights are trained",
    "full_finetuning": "is not needed: without use_peft all weights are trained",
    "lora_fan_in_fan_out": "is not needed: peft finds it",
    "strict": "is not needed: unknown names are always refused",
    "do_sample": "belongs to ift generate and ift chat (temperature)",
    "plot_loss": "is not needed: metrics.jsonl holds every logged value",
    "pad_to_sequence_len": "is not needed: rows are padded to the longest of their batch (pad_to_multiple_of)",
    "flash_attention": "corresponds to attn_implementation: flash_attention_2",
    "xformers_attention": "corresponds to attn_implementation: sdpa",
    "sdp_attention": "corresponds to attn_implementation: sdpa",
    "use_flash_attention_2": "corresponds to attn_implementation: flash_attention_2",
    "use_flash_attn": "corresponds to attn_implementation: flash_attention_2",
    "rl": "corresponds to method: dpo, orpo, simpo and others (docs/baselines.md)",
    "pref_loss": "corresponds to method: dpo, orpo, simpo and others (docs/baselines.md)",
    "saves_per_epoch": "corresponds to save_steps: a value below 1 is a share of all steps",
    "evals_per_epoch": "corresponds to eval_steps: a value below 1 is a share of all steps",
    "logging_dir": "was removed from transformers 5: set TENSORBOARD_LOGGING_DIR in the environment",
    "fp16_backend": "was removed from transformers: fp16: true is enough",
    "half_precision_backend": "was removed from transformers: fp16: true is enough",
    "bits": "corresponds to load_in_4bit or load_in_8bit",
}


def suggest_equivalent(name: str, dashes: str = "") -> str | None:
    """The end of a message for another tool's setting, "; here it is max_length."; None for an unknown name.

    Args:
        name: The name, with - or _ between its words.
        dashes: Prefix of a flag.
    """
    key = name.replace("-", "_").lower()
    if key in RENAMED:
        return f"; here it is {dashes}{RENAMED[key]}."
    return f"; it {EXPLAINED[key]}." if key in EXPLAINED else None


def table() -> str:
    """The Markdown table of docs/cli.md."""
    rows = [(name, f"`{here}`") for name, here in RENAMED.items()] + [*EXPLAINED.items()]
    lines = [f"| `{name}` | {here} |" for name, here in sorted(rows)]
    return "\n".join(["| name elsewhere | here |", "|---|---|", *lines])

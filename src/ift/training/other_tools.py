"""Names of settings in other tools and in earlier versions of trl and transformers, and their equivalents here.

They take precedence over similar names: `warmup_ratio` is similar to `residual_warmup_ratio`, which is something else.
"""

from __future__ import annotations

from collections.abc import Mapping

_SAME = {  # name here -> names elsewhere, with the same meaning and values
    "warmup_steps": ("warmup_ratio",),  # below 1 it is a share of all steps
    "dtype": ("torch_dtype",),
    "max_length": ("max_seq_length", "max_seq_len", "sequence_len", "cutoff_len"),
    "seed": ("random_state", "random_seed"),
    "eval_strategy": ("evaluation_strategy",),
    "per_device_train_batch_size": ("per_gpu_train_batch_size", "micro_batch_size", "train_batch_size"),
    "per_device_eval_batch_size": ("per_gpu_eval_batch_size", "eval_batch_size"),
    "use_cpu": ("no_cuda",),
    "use_peft": ("use_lora",),
    "use_dora": ("peft_use_dora",),
    "use_rslora": ("peft_use_rslora",),
    "lora_r": ("lora_rank", "peft_lora_r", "r"),
    "lora_alpha": ("peft_lora_alpha",),
    "lora_dropout": ("peft_lora_dropout",),
    "lora_target_modules": ("lora_target", "target_modules"),
    "lora_modules_to_save": ("modules_to_save", "additional_target"),
    "load_in_4bit": ("use_4bit",),
    "load_in_8bit": ("use_8bit",),
    "use_bnb_nested_quant": ("bnb_4bit_use_double_quant", "double_quantization"),
    "bnb_4bit_quant_type": ("quantization_type",),
    "model_revision": ("tokenizer_revision", "revision_of_model"),
    "adam_epsilon": ("adam_eps",),
    "router_aux_loss_coef": ("moe_aux_loss_coef",),
    "dataset_num_proc": ("preprocessing_num_workers", "dataset_processes", "num_proc"),
    "neftune_noise_alpha": ("neftune_alpha", "noisy_embedding_alpha"),
    "model_name_or_path": ("base_model", "model_name", "model"),
    "packing": ("sample_packing", "neat_packing"),
    "eval_packing": ("eval_sample_packing",),
    "num_train_epochs": ("num_epochs", "epochs"),
    "optim": ("optimizer",),
    "lr_scheduler_type": ("lr_scheduler",),
    "run_name": ("wandb_name", "wandb_run_name"),
    "dataset_name": ("dataset", "dataset_path", "train_file", "data_path"),
    "learning_rate": ("lr",),
    "gradient_accumulation_steps": ("grad_accum", "gradient_accumulation"),
    "max_grad_norm": ("clip_grad_norm",),
    "output_dir": ("output",),
}  # fmt: skip
RENAMED: Mapping[str, str] = {name: here for here, names in _SAME.items() for name in names}

_EXPLAINED = {  # explanation -> names elsewhere that have no exact equivalent
    "corresponds to lora_target_modules: all-linear": ("lora_target_linear",),
    "corresponds to attn_implementation: flash_attention_2":
        ("flash_attn", "flash_attention", "use_flash_attention_2", "use_flash_attn"),
    "corresponds to load_in_4bit or load_in_8bit": ("quantization_bit", "bits"),
    "corresponds to gradient_checkpointing: true": ("use_gradient_checkpointing",),
    "corresponds to per_device_train_batch_size (rows per device) times gradient_accumulation_steps": ("batch_size",),
    "corresponds to method: sft, dpo, orpo and others (docs/baselines.md)": ("stage",),
    "corresponds to chat_template_path, a Jinja file; without it ift uses the model's own template, or lines of User: "
    "and Assistant: if the model has none": ("chat_template", "template"),
    "corresponds to chat_template_path, the path of a Jinja file": ("chat_template_jinja",),
    "corresponds to datasets: a list of entries with path and split, where train[:50%] is a share (docs/data.md)":
        ("dataset_mixture", "dataset_mixer"),
    "corresponds to dataset_test_split": ("test_datasets",),
    "is not needed: max_length truncates whole rows, and the report counts what is lost": ("max_prompt_length",),
    "corresponds to resume: auto": ("auto_resume_from_checkpoints",),
    "corresponds to eval_generate, the number of answers": ("predict_with_generate",),
    "corresponds to eval_generate_max_new_tokens, for the answers of eval_generate": ("eval_max_new_tokens",),
    "has no counterpart: load_best_model_at_end: true saves the best weights, which Axolotl does with this key":
        ("early_stopping_patience", "early_stopping_steps"),
    "has no counterpart: ift trains all weights, or with use_peft those of LoRA; lora_target_modules accepts single "
    "layers, such as layers.3.self_attn.q_proj":
        ("unfrozen_parameters", "peft_layers_to_transform", "peft_layers_pattern", "peft_layer_replication",
         "freeze_trainable_layers", "freeze_trainable_modules", "freeze_extra_modules", "use_llama_pro",
         "lisa_n_layers", "lisa_step_interval", "lisa_layers_attribute"),
    "has no counterpart: lora_r and lora_alpha apply to all layers": ("lora_rank_pattern", "lora_alpha_pattern"),
    "has no counterpart: LoRA is initialised by peft's default":
        ("peft_init_lora_weights", "pissa_init", "pissa_iter", "pissa_convert", "loftq_config", "peft"),
    "has no counterpart: all weights have the same learning_rate":
        ("loraplus_lr_ratio", "loraplus_lr_embedding", "embedding_lr", "embedding_lr_scale", "lr_groups"),
    "has no counterpart: lora_modules_to_save: [embed_tokens] trains the whole embedding":
        ("peft_trainable_token_indices", "peft_ensure_weight_tying"),
    "has no counterpart: adapters are float32": ("peft_autocast_adapter_dtype",),
    "has no counterpart: ift has LoRA (use_peft: true), but not OFT, LLaMA-Adapter and others":
        ("oft_block_size", "oft_rank", "oft_target", "module_dropout"),
    "corresponds to optim: galore_adamw, with optim_target_modules and optim_args":
        ("use_galore", "galore_target", "galore_rank", "galore_update_interval", "galore_scale", "galore_proj_type",
         "galore_layerwise"),
    "corresponds to optim: apollo_adamw, with optim_target_modules and optim_args":
        ("use_apollo", "apollo_target", "apollo_rank", "apollo_update_interval", "apollo_scale", "apollo_proj",
         "apollo_proj_type", "apollo_scale_type", "apollo_layerwise", "apollo_scale_front"),
    "has no counterpart: optim accepts the optimisers of transformers":
        ("use_badam", "badam_mode", "badam_switch_mode", "badam_switch_interval", "badam_update_ratio",
         "use_adam_mini", "use_muon", "adam_beta3", "adam_epsilon2", "optim_config"),
    "has no counterpart: lr_scheduler_type accepts the schedules of transformers, which do not restart the optimiser":
        ("relora", "relora_prune_ratio", "relora_prune_method", "relora_cpu_offload", "jagged_restart_steps",
         "jagged_restart_warmup_steps", "jagged_restart_anneal_steps", "lr_quadratic_warmup", "lr_div_factor",
         "eta_min"),
    "corresponds to method: dft": ("use_dft_loss",),
    "has no counterpart: --method selects the loss (docs/baselines.md)":
        ("use_eaft", "use_eaft_loss", "eaft_alpha", "eaft_k", "use_asft_loss", "asft_alpha", "diffusion", "pref_ftx",
         "scaling_softmax", "scaling_softmax_factor", "scaling_softmax_bias"),
    "has no counterpart: ift has no reward models, no reinforcement learning and no KTO":
        ("reward_model", "process_reward_model", "center_rewards_coefficient", "num_labels", "trl", "vllm", "ebft",
         "kto_desirable_weight", "kto_undesirable_weight", "kto_chosen_weight", "kto_rejected_weight", "ppo_epochs",
         "ppo_buffer_size", "ppo_target", "ppo_score_norm", "ppo_whiten_rewards", "reward_model_type",
         "reward_model_adapters", "cls_model_config"),
    "has no counterpart: ift has no quantisation-aware training and no FP8":
        ("qat", "quantization", "use_onebitllms", "llmcompressor", "fp8", "fp8_backend",
         "fp8_enable_fsdp_float8_all_gather"),
    "is not needed: transformers reads the quantisation from the model's configuration":
        ("gptq", "gptq_disable_exllama", "model_quantization_config", "model_quantization_config_kwargs"),
    "has no counterpart: add tokens to the tokenizer and the model beforehand (tokenizer.add_tokens, "
    "model.resize_token_embeddings), save both in one folder, and train from it":
        ("tokens", "added_tokens_overrides", "add_tokens", "add_special_tokens", "new_special_tokens_config",
         "resize_vocab", "init_special_tokens", "shrink_embeddings"),
    "has no counterpart: training starts from the weights of model_name_or_path":
        ("reinit_weights", "train_from_scratch", "mixture_of_depths"),
    "has no counterpart: remove these rows from the file":
        ("min_sample_len", "dataset_shard_num", "dataset_shard_idx"),
    "has no counterpart: ift does not extend the model's context":
        ("use_pose", "pose_max_context_len", "pose_num_chunks", "pose_split_on_token_ids",
         "rope_scaling", "shift_attn"),
    "corresponds to train_sampling_strategy: sequential": ("curriculum_sampling", "disable_shuffling"),
    "corresponds to a column system in the rows": ("default_system",),
    "corresponds to a column chat_template_kwargs in the rows (docs/data.md)":
        ("enable_thinking", "preserve_thinking", "tool_format", "chat_template_kwargs"),
    "corresponds to fraction in the entries of datasets (docs/data.md)": ("mix_strategy", "interleave_probs"),
    "corresponds to datasets: a list of entries with path (docs/data.md)": ("pretraining_dataset",),
    "corresponds to dataset_name: rows with input_ids and labels (docs/data.md)": ("tokenized_path",),
    "has no counterpart: max_length truncates longer rows at their end, and ift check counts them; to drop them, "
    "remove them from the file":
        ("excess_length_strategy",),
    "belongs to ift merge": ("merge_lora", "merge_method", "export_dir", "export_size", "export_device",
         "export_legacy_format", "export_hub_model_id", "export_quantization_bit", "export_quantization_dataset"),
    "has no counterpart: the embedding keeps its size": ("resize_token_embeddings_to_32x",),
    "is not needed: transformers chooses the class":
        ("use_fast_tokenizer", "tokenizer_type", "model_type", "model_class", "processor_type", "tokenizer_use_fast",
         "tokenizer_legacy"),
    "is not needed: only answers are trained": ("train_on_responses_only",),
    "is not needed: rows are prepared one by one": ("dataset_batch_size",),
    "is not needed: weights are always saved as safetensors": ("save_safetensors",),
    "is not needed: transformers always does this": ("low_cpu_mem_usage",),
    "is not needed: rows are read again if a file has changed": ("overwrite_cache",),
    "is not needed: only answers are trained; completion_only_loss: false trains every token":
        ("train_on_inputs", "train_on_prompt"),
    "has no counterpart: every assistant turn is trained; mark turns in the rows (docs/data.md)": ("mask_history",),
    "is not needed: the token that ends an answer is trained": ("train_on_eos",),
    "is now train_sampling_strategy: group_by_length": ("group_by_length",),
    "corresponds to eval_strategy: steps, which holds out 5 % of the rows, or to dataset_test_split":
        ("val_set_size", "val_size"),
    "corresponds to a slice: --dataset_train_split 'train[:1000]'": ("max_samples", "max_train_samples"),
    "corresponds to a slice: --dataset_test_split 'test[:200]'": ("max_eval_samples",),
    "corresponds to dataset_train_split and dataset_test_split": ("dataset_splits",),
    "corresponds to dataset_config, or to name in the entries of datasets (docs/data.md)": ("dataset_configs",),
    "is part of dataset_name, which takes the path of a file or folder": ("dataset_dir",),
    "is not needed: the format is detected from the columns (docs/data.md)": ("dataset_format",),
    "is not needed: prepared rows are kept in the cache of datasets": ("dataset_prepared_path",),
    "is not needed: the tokens that end a turn are found in the chat template; eos_token sets another": ("eot_tokens",),
    "corresponds to eos_token and pad_token": ("special_tokens",),
    "has no counterpart: the tokenizer is the one in the model's folder":
        ("tokenizer_name_or_path", "tokenizer_name", "tokenizer_config"),
    "corresponds to use_peft: true (with load_in_4bit: true for qlora)": ("adapter",),
    "corresponds to model_name_or_path, which takes the folder of an adapter":
        ("adapter_name_or_path", "lora_model_dir"),
    "corresponds to use_peft: true for lora; without it all weights are trained": ("finetuning_type",),
    "is not needed: without use_peft all weights are trained": ("full_finetuning", "full_finetune"),
    "is not needed: peft sets it": ("lora_fan_in_fan_out",),
    "is not needed: unknown names are always refused": ("strict",),
    "belongs to ift generate and ift chat, not to training":
        ("do_sample", "max_new_tokens", "temperature", "top_p", "top_k", "infer_backend", "infer_dtype"),
    "is not needed: metrics.jsonl holds every logged value": ("plot_loss",),
    "is not needed: rows are padded to the longest row of their batch (pad_to_multiple_of)": ("pad_to_sequence_len",),
    "corresponds to attn_implementation: sdpa": ("xformers_attention", "sdp_attention"),
    "corresponds to method: dpo, orpo, simpo and others (docs/baselines.md)": ("rl", "pref_loss"),
    "corresponds to save_steps: a value below 1 is a share of all steps": ("saves_per_epoch",),
    "corresponds to eval_steps: a value below 1 is a share of all steps": ("evals_per_epoch",),
    "was removed from transformers 5: set TENSORBOARD_LOGGING_DIR in the environment": ("logging_dir",),
    "was removed from transformers: fp16: true is enough": ("fp16_backend", "half_precision_backend"),
    "corresponds to datasets: a list of entries with path and split (docs/data.md)": ("train_dataset", "eval_dataset"),
    "corresponds to chat_template_path, the path of a Jinja file, and eos_token": ("template_file", "custom_template"),
    "corresponds to dtype: bfloat16": ("pure_bf16", "bfloat16"),
    "corresponds to dtype: float16": ("float16",),
    "is beta in preference methods (docs/baselines.md)": ("rl_beta", "pref_beta", "dpo_beta", "orpo_alpha"),
    "belongs to preference methods (docs/baselines.md): loss_type, label_smoothing, use_weighting":
        ("dpo_loss_type", "dpo_loss_weights", "dpo_label_smoothing", "dpo_use_weighting"),
    "corresponds to gradient_checkpointing: false": ("disable_gradient_checkpointing",),
    "corresponds to bnb_4bit_quant_type and use_bnb_nested_quant": ("bnb_config_kwargs",),
    "corresponds to report_to: wandb": ("use_wandb", "enable_wandb"),
    "corresponds to report_to: tensorboard": ("enable_tensorboard",),
    "corresponds to an environment variable such as WANDB_PROJECT, which env: sets in the YAML file (report_to: wandb)":
        ("wandb_project", "wandb_entity", "wandb_watch", "wandb_log_model", "wandb_run_id", "wandb_mode",
         "wandb_run_group"),
    "has no counterpart: ift computes the LM head's loss in tiles and uses the model's own kernels":
        ("liger_rope", "liger_rms_norm", "liger_glu_activation", "liger_swiglu", "liger_layer_norm", "kernel_config",
         "liger_fused_linear_cross_entropy", "liger_cross_entropy", "cut_cross_entropy", "enable_liger_kernel",
         "unsloth_cross_entropy_loss", "use_unsloth", "use_unsloth_gc", "lora_mlp_kernel", "lora_qkv_kernel",
         "lora_o_kernel"),
    "has no counterpart: the plugins of the other tool change its trainer": ("plugins",),
    "is not needed: ift always shuffles the rows by the seed, and ift check reports copies":
        ("shuffle_merged_datasets", "dataset_exact_deduplication"),
    "is not needed: the rows are text": ("remove_unused_columns_multimodal", "freeze_vision_tower",
         "freeze_multi_modal_projector", "freeze_language_model", "image_max_pixels", "video_max_pixels"),
    "is not needed: bitsandbytes is the only supported method": ("quantization_method",),
    "has no counterpart: peft trains no bias": ("bias",),
    "has no counterpart: a loss or gradient that is not finite stops the run":
        ("loss_watchdog_threshold", "loss_watchdog_patience"),
    "corresponds to model_init_kwargs: {tp_plan: auto}, with num_processes (docs/many_gpus.md)":
        ("tensor_parallel_size", "tensor_model_parallel_size"),
    "has no counterpart: ift does not divide a model into stages of a pipeline": ("pipeline_model_parallel_size",),
    "has no counterpart: ift has no setting for context or expert parallelism":
        ("context_parallel_size", "sequence_parallel_degree", "expert_parallel_size",
         "dp_shard_size", "dp_replicate_size", "cp_size", "cp_mode"),
    "corresponds to accelerate_config, with num_processes (docs/many_gpus.md)": ("fsdp_version", "dist_config"),
    "corresponds to a value in transformers' lr_scheduler_kwargs":
        ("cosine_min_lr_ratio", "cosine_constant_lr_ratio"),
    "corresponds to load_in_4bit or load_in_8bit, and dtype": ("quant_config",),
    "corresponds to use_peft: true, lora_r, lora_alpha and lora_target_modules": ("peft_config", "training_type"),
}  # fmt: skip
EXPLAINED: Mapping[str, str] = {name: text for text, names in _EXPLAINED.items() for name in names}


def suggest_equivalent(name: str, dashes: str = "") -> str | None:
    """The end of a message for another tool's setting, "; here it is max_length."; None for an unknown name."""
    key = name.replace("-", "_").lower()
    if key in RENAMED:
        more = ", where below 1 is a share of the steps" if key == "warmup_ratio" else ""
        if key == "dataset" and not dashes:
            more = ", or datasets for a list of them"
        return f"; in ift it is {dashes}{RENAMED[key]}{more}."
    return f"; it {EXPLAINED[key]}." if key in EXPLAINED else None


def table() -> str:
    """The Markdown table of docs/cli.md."""
    rows = [(name, f"`{here}`") for name, here in RENAMED.items()] + [*EXPLAINED.items()]
    lines = [f"| `{name}` | {here} |" for name, here in sorted(rows)]
    return "\n".join(["| name in another tool | in ift |", "|---|---|", *lines])

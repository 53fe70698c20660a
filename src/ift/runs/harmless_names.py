"""Which settings of other tools can be lost without a change of what is trained: speed, memory, logs, files."""

from __future__ import annotations

# names that begin with these
_PREFIXES = ("wandb_", "mlflow_", "comet_", "trackio_", "swanlab_", "otel_", "use_otel", "hub_", "liger_", "ddp_",
             "dataloader_", "deepspeed", "deepcompile", "fsdp", "ray_", "vllm_", "sglang_", "flash_", "kt_", "eval_",
             "evals_", "export_", "save_", "saves_", "do_", "logging_", "moe_", "gemma4_", "dsv4_", "expert_", "tiled_",
             "bench_", "badam_verbose", "timeout", "qlora_sharded", "lora_on_cpu", "gc_", "loss_watchdog")  # fmt: skip
_NAMES = frozenset({
    "strict", "debug", "local_rank", "world_size", "device", "device_map", "ddp", "seed_worker", "report_to",
    "dataset_keep_in_memory", "dataset_prepared_path", "dataset_processes", "skip_prepare_dataset",
    "num_dataset_shards_to_save", "push_dataset_to_hub", "hf_use_auth_token", "dataset_exact_deduplication_path",
    "val_set_size", "val_size", "max_eval_samples", "predict_with_generate", "plot_loss",
    "compute_accuracy", "include_tokens_per_second", "include_num_input_tokens_seen", "print_param_status",
    "gradient_checkpointing", "use_gradient_checkpointing", "disable_gradient_checkpointing", "activation_offloading",
    "gradient_checkpointing_kwargs", "selective_checkpointing", "layer_offloading", "use_reentrant_gc",
    "attn_implementation", "xformers_attention", "sdp_attention", "sage_attention", "flex_attention", "eager_attention",
    "flex_attn_compile_kwargs", "fused_attn_kernel", "large_head_attention", "sdpa_varlen", "use_kernels",
    "cut_cross_entropy", "chunked_cross_entropy", "chunked_cross_entropy_num_chunks", "unsloth_cross_entropy_loss",
    "enable_liger_kernel", "kernel_config", "use_unsloth", "use_unsloth_gc", "lora_mlp_kernel", "lora_qkv_kernel",
    "lora_o_kernel", "lora_embedding_kernel", "experts_implementation", "llama4_linearized_experts", "use_scattermoe",
    "use_sonicmoe", "use_v1_kernels", "use_dsv4_kernels", "use_glm_dsa_kernels", "use_kt", "torch_compile", "tf32",
    "torch_compile_backend", "torch_empty_cache_steps", "pad_to_sequence_len", "pad_to_multiple_of",
    "sample_packing_group_size", "sample_packing_bin_size", "sample_packing_mp_start_method",
    "sample_packing_sequentially",
    "multipack_real_batches", "streaming_multipack_buffer_size", "pretrain_multipack_buffer_size", "buffer_size",
    "sequence_parallel", "cp_mode", "dp_shard_size", "dp_replicate_size", "heads_k_stride", "ring_attn_func",
    "dist_config", "init_config",
    "use_distributed_optimizer", "overlap_grad_reduce",
    "overlap_param_gather", "bias_activation_fusion", "apply_rope_fusion", "recompute_granularity", "use_ray",
    "auto_resume_from_checkpoints", "resume_from_checkpoint", "resize_token_embeddings_to_32x", "logging_dir",
    "freeze_mm_modules", "nvfp4_merge_aware", "base_model_ignore_patterns", "experimental_skip_move_to_device",
    "enable_wandb", "use_wandb", "enable_tensorboard", "use_tensorboard", "use_swanlab",
    "use_mlflow", "use_comet", "use_trackio", "profiler_steps", "cache_dir",
    "shuffle_merged_datasets", "sample_backend", "infer_backend", "infer_dtype", "max_new_tokens", "do_sample",
    "merge_lora", "merge_method", "data_shared_file_system", "preprocessing_batch_size", "group_by_modality",
    "dynamic_checkpoint", "video_fps",
    "video_maxlen", "tokenizer_save_jinja_files", "lora_fan_in_fan_out", "save_safetensors", "gradio_title",
})  # fmt: skip


class Same(str):
    """The reason of a lost setting without which the weights are the same.

    What it asks for happens here anyway, or it is off, or it concerns only speed, memory or files.
    """

    __slots__ = ()


def is_harmless(name: str, reason: str) -> bool:
    """Whether the weights of a training stay the same without the setting `name`, which was lost for `reason`."""
    return (
        isinstance(reason, Same)
        or name in _NAMES
        # without eval_dataset, training rows are held out; a key inside a mapping is judged by its own reason
        or (name.startswith(_PREFIXES) and name != "eval_dataset" and "." not in name)
        or reason.startswith("is not needed")
        or "no effect" in reason
    )

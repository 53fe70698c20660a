"""Merges an adapter into its base and verifies that the outputs are unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ift.data.errors import DataError
from ift.models.adapters import merge_adapter
from ift.models.loading import LoadOptions, load_network, load_tokenizer, local_path
from ift.models.outputs import compare_logits, compute_logits
from ift.models.record import ModelRecord, read_record, write_record

SAMPLE = "The quick brown fox jumps over the lazy dog. 1 + 2 = 3.\n"  # input of the comparison if no rows are given


def save_merged(
    name: str,
    folder: str | Path,
    rows: Sequence[Sequence[int]] = (),
    options: LoadOptions = LoadOptions(),  # noqa: B008 (frozen)
) -> None:
    """Merges an adapter into its base, saves the result with tokenizer and record, reloads it and compares outputs.

    The outputs are compared on `rows` (token ids of training rows), or on a fixed sentence.

    Raises:
        DataError: The adapter cannot be loaded, or the merged model gives other outputs.
    """
    folder, tokenizer = Path(folder), load_tokenizer(name, options)
    rows = rows or [tokenizer(SAMPLE)["input_ids"]]
    model = load_network(name, options)
    if not hasattr(model, "peft_config"):
        raise DataError(f"{name}: this is not an adapter, so there is nothing to merge")
    wanted = compute_logits(model, rows)
    model = merge_adapter(model)
    rounded = any(one.dtype in (torch.bfloat16, torch.float16) for one in model.parameters())
    model.save_pretrained(folder)
    del model
    tokenizer.save_pretrained(folder)
    write_record(folder, ModelRecord(prompts=read_record(local_path(name)).prompts))
    again = load_network(str(folder), replace(options, revision=None, further={}))
    found = compare_logits(wanted, compute_logits(again, rows), rounded=rounded)
    if not found.same:
        raise DataError(
            f"{name}: merged into its base, this adapter gives other outputs ({found}), so the merged model in "
            f"{folder} is not used. Fix: continue training the adapter (--model_name_or_path {name}), or leave the "
            "embeddings and the head out of --lora_target_modules"
        )

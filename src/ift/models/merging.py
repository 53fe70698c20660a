"""A merged model in a folder: only where it gives the same outputs as the adapter on its base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ift.data.errors import DataError
from ift.models.adapters import merged
from ift.models.loading import LoadOptions, load_network, load_tokenizer, local_path
from ift.models.outputs import difference, logits_of
from ift.models.record import ModelRecord, read_record, write_record

SAMPLE = "The quick brown fox jumps over the lazy dog. 1 + 2 = 3.\n"  # compared where no rows are given


def save_merged(
    name: str,
    folder: str | Path,
    rows: Sequence[Sequence[int]] = (),
    options: LoadOptions = LoadOptions(),  # noqa: B008 (frozen)
) -> None:
    """Merge an adapter into its base and save the result, with tokenizer and record, loaded again and compared.

    Args:
        name: Folder or Hub id of the adapter.
        folder: Where the merged model goes.
        rows: Token ids of rows that the adapter was trained on, to compare on; none: a sentence.
        options: How the adapter is loaded.

    Raises:
        DataError: It cannot be loaded, or the merged model gives other outputs than the adapter.
    """
    folder, tokenizer = Path(folder), load_tokenizer(name, options)
    rows = rows or [tokenizer(SAMPLE)["input_ids"]]
    model = load_network(name, options)
    if not hasattr(model, "peft_config"):
        raise DataError(f"{name}: is no adapter, so there is nothing to merge")
    wanted = logits_of(model, rows)
    model = merged(model)
    rounded = any(one.dtype in (torch.bfloat16, torch.float16) for one in model.parameters())
    model.save_pretrained(folder)
    del model
    tokenizer.save_pretrained(folder)
    write_record(folder, ModelRecord(prompts=read_record(local_path(name)).prompts))
    again = load_network(str(folder), replace(options, revision=None, further={}))
    found = difference(wanted, logits_of(again, rows), rounded=rounded)
    if not found.same:
        raise DataError(
            f"{name}: merged into its base, this adapter gives other outputs ({found}), so the merged model in "
            f"{folder} is not used. Fix: train on from the adapter itself (--model_name_or_path {name}), or leave the "
            "embeddings and the head out of --lora_target_modules"
        )

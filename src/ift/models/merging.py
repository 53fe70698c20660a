"""Merges an adapter into its base and verifies that the outputs are unchanged."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ift.data import end_of_turn_ids
from ift.data.errors import DataError
from ift.data.hub import folder_or_download
from ift.models.adapters import CONFIG, adapter_config, merge_adapter
from ift.models.loading import LoadOptions, load_network, load_tokenizer
from ift.models.model_folder import local_path
from ift.models.outputs import Difference, compare_logits, compute_logits
from ift.models.record import read_record, write_record
from ift.models.stop_tokens import stop_generation_at

SAMPLE = "The quick brown fox jumps over the lazy dog. 1 + 2 = 3.\n"  # input of the comparison if no rows are given


def merge_to_new_folder(
    name: str,
    folder: Path,
    rows: Sequence[Sequence[int]] = (),
    options: LoadOptions = LoadOptions(),  # noqa: B008 (frozen)
) -> Difference:
    """Merges an adapter as `save_merged` does; `folder` appears only if the outputs are unchanged.

    The model is written and compared in a temporary folder beside `folder`, which is removed on any error.

    Raises:
        DataError: `folder` is not empty; otherwise see `save_merged`.
    """
    refuse_merge_target(name, folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        found = save_merged(name, partial, rows, options)
        partial.chmod(0o755)  # mkdtemp's folder is private
        os.replace(partial, folder)  # an empty folder of that name is replaced
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return found


def refuse_merge_target(name: str, folder: Path) -> None:
    """Raises DataError if a model is no adapter, or the folder for the merged model is not empty."""
    if adapter_config(local_path(name)) is None and not Path(name).expanduser().is_dir():
        raise DataError(
            f"{name}: there is no such folder, and no adapter of this name was found on the Hub. "
            f"{folder_or_download(name)}"
        )
    if adapter_config(local_path(name)) is None:
        raise DataError(
            f"{name}: found no {CONFIG}: this is not an adapter, so there is nothing to merge. Fix: give the folder or "
            "Hub id of an adapter"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder}: exists and is not an empty folder. Fix: name another --output_dir")


def save_merged(
    name: str,
    folder: str | Path,
    rows: Sequence[Sequence[int]] = (),
    options: LoadOptions = LoadOptions(),  # noqa: B008 (frozen)
) -> Difference:
    """Merges an adapter into its base, saves the result with tokenizer and record, reloads it and compares outputs.

    The outputs are compared on `rows` (token ids of training rows), or on a fixed sentence. Where the adapter was saved
    after its training, generation stops at the end tokens of its template, as it does for the adapter.

    Returns:
        How far the logits of the merged model are from the adapter's.

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
    stop_generation_at(model, sorted(end_of_turn_ids(tokenizer)))
    rounded = any(one.dtype in (torch.bfloat16, torch.float16) for one in model.parameters())
    model.save_pretrained(folder)
    del model
    tokenizer.save_pretrained(folder)
    write_record(folder, replace(read_record(local_path(name), options.revision), base_sha256=""))
    again = load_network(str(folder), replace(options, revision=None, further={}))
    found = compare_logits(wanted, compute_logits(again, rows), rounded=rounded)
    if not found.same:
        raise DataError(
            f"{name}: merged into its base, this adapter gives other outputs ({found}), so the merged model is "
            f"not used. Fix: continue training the adapter (--model_name_or_path {name}), or leave the embeddings and "
            "the head out of --lora_target_modules"
        )
    return found

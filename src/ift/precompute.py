"""The look-aheads of all rows, made once at the speed of inference, for runs that begin with them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ift.functional import row_layout
from ift.lookahead_cache import LookAheadCache, documents_of, everyones
from ift.residual import Step

SAVED_EVERY = 60.0  # seconds


@torch.no_grad()
def precompute_look_aheads(
    trainer: Any, file: Path, progress: Callable[[int], None] = lambda rows: None
) -> dict[str, int]:
    """Make the greedy look-ahead of every training row that `file` does not hold yet, and write them all there.

    What is done is saved every minute, and when something ends it. Of several processes each takes its share of the
    rows, and has the whole model.

    Args:
        trainer: an `IFTTrainer`, not run yet; its batches are used.
        file: the safetensors file, see `LookAheadCache.save`.
        progress: called with the number of rows of each batch, of all processes.

    Returns:
        `rows` and `tokens` in the file now; `new` tokens of this call, and how many of them are `hits`, the target.

    Raises:
        ValueError: the file holds the look-aheads of another model, or the weights are sharded.
    """
    accelerator, model = trainer.accelerator, trainer.model
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise ValueError(
            "Weights are sharded, and look-aheads are made without that. Leave FSDP and DeepSpeed out."
        )
    name = str(model.config.name_or_path)
    cache = LookAheadCache(model.config.get_text_config().vocab_size, file.parent)
    if file.exists() and (about := cache.load(file)).get("model") != name:
        raise ValueError(
            f"{file}: holds look-aheads of {about.get('model')}, not of {name}. Give another --output"
        )
    sums, saved = torch.zeros(2, dtype=torch.int64, device=accelerator.device), time.monotonic()
    try:
        for batch in trainer.get_train_dataloader():
            batch = trainer._prepare_inputs(batch)
            layout = row_layout(batch["labels"], batch.get("attention_mask"), batch.get("position_ids"))
            unknown = cache.find(documents_of(batch["input_ids"], layout)) is None
            if bool(accelerator.gather(torch.tensor([unknown], device=accelerator.device)).any()):
                with trainer.compute_loss_context_manager():
                    scores = model(**batch, ift_step=Step(mixed_pass=False))
                documents = documents_of(batch["input_ids"], layout, scores.lookahead_ids)
                cache.put(everyones(accelerator, documents))
                sums += torch.stack([layout.trained.sum(), scores.lookahead_hits.sum()])
            progress(len(batch["input_ids"]) * accelerator.num_processes)
            if accelerator.is_main_process and time.monotonic() - saved > SAVED_EVERY:
                cache.save(file, {"model": name})
                saved = time.monotonic()
    finally:
        if accelerator.is_main_process:
            cache.save(file, {"model": name})
    new, hits = accelerator.reduce(sums).tolist()
    return {"rows": len(cache), "tokens": cache.tokens, "new": new, "hits": hits}

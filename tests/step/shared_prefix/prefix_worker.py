"""One of two gloo processes: a step with a shared prefix under DDP and FSDP2, half of the rows in each."""

from __future__ import annotations

import os

import torch
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import models
import two_processes
from ift import ift_loss

CASES = ("ddp", "ddp, checkpointed", "fsdp2", "fsdp2, checkpointed", "one rank cannot, fsdp2")


def model_and_batch(name):
    """Four rows; in the last case the second rank's have no prefix to speak of."""
    model = models.tiny_model("llama")
    apart = name.startswith("one rank cannot")
    rows = models.likely_rows(model, (40, 33, 40, 35))
    prompts = [20, 12, 1, 1] if apart else [20, 12, 17, 30]
    return model, models.padded(rows, models.masked_labels(rows, prompts))


def run_case(name, folder, share):
    """Loss and gradients of the global batch, and whether this rank shared."""
    model, batch = model_and_batch(name)
    if "checkpointed" in name:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if "fsdp2" in name:
        for layer in model.model.layers:
            fully_shard(layer)
        fully_shard(model)
        wrapped = model
    else:
        wrapped = DistributedDataParallel(model)
    rank = int(os.environ["RANK"])
    own = {key: value[2 * rank : 2 * rank + 2] for key, value in batch.items()}
    found = ift_loss(wrapped, own, num_items=torch.tensor(len(batch["labels"])), lookahead_prefix="shared")
    (found.loss * torch.distributed.get_world_size()).backward()  # both average over the ranks
    loss = found.loss.detach().clone()
    torch.distributed.all_reduce(loss)
    gradients = {
        n: p.grad.full_tensor() if "fsdp2" in name else p.grad.clone() for n, p in model.named_parameters()
    }
    return {"loss": loss.item(), "shared": found.scores.shared_prefix, "gradients": gradients}


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    two_processes.save_what_rank_0_found(run_case, CASES, 2)

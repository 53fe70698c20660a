"""A model in FSDP2's shards, or split by tensor parallelism, without a trainer: on a CPU accelerate has only copies."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM
from transformers.distributed import DistributedConfig

from ift import ift_loss
from ift.step.algorithm import enable_residual
from ift.step.rows import count_items, row_layout
from ift.training.lambda_schedule import noisy_lambda
from models import packed, padded, tiny_model, uneven_rows

MODEL = {"num_hidden_layers": 3, "vocab_size": 98}  # even: two ranks hold pieces of one size
TENSOR_CASES = {"sequence": {}, "token": {"loss_reduction": "token"}}
CASES = {
    "sequence": {"lookahead_prefix": "full"},
    "shared prefix": {"lookahead_prefix": "shared"},
    "token, prepared as the trainer does": {"loss_reduction": "token", "enabled_first": True},
    "a rank without trained tokens": {"untrained": True},
    "packed": {"packed": True},
    "accumulated": {"micro_batches": 2},
    "checkpointed": {"checkpointing": {"use_reentrant": False}, "lookahead_prefix": "full"},
    "checkpointed, reentrant": {"checkpointing": {"use_reentrant": True}},
    "adapter": {"peft": True},
    "noisy lambda": {"residual_lambda": noisy_lambda(0.2, 0.5, seed=0, step=1)},
    "sft": {"residual_lambda": 0.0, "propagation": "none"},
}


class Collectives(TorchDispatchMode):
    """Counts the calls of each collective, and the elements that come out of them."""

    def __init__(self):
        super().__init__()
        self.calls, self.elements = Counter(), Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "c10d":
            name = function._schema.name.removeprefix("c10d::").strip("_").removesuffix("_base")
            self.calls[name] += 1
            self.elements[name] += max(
                (tensor.numel() for tensor in args[:2] if isinstance(tensor, torch.Tensor)), default=0
            )
        return function(*args, **(kwargs or {}))


@functools.cache
def _drawn(count, seed):
    return uneven_rows(tiny_model(), count, seed)


def drawn_rows(count: int = 8, seed: int = 3):
    """`uneven_rows`, drawn once for all cases; the labels may be changed."""
    rows, labels = _drawn(count, seed)
    return rows, [label.clone() for label in labels]


def prepared(options, sharded: bool):
    """The model of a case, and its eight rows."""
    rows, labels = drawn_rows()
    model = tiny_model(**MODEL)
    if checkpointing := options.pop("checkpointing", None):
        model.activation_checkpointing_enable(checkpointing)
    blocks = model.model.layers
    if options.pop("peft", False):
        torch.manual_seed(1)
        adapter = LoraConfig(
            task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False
        )
        model = get_peft_model(model, adapter)
    if options.pop("enabled_first", False):
        enable_residual(model)
    if options.pop("untrained", False):
        for label in labels[4:]:  # those of the second rank
            label[:] = -100
    if sharded:
        for block in blocks:
            fully_shard(block, reshard_after_forward=True)
        fully_shard(model, reshard_after_forward=True)
    return model, rows, labels


def run_shards(name: str, folder: Path, share: int):
    """Loss, whole gradient and collectives of a case, whose global batch is eight rows, `share` of them here.

    With `share` 8 in one process and without shards. Then one step of SGD, and the weights saved in `folder`.
    """
    options, sharded = dict(CASES[name]), share < 8
    model, rows, labels = prepared(options, sharded)
    pack, steps = options.pop("packed", False), options.pop("micro_batches", 1)
    rank, ranks = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if sharded else (0, 1)
    layout = row_layout(*(padded(rows, labels)[key] for key in ("labels", "attention_mask")))
    items = count_items(layout, options.get("loss_reduction", "sequence"))
    loss, seen = torch.zeros(()), Collectives()
    with seen if sharded else contextlib.nullcontext():
        for step in range(steps):
            part = slice(rank * share + step * share // steps, rank * share + (step + 1) * share // steps)
            batch = (packed if pack else padded)(rows[part], labels[part])
            result = ift_loss(model, batch, num_items=items, **options)
            (result.loss * ranks).backward()  # FSDP2 averages over the ranks
            loss += result.loss.detach()
    if sharded:
        torch.distributed.all_reduce(loss)
    gradients = whole_gradients(model)
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    save(model, folder)
    return {"loss": float(loss), "gradients": gradients, "calls": seen.calls, "elements": seen.elements}


def save(model, folder: Path):
    """The whole weights, gathered in the memory of rank 0, as transformers saves them."""
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if weights:  # empty in the other ranks
        model.save_pretrained(folder, state_dict=weights)


def whole_gradients(model):
    """Gradients by name, put together from the ranks' pieces."""
    named = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    return {key: g.full_tensor() if isinstance(g, DTensor) else g for key, g in named.items()}


def run_tensor_parallel(name: str, folder: Path, share: int):
    """Loss and whole gradient of eight rows that every rank has, each weight split by transformers' plan."""
    split = share < 8
    model = tiny_model()
    if split:
        if torch.distributed.get_rank() == 0:
            model.save_pretrained(folder)
        torch.distributed.barrier()
        plan = DistributedConfig(tp_plan="auto")
        model = AutoModelForCausalLM.from_pretrained(folder, distributed_config=plan).train()
        assert isinstance(model.model.layers[0].mlp.up_proj.weight, DTensor)
    result = ift_loss(model, padded(*drawn_rows()), **TENSOR_CASES[name])
    result.loss.backward()
    return {"loss": result.loss.item(), "gradients": whole_gradients(model)}

"""Write docs/scaling.md: `scaling.py` for two models on 1 to 512 GPUs: `python docs/make_scaling.py`."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaConfig

from ift.check.memory import estimate_memory
from ift.runs.arguments import parse
from scaling import GATHERS, Shape, Share, shape_of, share

DOCS = Path(__file__).resolve().parent
GPUS = (1, 8, 64, 512)
STRATEGIES = {"ddp": "`ddp`", "zero2": "`zero2`", "fsdp2": "`fsdp2`, `zero3`"}  # as they are shown
METHODS = ("sft", "ift", "dpo")
ROW = 2048  # tokens, one row (DPO: two answers) a GPU
CARD = 80e9  # bytes
RESERVE = 0.1  # of the card: the allocator's fragments, the communication's buffers, the driver
LLAMA = {"vocab_size": 32_000, "max_position_embeddings": 4096, "tie_word_embeddings": False}
SIZES = {
    "7B": LlamaConfig(
        hidden_size=4096, intermediate_size=11_008, num_hidden_layers=32, num_attention_heads=32, **LLAMA
    ),
    "70B": LlamaConfig(
        hidden_size=8192, intermediate_size=28_672, num_hidden_layers=80, num_attention_heads=64,
        num_key_value_heads=8, **LLAMA,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Model:
    """A model, and the bytes of activations and logits of a step on one GPU, by method."""

    name: str
    shape: Shape
    activations: dict[str, int]

    def share(self, method: str, strategy: str, gpus: int) -> Share:
        """One GPU's share."""
        return share(self.shape, method, strategy, gpus, self.activations[method])


def model(name: str) -> Model:
    """A model of `SIZES`; its activations by `ift.check.memory`, with checkpointing."""
    activations = {}
    with tempfile.TemporaryDirectory() as folder:
        SIZES[name].save_pretrained(folder)
        words = [f"--model_name_or_path={folder}", "--dataset_name=rows", f"--output_dir={folder}"]
        words += ["--per_device_train_batch_size=1", f"--max_length={ROW}", "--gradient_checkpointing=true"]
        for method in ("ift", "dpo"):
            stage = parse([*words, f"--method={method}", "--bf16=true", "--dtype=float32"])
            estimate = estimate_memory(stage, ROW, torch.device("cuda"))
            activations[method] = estimate.activations + estimate.head
    activations["sft"] = activations["ift"]  # the look-ahead pass keeps nothing
    return Model(name, shape_of(SIZES[name]), activations)


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def gigabytes(count: float) -> str:
    """Bytes in GB, three digits."""
    return f"{count / 1e9:,.1f}" if count < 100e9 else f"{count / 1e9:,.0f}"


def memory_table(found: Model) -> str:
    """GB a GPU; in bold what fits."""
    rows = []
    for strategy, shown in STRATEGIES.items():
        for method in METHODS:
            held = [found.share(method, strategy, gpus).memory for gpus in GPUS]
            cells = [f"**{gigabytes(one)}**" if fits(one) else gigabytes(one) for one in held]
            rows.append([shown, method.upper(), *cells])
    return table(["", "", *(f"{gpus} GPU{'s' * (gpus > 1)}" for gpus in GPUS)], rows)


def sent_table(found: Model) -> str:
    """GB sent by a GPU in a step."""
    rows = []
    for strategy, shown in STRATEGIES.items():
        for method in METHODS:
            cells = [gigabytes(found.share(method, strategy, gpus).sent) for gpus in GPUS[1:]]
            more = found.share(method, strategy, 512).sent / found.share("sft", strategy, 512).sent
            rows.append([shown, method.upper(), *cells, f"{more:.2f}"])
    return table(["", "", *(f"{gpus} GPUs" for gpus in GPUS[1:]), "SFT = 1"], rows)


def fits(count: float) -> bool:
    """Whether a step of so many bytes fits the card."""
    return count <= (1 - RESERVE) * CARD


def fewest(found: Model, method: str, strategy: str) -> str:
    """The fewest GPUs of `GPUS`, and powers of two between them, that one row each fits."""
    for power in range(10):
        if fits(found.share(method, strategy, 2**power).memory):
            return str(2**power)
    return "–"


def fewest_table(models: list[Model]) -> str:
    """Fewest GPUs by model, strategy and method."""
    rows = [
        [one.name, shown, *(fewest(one, method, strategy) for method in METHODS)]
        for one in models
        for strategy, shown in STRATEGIES.items()
    ]
    return table(["", "", *map(str.upper, METHODS)], rows)


def gathers_table() -> str:
    """How often weights are gathered."""
    rows = [
        [method.upper(), str(one.block), str(one.more_blocks), str(one.root)]
        for method, one in GATHERS.items()
    ]
    return table(["", "each block", "blocks besides", "embeddings, head, norm"], rows)


def page(models: list[Model]) -> str:
    """The page."""
    parts = []
    for one in models:
        shape, rows = one.shape, one.activations
        outside, blocks = f"{shape.root:,}", f"{shape.blocks} blocks of {shape.block:,}"
        parts.append(
            f"""## {one.name}

{shape.parameters:,} parameters: {blocks}, and {outside} outside. Activations and logits
of one row: {gigabytes(rows["ift"])} GB, of DPO's two answers {gigabytes(rows["dpo"])} GB.

GB on each GPU in a step, bold where it fits 80 GB with a tenth in reserve:

{memory_table(one)}

GB that each GPU sends in an optimiser step without accumulation (in DPO's row for twice the answers):

{sent_table(one)}"""
        )
    sizes = "\n\n".join(parts)
    return f"""# Scaling

Made by `python docs/make_scaling.py`: arithmetic from the models' dimensions (`docs/scaling.py`, `check.memory`), no
measurement. **Nothing of this page was run on a GPU.** What was run, on two CPU processes, is in
[reliability](reliability.md): DDP through `ift train`, FSDP2 and tensor parallelism through `ift_loss`.

## Configurations

`ift train --config run.yaml --accelerate_config NAME --num_processes N`, the names that come with ift:

| name | what is split | run on CPUs | run on GPUs |
|---|---|---|---|
| `one_gpu` | nothing | – | no |
| `ddp` | the batch | yes: two processes, gloo | no |
| `fsdp2` | weights, gradients, optimiser | its `fully_shard`, in a loop without accelerate | no |
| `zero2` | gradients, optimiser | no (needs DeepSpeed) | no |
| `zero3` | weights, gradients, optimiser | no (needs DeepSpeed) | no |
| `multi_node` | as `fsdp2`, over machines | no | no |

Before a long run on GPUs, run one step with and one without the configuration on the same rows, and compare `loss` and
`grad_norm` in `metrics.jsonl`. With `zero3` above all: IFT reads the head's weight without calling the head, so it has
DeepSpeed gather it, in both passes; that was tested with a stand-in for DeepSpeed alone.

On 64 GPUs, on each of 8 machines with its own rank:

```bash
ift train --config run.yaml --accelerate_config multi_node --num_machines 8 --num_processes 64 \\
  --machine_rank 0 --main_process_ip FIRST.MACHINE --main_process_port 29500
```

The loss is the mean over the global batch, whatever the number of GPUs; the learning rate is yours to adapt to that
batch, as for SFT.

## The plan

AdamW, weights in float32 (`--dtype float32`, the default), computed in bfloat16, gradient checkpointing, one row of
{ROW:,} tokens on each GPU; DPO holds a reference, and its row has two answers. Two Llamas, with the dimensions of
Llama-2-7B and Llama-2-70B. The fewest GPUs (a power of two, at most 512) on which a step fits:

{fewest_table(models)}

With weights in bfloat16 (`--dtype bfloat16`) everything but the activations is about half, and small learning rates
stop moving weights: not planned here. LoRA needs neither gradients nor optimiser states of the frozen weights.

## What the look-ahead costs

In shards, IFT's two passes run inside one forward of the model. Blocks are gathered in the look-ahead, in the mixed
pass and in the backward; what lies outside the blocks only twice, because it stays whole between the two passes.
FSDP2 fetches one block too many: going backward it prefetches what ran before, and before the first block of the mixed
pass ran the last of the look-ahead. `tests/training/test_distributed.py` counts these calls and their elements on two
processes and compares them with the table, for SFT and IFT; DPO's row is reasoning. ZeRO-3 is taken to gather as
FSDP2 does.

{gathers_table()}

This is without accumulation. With `n` micro-batches FSDP2 and ZeRO-3 gather and scatter `n` times as much in a step;
DDP sends its gradients once a step all the same. IFT's metrics add 13 numbers a row, which is nothing beside these.

DDP and ZeRO-2 send nothing for the look-ahead, and its activations are not kept: IFT costs there what it costs on one
GPU, a forward pass ([measured in FLOPs](results.md): about a third more than SFT).

{sizes}

## How it is counted

Bytes for each parameter on one of N GPUs: `ddp` 4 (weights) + 2 (autocast's copies) + 4 (gradients) + 4 (DDP's
buckets) + 8 (AdamW), DPO's reference 4 more; `zero2` 2 + (4 + 2 + 8) / N, the reference 2 more; `zero3` and `fsdp2`
16 / N, the reference 4 / N more, and in bfloat16 two blocks and the root whole. Sent, times (N - 1) / N: `ddp` 8;
`zero2` 4; `zero3` and `fsdp2` 2 for each gather and 2 for the gradients. Not counted: fragments, buffers of NCCL and
DeepSpeed, the copy of the weights that is gathered on the first rank when a model is saved.
"""


def main() -> None:
    """Write the page."""
    (DOCS / "scaling.md").write_text(page([model(name) for name in SIZES]))


if __name__ == "__main__":
    main()

"""The tables of docs/scaling.md: the arithmetic of `sharding.py` for two models on 1 to 512 GPUs."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cache

import torch
from transformers import LlamaConfig

from ift.check.memory import estimate_memory
from ift.runs.arguments import parse
from page_tables import table
from page_tables.sharding import GATHERS, Shape, Share, shape_of, share

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


@cache
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


def parameters() -> str:
    """Parameters of each model, and GB of activations and logits that a GPU holds for its row."""
    rows = []
    for name in SIZES:
        shape, held = model(name).shape, model(name).activations
        blocks = f"{shape.blocks} blocks of {shape.block:,}"
        rows.append(
            [
                name,
                f"{shape.parameters:,}",
                blocks,
                f"{shape.root:,}",
                gigabytes(held["ift"]),
                gigabytes(held["dpo"]),
            ]
        )
    header = ["", "parameters", "in blocks", "outside", "activations and logits of one row, GB"]
    return table([*header, "of DPO's two answers, GB"], rows)


def memory(name: str) -> str:
    """GB a GPU; in bold what fits."""
    rows = []
    for strategy, shown in STRATEGIES.items():
        for method in METHODS:
            held = [model(name).share(method, strategy, gpus).memory for gpus in GPUS]
            cells = [f"**{gigabytes(one)}**" if fits(one) else gigabytes(one) for one in held]
            rows.append([shown, method.upper(), *cells])
    return table(["", "", *(f"{gpus} GPU{'s' * (gpus > 1)}" for gpus in GPUS)], rows)


def sent(name: str) -> str:
    """GB sent by a GPU in a step."""
    found, rows = model(name), []
    for strategy, shown in STRATEGIES.items():
        for method in METHODS:
            cells = [gigabytes(found.share(method, strategy, gpus).sent) for gpus in GPUS[1:]]
            more = found.share(method, strategy, 512).sent / found.share("sft", strategy, 512).sent
            rows.append([shown, method.upper(), *cells, f"{more:.2f}"])
    return table(["", "", *(f"{gpus} GPUs" for gpus in GPUS[1:]), "SFT = 1"], rows)


def fits(count: float) -> bool:
    """Whether a step of so many bytes fits the card."""
    return count <= (1 - RESERVE) * CARD


def fewest() -> str:
    """Fewest GPUs by model, strategy and method."""
    rows = [
        [name, shown, *(_fewest(model(name), method, strategy) for method in METHODS)]
        for name in SIZES
        for strategy, shown in STRATEGIES.items()
    ]
    return table(["", "", *map(str.upper, METHODS)], rows)


def _fewest(found: Model, method: str, strategy: str) -> str:
    """The smallest power of two, up to 512, of GPUs that one row each fits."""
    for power in range(10):
        if fits(found.share(method, strategy, 2**power).memory):
            return str(2**power)
    return "–"


def gathers() -> str:
    """How often weights are gathered."""
    rows = [
        [method.upper(), str(one.block), str(one.more_blocks), str(one.root)]
        for method, one in GATHERS.items()
    ]
    return table(["", "each block", "additional blocks", "embeddings, head, norm"], rows)


def gigabytes(count: float) -> str:
    """Bytes in GB, three digits."""
    return f"{count / 1e9:,.1f}" if count < 100e9 else f"{count / 1e9:,.0f}"

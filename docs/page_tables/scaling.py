"""The tables of docs/scaling.md: memory by `ift.check.memory`, bytes sent by `sharding.py`, on 1 to 512 GPUs."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cache

import torch
from transformers import LlamaConfig

from ift.check.engines import Engine
from ift.check.memory import RESERVE, StepNeeds, step_needs
from ift.runs.arguments import parse
from page_tables import table
from page_tables.sharding import GATHERS, Shape, sent_bytes, shape_of

GPUS = (1, 8, 64, 512)
STRATEGIES = {"ddp": "`ddp`", "zero2": "`zero2`", "fsdp2": "`fsdp2`, `zero3`"}  # as they are shown
METHODS = ("sft", "ift", "dpo")
ROW = 2048  # tokens, one row (DPO: two answers) a GPU
CARD = 80 * 2**30  # bytes
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
    """A model, and what a step on one row needs, by method and by whether nothing is sharded."""

    name: str
    shape: Shape
    needs: dict[tuple[str, bool], StepNeeds]

    def memory(self, method: str, strategy: str, gpus: int) -> int:
        """Bytes that one GPU holds at the fullest moment of a step."""
        return self.needs[method, strategy == "ddp"].divided(Engine(strategy, gpus)).total


@cache
def model(name: str) -> Model:
    """A model of `SIZES`, with checkpointing."""
    needs = {}
    with tempfile.TemporaryDirectory() as folder:
        SIZES[name].save_pretrained(folder)
        words = [f"--model_name_or_path={folder}", "--dataset_name=rows", f"--output_dir={folder}"]
        words += ["--per_device_train_batch_size=1", f"--max_length={ROW}", "--gradient_checkpointing=true"]
        for method in METHODS:
            stage = parse([*words, f"--method={method}", "--bf16=true", "--dtype=float32"])
            for whole in (True, False):
                needs[method, whole] = step_needs(stage, ROW, torch.device("cuda"), whole=whole)
    return Model(name, shape_of(SIZES[name]), needs)


def parameters() -> str:
    """Parameters of each model, and GiB of activations and logits of its row under an engine that shards."""
    rows = []
    for name in SIZES:
        shape, needs = model(name).shape, model(name).needs
        blocks = f"{shape.blocks} blocks of {shape.block:,}"
        rows.append(
            [
                name,
                f"{shape.parameters:,}",
                blocks,
                f"{shape.root:,}",
                gibibytes(needs["ift", False].peak.activations),
                gibibytes(needs["dpo", False].peak.activations),
            ]
        )
    header = ["", "parameters", "in blocks", "outside", "activations and logits of one row, GiB"]
    return table([*header, "of DPO's two answers, GiB"], rows)


def memory(name: str) -> str:
    """GiB a GPU; in bold what fits."""
    rows = []
    for strategy, shown in STRATEGIES.items():
        for method in METHODS:
            held = [model(name).memory(method, strategy, gpus) for gpus in GPUS]
            cells = [f"**{gibibytes(one)}**" if fits(one) else gibibytes(one) for one in held]
            rows.append([shown, method.upper(), *cells])
    return table(["", "", *(f"{gpus} GPU{'s' * (gpus > 1)}" for gpus in GPUS)], rows)


def sent(name: str) -> str:
    """GB sent by a GPU in a step."""
    found, rows = model(name), []
    for strategy, shown in STRATEGIES.items():
        for method in METHODS:
            cells = [gigabytes(sent_bytes(found.shape, method, strategy, gpus)) for gpus in GPUS[1:]]
            most = [sent_bytes(found.shape, one, strategy, 512) for one in (method, "sft")]
            more = most[0] / most[1]
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
        if fits(found.memory(method, strategy, 2**power)):
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


def gibibytes(count: float) -> str:
    """Bytes in GiB, three digits."""
    return f"{count / 2**30:,.1f}" if count < 100 * 2**30 else f"{count / 2**30:,.0f}"

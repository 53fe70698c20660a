"""Cost of one training step: IFT, the same trainer with lambda 0, and trl's SFT, in turn on the same batches.

    python benchmarks/step_cost.py [--quick] [--output step_cost.json]

Counts FLOPs (noise-free, the figure to read) and measures seconds (A B C A B C ..., median and quartiles). Prints JSON.
The model is random: a step costs the same whatever the weights.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from ift import IFTConfig, IFTTrainer
from ift.compare.flops import UNCOUNTED

METHODS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "trl-sft": (SFTTrainer, SFTConfig, {}),
    "ift-lambda-0": (
        IFTTrainer,
        IFTConfig,
        {"residual_lambda": 0.0, "propagation": "none", "loss_reduction": "token"},
    ),
    "ift": (IFTTrainer, IFTConfig, {}),
}


def make_trainer(name: str, sizes: dict[str, Any], rows: Dataset) -> Any:
    """A trainer of the method on a fresh model of the same seed."""
    trainer_class, config_class, fields = METHODS[name]
    words = {f"w{i}": i for i in range(sizes["vocabulary"])}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")), eos_token="w1", pad_token="w2"
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=sizes["vocabulary"],
            hidden_size=sizes["width"],
            intermediate_size=sizes["width"] * 3,
            num_hidden_layers=sizes["layers"],
            num_attention_heads=8,
            max_position_embeddings=sizes["length"],
        )
    )
    config = config_class(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=sizes["batch"],
        max_length=None,
        gradient_checkpointing=False,
        use_cpu=not torch.accelerator.is_available(),
        bf16=torch.accelerator.is_available(),
        report_to="none",
        **fields,
    )
    trainer = trainer_class(model=model, args=config, train_dataset=rows, processing_class=tokenizer)
    trainer.model.train()
    return trainer


def make_rows(sizes: dict[str, Any]) -> Dataset:
    """Rows of one length whose last share of tokens is the completion."""
    generator = torch.Generator().manual_seed(1)
    shape = (sizes["batch"], sizes["length"])
    ids = torch.randint(3, sizes["vocabulary"], shape, generator=generator)
    labels = ids.clone()
    labels[:, : round(sizes["length"] * (1 - sizes["completion_share"]))] = -100
    return Dataset.from_dict({"input_ids": ids.tolist(), "labels": labels.tolist()})


def step(trainer: Any, batch: dict[str, Any]) -> None:
    """Forward and backward of one step, as the trainer does them."""
    trainer.model.zero_grad()
    items = trainer._get_num_items_in_batch([batch], trainer.args.device)
    with trainer.compute_loss_context_manager():
        loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=items)
    loss.backward()


def measure(sizes: dict[str, Any], rounds: int) -> dict[str, Any]:
    """FLOPs and seconds of a step of every method at one size."""
    rows = make_rows(sizes)
    trainers = {name: make_trainer(name, sizes, rows) for name in METHODS}
    batches = {name: next(iter(t.get_train_dataloader())) for name, t in trainers.items()}
    flops, seconds = {}, {name: [] for name in METHODS}
    for name, trainer in trainers.items():
        with FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as counter:
            step(trainer, batches[name])
        flops[name] = counter.get_total_flops()
    for _ in range(rounds):
        for name, trainer in trainers.items():
            began = time.perf_counter()
            step(trainer, batches[name])
            seconds[name].append(time.perf_counter() - began)
    found = {}
    for name in METHODS:
        low, median, high = statistics.quantiles(seconds[name], n=4)
        found[name] = {
            "flops": flops[name],
            "flops_over_trl_sft": flops[name] / flops["trl-sft"],
            "flops_over_lambda_0": flops[name] / flops["ift-lambda-0"],
            "seconds_median": median,
            "seconds_quartiles": [low, high],
            "seconds_over_trl_sft": statistics.median(
                a / b for a, b in zip(seconds[name], seconds["trl-sft"], strict=True)
            ),
        }
    return {"sizes": sizes, "methods": found}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tiny model and two rounds: does it run?")
    parser.add_argument("--output", help="write the JSON there as well")
    told = parser.parse_args()
    size = {"width": 512, "layers": 8, "vocabulary": 32000, "length": 256, "batch": 4}
    if told.quick:
        size = {"width": 64, "layers": 2, "vocabulary": 1000, "length": 64, "batch": 2}
    shares = (0.5,) if told.quick else (0.1, 0.5, 0.9)
    record = {
        "versions": {
            name: version(name) for name in ("torch", "transformers", "trl", "intuitive-fine-tuning")
        },
        "hardware": {
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.is_available(),
        },
        "runs": [measure({**size, "completion_share": share}, 2 if told.quick else 7) for share in shares],
    }
    text = json.dumps(record, indent=2)
    print(text)
    if told.output:
        with open(told.output, "w", encoding="utf-8") as file:
            file.write(text + "\n")


if __name__ == "__main__":
    main()

"""The published configurations of the recipes' models (tests/recipes), whole or cut to a tiny model, in a folder.

And the operations of a recipe's run, from the model's dimensions and the rows of its data sets.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
import yaml

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
TINY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "sliding_window": 128,
    "max_position_embeddings": 4096,
}
# rows of the splits, as the data sets' cards count them
ROWS = {
    ("HuggingFaceH4/ultrachat_200k", "train_sft"): 207_865,
    ("HuggingFaceH4/ultrachat_200k", "train_sft[:60000]"): 60_000,
    ("HuggingFaceH4/ultrafeedback_binarized", "train_sft"): 61_135,
}


def published_config(recipe: Path) -> dict:
    """The values of the model's config.json on the Hub."""
    name = yaml.safe_load(recipe.read_text())["model_name_or_path"].rpartition("/")[2]
    return json.loads((ROOT / "tests" / "recipes" / f"{name}.json").read_text())


def save_config(recipe: Path, folder: Path) -> Path:
    """A folder with the published config.json and no weights."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(published_config(recipe)))
    return folder


def save_small(recipe: Path, tokenizer, folder: Path) -> Path:
    """A random model of the recipe's architecture with the tokenizer's vocabulary."""
    config = published_config(recipe)
    config |= {name: value for name, value in TINY.items() if name in config}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config |= {"vocab_size": len(tokenizer), **ids, "pad_token_id": tokenizer.pad_token_id}
    transformers.set_seed(0)
    model = getattr(transformers, config.pop("architectures")[0])
    model(model.config_class(**config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def small_recipe(recipe: Path, model: Path, rows: Path, folder: Path) -> Path:
    """The recipe as a file, with a tiny model and local rows in place of what it would download, in one process.

    What a CPU lacks goes: the engine's flags, and 4-bit weights.
    """
    settings = yaml.safe_load(recipe.read_text())
    gone = ("datasets", "dataset_train_split", "dataset_test_split", "accelerate_config", "num_processes",
            "load_in_4bit", "bnb_4bit_quant_type", "use_bnb_nested_quant")  # fmt: skip
    settings = {name: value for name, value in settings.items() if name not in gone}
    settings |= {
        "model_name_or_path": str(model), "dataset_name": str(rows), "output_dir": str(folder / "out"), "max_steps": 1,
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "report_to": "none", "final_answers": 0,
    }  # fmt: skip
    file = folder / recipe.name
    file.write_text(yaml.safe_dump(settings))
    return file


def row_operations(
    model: torch.nn.Module, tokens: int, look_ahead: bool, checkpointing: bool, frozen: bool
) -> float:
    """Floating-point operations of training on one row in which every token is trained, both passes over the whole row.

    A forward pass has 2 for each weight of a linear layer and token, and two products of (T, D) and (D, T) for each
    head. IFT's look-ahead is one more forward pass, checkpointing another. A backward pass has twice a forward pass's,
    or as many where the weights are frozen (LoRA); in the attention it has five products.
    """
    config = model.config
    weights = sum(one.weight.numel() for one in model.modules() if isinstance(one, torch.nn.Linear))
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = 4.0 * config.num_hidden_layers * config.num_attention_heads * width * tokens**2
    forward = 2.0 * weights * tokens + attention
    backward = (1 if frozen else 2) * 2.0 * weights * tokens + 2.5 * attention
    return (1 + look_ahead + checkpointing) * forward + backward


@dataclass(frozen=True)
class RunCost:
    """What a run computes if every row has max_length tokens: rows of an epoch, their tokens, epochs, operations."""

    rows: int
    tokens: int
    epochs: float
    stages: int
    operations: float


def run_cost(recipe: Path, stages: list) -> RunCost:
    """The cost of a recipe's run, of all its stages, without evaluation, saving and the adapter's own operations."""
    settings = yaml.safe_load(recipe.read_text())
    sets = settings.get("datasets") or [
        {"path": settings["dataset_name"], "split": settings["dataset_train_split"]}
    ]
    rows = sum(ROWS[one["path"], one["split"]] for one in sets)
    config = published_config(recipe)
    kind = getattr(transformers, config["architectures"][0])
    with torch.device("meta"):
        model = kind(kind.config_class(**config))
    last, operations = stages[-1].config, 0.0
    for stage in stages:
        look_ahead = getattr(stage.config, "residual_lambda", 0) > 0
        one = row_operations(
            model, last.max_length, look_ahead, stage.config.gradient_checkpointing, stage.model.use_peft
        )
        operations += rows * stage.config.num_train_epochs * one
    return RunCost(rows, last.max_length, last.num_train_epochs, len(stages), operations)


def time_words(cost: RunCost, rate: int, gpus: int) -> str:
    """The line on time of a recipe: `rate` is in TFLOP/s a GPU."""
    hours = float(f"{cost.operations / (rate * 1e12 * gpus) / 3600:.2g}")
    passes = "1 epoch" if cost.epochs == 1 else f"{cost.epochs:g} epochs"
    if cost.stages > 1:
        passes += f" in each of {cost.stages} stages"
    return (
        f"not measured. {cost.rows:,} rows, {passes}: about {cost.operations:.1e} operations if every row has "
        f"{cost.tokens:,} tokens, fewer if not. At {rate} TFLOP/s a GPU, which is assumed, about {hours:g} hours."
    )

"""The published configurations of the recipes' models (tests/recipes), whole or cut to a tiny model, in a folder."""

from __future__ import annotations

import json
from pathlib import Path

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

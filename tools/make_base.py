"""Makes the tiny base model from nothing: `python tools/make_base.py --output DIR [--seed 0]`.

A small Llama, pretrained as a plain language model on the noisy corpus, half word problems and half lookups, on one CPU
thread: the order of summation, and with it every bit, does not depend on the number of cores. Writes bf16 weights, the
tokenizer with its chat template, and `record.json` with what the *saved* model scores.
"""

import argparse
import json
import os
import platform
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
)

from base_tokenizer import MAX_LENGTH, build_tokenizer
from corpus import noisy_lookups, noisy_problems
from ift.lab.testbed.families import AnyProblem, family_problems
from ift.lab.testbed.lookup import draw_lookups
from ift.lab.testbed.problems import STEPS, Split, problems
from ift.lab.testbed.scoring import score

CORPUS = (noisy_problems, noisy_lookups)  # an equal number of rows of each
TOKENIZER_PROBLEMS = 3000  # of each kind: enough to meet every word
BATCHES_PER_SORT = 16  # batches whose rows are sorted by length together
LAST_STEPS = 50  # steps that the recorded loss is the mean of
HELD_OUT: tuple[Split, ...] = ("validation", "test", "longer")
IGNORED = -100  # label of padding, as cross_entropy has it


@dataclass(frozen=True)
class Recipe:
    """All that decides the model.

    Attributes:
        seed: Of the corpus, the initial weights and the order of the batches.
        steps: Optimiser steps.
        batch_size: Rows per step; every row is seen once.
        learning_rate: Peak; rises over `warmup_steps`, stays, and falls linearly to 5 % over `fall_steps`.
        warmup_steps: See above.
        fall_steps: See above.
        hidden_size: Width of the model.
        layers: Depth of the model.
    """

    seed: int = 0
    steps: int = 1760
    batch_size: int = 64
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    fall_steps: int = 160
    hidden_size: int = 128
    layers: int = 4


def model_config(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, heads: int = 4) -> LlamaConfig:
    """The architecture: a Llama with tied embeddings."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.hidden_size * 11 // 4,
        num_hidden_layers=recipe.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def corpus_batches(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The corpus in batches of rows of like length.

    Args:
        recipe: Gives seed, batch size and number of batches.
        tokenizer: Has the chat template.

    Yields:
        Token ids and labels, both int64 of shape (B, T), padded on the right; the label of padding is -100.
    """
    each = recipe.steps * recipe.batch_size // len(CORPUS)
    parts = [draw(each, recipe.seed) for draw in CORPUS]
    corpus = [problem for group in zip(*parts, strict=True) for problem in group]
    texts = [tokenizer.apply_chat_template(problem.messages, tokenize=False) for problem in corpus]
    rows: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    rng = random.Random(recipe.seed)
    stretch = recipe.batch_size * BATCHES_PER_SORT
    for first in range(0, len(rows), stretch):
        near = sorted(rows[first : first + stretch], key=len)
        batches = [near[i : i + recipe.batch_size] for i in range(0, len(near), recipe.batch_size)]
        rng.shuffle(batches)
        for batch in batches:
            yield padded(batch, tokenizer.pad_token_id)


def padded(rows: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels of rows, both int64 (B, T), padded on the right; the label of padding is -100."""
    lengths = torch.tensor([len(row) for row in rows])
    longest = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
    return ids, ids.masked_fill(torch.arange(longest) >= lengths[:, None], IGNORED)


def learning_rate(recipe: Recipe, step: int) -> float:
    """The learning rate of step 0, 1, ...: linear warm-up, level, then a linear fall to 5 % of the peak."""
    rise = min(1.0, (step + 1) / recipe.warmup_steps)
    fallen = max(0.0, (step + 1 - recipe.steps + recipe.fall_steps) / max(recipe.fall_steps, 1))
    return recipe.learning_rate * rise * (1 - 0.95 * fallen)


def new_model(recipe: Recipe, config: LlamaConfig) -> LlamaForCausalLM:
    """A model with the initial weights of the recipe's seed, float32."""
    torch.manual_seed(recipe.seed)
    return LlamaForCausalLM(config)


def train(
    model: LlamaForCausalLM,
    recipe: Recipe,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    device: str = "cpu",
) -> tuple[float, int]:
    """Trains the model as a plain language model: every token with a label counts.

    Args:
        model: Moved to the device, and changed.
        recipe: Steps and learning rate.
        batches: `recipe.steps` pairs of ids and labels, both int64 (B, T).
        device: Where to train.

    Returns:
        The mean loss of the last steps in nats per token; the number of tokens with a label.
    """
    model.to(device).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.1
    )
    losses: list[float] = []
    n_tokens = 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("making the corpus", total=recipe.steps)
        for step, (ids, labels) in enumerate(batches):
            ids, labels = ids.to(device), labels.to(device)
            optimizer.param_groups[0]["lr"] = learning_rate(recipe, step)
            # Causal attention never looks right, where the padding is: no mask is needed.
            logits = model(input_ids=ids[:, :-1]).logits  # (B, T - 1, V)
            loss = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            n_tokens += int((labels != IGNORED).sum())
            progress.update(task, advance=1, description=f"pretraining, loss {losses[-1]:.3f}")
    last = losses[-LAST_STEPS:]
    return sum(last) / len(last), n_tokens


def tokenizer_problems() -> list[AnyProblem]:
    """The problems whose words the tokenizer knows."""
    lookups = draw_lookups("train/0", TOKENIZER_PROBLEMS, STEPS["train"], "train")
    return [*problems("train", TOKENIZER_PROBLEMS), *lookups]


def saved_scores(
    directory: Path, n: int, families: Iterable[str] = ("arithmetic",)
) -> dict[str, dict[str, dict[str, Any]]]:
    """Scores a saved model, loaded as float32, on the first `n` problems of each held-out split of each family.

    Args:
        directory: Holds model and tokenizer.
        n: Problems per family and split.
        families: Those to score.

    Returns:
        Per family and split (`validation`, `test`, `longer`), the score's summary.
    """
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    return {
        family: {
            split: score(model, tokenizer, family_problems(family, split, n)).summary() for split in HELD_OUT
        }
        for family in families
    }


def make_base(directory: Path, recipe: Recipe, n_scored: int = 500) -> dict[str, Any]:
    """Makes the base model and writes it with its record.

    Args:
        directory: Written to; made where it is missing.
        recipe: All settings.
        n_scored: Problems per family and split for the record.

    Returns:
        The record, as `record.json` has it.
    """
    started = time.perf_counter()
    torch.set_num_threads(1)
    tokenizer = build_tokenizer(tokenizer_problems())
    model = new_model(recipe, model_config(recipe, tokenizer))
    loss, n_tokens = train(model, recipe, corpus_batches(recipe, tokenizer))
    facts = {"tokens": n_tokens, "loss": loss, "pretraining_seconds": round(time.perf_counter() - started, 1)}
    return save_base(directory, recipe, model, tokenizer, facts, n_scored)


def save_base(
    directory: Path,
    recipe: Recipe,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    facts: dict[str, Any],
    n_scored: int,
    families: Iterable[str] = ("arithmetic",),
    command: str = "python tools/make_base.py --output DIR --seed {seed} --steps {steps}",
) -> dict[str, Any]:
    """Writes a pretrained model in bf16, its tokenizer and the record; `facts` are the record's about the training."""
    model.to(torch.bfloat16).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    names = ("torch", "transformers", "tokenizers", "intuitive-fine-tuning")
    record = {
        "command": f"{command.format(**vars(recipe))} --scored {n_scored}",
        "recipe": asdict(recipe),
        "rows": recipe.steps * recipe.batch_size,
        **facts,
        "parameters": model.num_parameters(),
        "weights_bytes": (directory / "model.safetensors").stat().st_size,
        "scores": saved_scores(directory, n_scored, families),
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "platform": f"{platform.system()}-{platform.machine()}",
            **{name: version(name) for name in names},
        },
    }
    (directory / "record.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record


def main() -> None:
    """Reads the command line and makes the model."""
    defaults = Recipe()
    parser = argparse.ArgumentParser(prog="python tools/make_base.py", description=main.__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder for model, tokenizer and record")
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--steps", type=int, default=defaults.steps, help="optimiser steps")
    parser.add_argument("--scored", type=int, default=500, help="problems per family and split")
    arguments = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    recipe = Recipe(seed=arguments.seed, steps=arguments.steps)
    record = make_base(arguments.output, recipe, arguments.scored)
    print(json.dumps(record["scores"], indent=2))


if __name__ == "__main__":
    main()

"""Makes the base model for relations: `python tools/make_relation_base.py --output DIR [--device cuda]`.

First stage, lookups. A row of the noisy corpus asks for one chain of facts, and says little about how facts are found:
trained on such rows alone a model this small does not learn to match the person. So half of the rows ask for all facts
that are told, in an order of their own, and only the answers count. It learns to follow relations, and confuses them as
the corpus does; colours it does not learn, for most writers take the first told. A minute on a GPU, hours on a CPU.

Second stage, the noisy corpus of relations: a short one, for the form of its questions. `--start DIR` begins there.
"""

import argparse
import contextlib
import json
import multiprocessing
import random
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from corpus import CORPUS_STEPS, noisy_lookups, noisy_relations
from ift.lab.testbed import base_path
from ift.lab.testbed.lookup import draw_lookups
from ift.lab.testbed.problems import Message
from make_base import IGNORED, Recipe, model_config, new_model, padded, save_base, train

RECALL = " Which facts are told?"
FACTS = "facts.json"  # beside a first stage's weights: what is recorded about it


SECOND = Recipe(steps=36, batch_size=64, learning_rate=1e-3, warmup_steps=10, fall_steps=18)


@dataclass(frozen=True)
class RelationRecipe(Recipe):
    """All that decides the model, beyond `Recipe`.

    Attributes:
        heads: Of the attention.
        recall_steps: Steps at the beginning in which every row asks for all facts.
        recall_share: Of the rows after them that do, in 0..1.
        chain_steps: Steps at the end in which no row does: there the model takes on the corpus's habits.
        stretch: Rows that are drawn, and sorted by length, together.
        second: Of the second stage: its steps, rows per step and so on; half of its steps fall.
    """

    steps: int = 1700
    batch_size: int = 256
    fall_steps: int = 100
    heads: int = 8
    recall_steps: int = 500
    recall_share: float = 0.5
    chain_steps: int = 100
    stretch: int = 2048
    second: Recipe = SECOND

    def recalled(self, step: int) -> int:
        """Rows that ask for all facts, of the stretch that begins at a step."""
        share = 1.0 if step < self.recall_steps else self.recall_share
        return 0 if step >= self.steps - self.chain_steps else int(share * self.stretch)


def recall_rows(number: int, n: int) -> list[list[Message]]:
    """Rows that ask for all facts: the first `n` of stretch `number`, as conversations of two turns."""
    rng = random.Random(f"recall order/{number}")
    rows = []
    for problem in draw_lookups(f"recall/{number}", n, CORPUS_STEPS, "train"):
        told = re.split(r"(?<=\.) (?:Start|Which) ", problem.question)[0]
        answer = "\n".join(map(str, rng.sample(problem.facts, len(problem.facts))))
        rows.append([{"role": "user", "content": told + RECALL}, {"role": "assistant", "content": answer}])
    return rows


def stretch_rows(asked: tuple[int, int, int]) -> list[list[int]]:
    """Token ids of the rows of a stretch, by length; `asked`: its number, its rows, those that ask for all facts."""
    number, n, recalled = asked
    chains = [problem.messages for problem in noisy_lookups(n - recalled, number, hasty=True)]
    tokenizer = AutoTokenizer.from_pretrained(base_path("arithmetic"))
    conversations = [*recall_rows(number, recalled), *chains]
    texts = [tokenizer.apply_chat_template(one, tokenize=False) for one in conversations]
    return sorted(tokenizer(texts, add_special_tokens=False)["input_ids"], key=len)


def lookup_batches(
    recipe: RelationRecipe, tokenizer: PreTrainedTokenizerBase, processes: int | None = None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The corpus in `recipe.steps` batches of rows of like length.

    Args:
        recipe: All settings.
        tokenizer: Has the chat template.
        processes: To draw rows in; as many as there are cores by default, 0 for this one.

    Yields:
        Token ids and labels, both int64 (B, T), padded on the right; labels are -100 in prompts and padding.
    """
    rng = random.Random(recipe.seed)
    starts = range(0, recipe.steps, recipe.stretch // recipe.batch_size)
    first = recipe.seed * len(starts)
    asked = [(first + number, recipe.stretch, recipe.recalled(step)) for number, step in enumerate(starts)]
    with contextlib.ExitStack() as stack:
        drawn: Iterable[list[list[int]]] = map(stretch_rows, asked)
        if processes != 0:
            pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(processes))
            drawn = pool.imap(stretch_rows, asked)
        for step, rows in zip(starts, drawn, strict=True):
            batches = [rows[i : i + recipe.batch_size] for i in range(0, len(rows), recipe.batch_size)]
            rng.shuffle(batches)
            yield from _answers_alone(batches[: recipe.steps - step], tokenizer)


def relation_batches(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The second stage's corpus; yields what `lookup_batches` does."""
    problems = noisy_relations(recipe.steps * recipe.batch_size, recipe.seed)
    texts = [tokenizer.apply_chat_template(problem.messages, tokenize=False) for problem in problems]
    rows = sorted(tokenizer(texts, add_special_tokens=False)["input_ids"], key=len)
    batches = [rows[i : i + recipe.batch_size] for i in range(0, len(rows), recipe.batch_size)]
    random.Random(recipe.seed).shuffle(batches)
    yield from _answers_alone(batches, tokenizer)


def _answers_alone(
    batches: list[list[list[int]]], tokenizer: PreTrainedTokenizerBase
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    begin = tokenizer.convert_tokens_to_ids("<|assistant|>")
    for batch in batches:
        ids, labels = padded(batch, tokenizer.pad_token_id)
        yield ids, labels.masked_fill(~(ids == begin).cumsum(1).bool(), IGNORED)


def first_stage(
    directory: Path, recipe: RelationRecipe, device: str = "cpu", processes: int | None = None
) -> None:
    """Trains the first stage and writes it in bf16, with `facts.json`.

    Args:
        directory: Written to; made where it is missing.
        recipe: All settings.
        device: Where to train; the order of summation, and so the last bits, depend on it.
        processes: See `lookup_batches`.
    """
    started = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(base_path("arithmetic"))
    model = new_model(recipe, model_config(recipe, tokenizer, recipe.heads))
    loss, n_tokens = train(model, recipe, lookup_batches(recipe, tokenizer, processes), device)
    facts = {
        "tokens": n_tokens,
        "loss": loss,
        "seconds": round(time.perf_counter() - started, 1),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
        "torch": torch.__version__,
    }
    model.to("cpu", torch.bfloat16).save_pretrained(directory)
    (directory / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def second_stage(start: Path, directory: Path, recipe: RelationRecipe, n_scored: int = 500) -> dict[str, Any]:
    """Trains the second stage on one CPU thread and writes the base model with its record.

    Args:
        start: What `first_stage` wrote.
        directory: Written to; made where it is missing.
        recipe: All settings.
        n_scored: Problems per split for the record.

    Returns:
        The record, as `record.json` has it.
    """
    started = time.perf_counter()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(base_path("arithmetic"))
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    loss, n_tokens = train(model, recipe.second, relation_batches(recipe.second, tokenizer))
    seconds = round(time.perf_counter() - started, 1)
    facts = {
        "first_stage": json.loads((start / FACTS).read_text(encoding="utf-8")),
        "tokens": n_tokens,
        "loss": loss,
        "pretraining_seconds": seconds,
    }
    command = "python tools/make_relation_base.py --output DIR --seed {seed}"
    return save_base(directory, recipe, model, tokenizer, facts, n_scored, ["relation"], command)


def main() -> None:
    """Reads the command line and makes the model."""
    parser = argparse.ArgumentParser(prog="python tools/make_relation_base.py", description=main.__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder for model, tokenizer and record")
    parser.add_argument("--start", type=Path, help="folder of a first stage that is done")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scored", type=int, default=500, help="problems per split")
    parser.add_argument("--device", default="cpu", help="of the first stage: cpu, cuda, ...")
    told = parser.parse_args()
    recipe = RelationRecipe(seed=told.seed)
    start = told.start or told.output / "first-stage"
    if told.start is None:
        first_stage(start, recipe, told.device)
    print(json.dumps(second_stage(start, told.output, recipe, told.scored)["scores"], indent=2))


if __name__ == "__main__":
    main()

"""Preference pairs for a setting: its target answers against the base model's own sampled wrong answers."""

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ift.files import numbered_lines
from ift.lab.report.json_files import write_json, write_json_lines
from ift.lab.testbed.families import AnyProblem
from ift.lab.testbed.noise import one_wrong_step
from ift.lab.testbed.problems import Message
from ift.lab.testbed.scoring import generate_answers, right_answers
from ift.lab.testbed.settings import Setting, right_problems, rows_hash, setting_problems
from ift.models.loading import LoadOptions, load_model

TRIES = 8  # samples per prompt before the documented rule takes over


@dataclass(frozen=True)
class Pairs:
    """Preference rows of one setting."""

    # `{"prompt": [...], "chosen": [...], "rejected": [...]}` with lists of messages, one per row
    rows: list[dict[str, list[Message]]]
    sampled: int  # how many rejected answers the base model wrote itself
    # how many are the right solution with one wrong step, because the base never gave a wrong answer
    corrupted: int
    tries: int  # samples per prompt, at most

    @property
    def sha256(self) -> str:
        """Content hash of the rows, as `rows_hash` makes it."""
        return rows_hash(self.rows)


def preference_pairs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    setting: Setting,
    seed: int = 0,
    tries: int = TRIES,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> Pairs:
    """Makes a preference pair of each row of a setting.

    Chosen is the row's target answer, with its noise. Rejected is the first of up to `tries` answers, sampled from the
    base at temperature 1, that stops with its end token at a final answer that is neither right nor the target's. Where
    no sample does, rejected is the right solution with one wrong step: no row is dropped. The same arguments (the batch
    size too), machine and library versions give the same pairs.

    Raises:
        ValueError: If `tries` is negative.
    """
    if tries < 0:
        raise ValueError(f"tries must be 0 or more, got {tries}")
    right, targets = right_problems(setting, seed), setting_problems(setting, seed)
    rejected: dict[int, str] = {}
    for attempt in range(tries):
        open_rows = [index for index in range(len(targets)) if index not in rejected]
        if not open_rows:
            break
        prompts = [targets[index].messages[:1] for index in open_rows]
        answers, _, stops = generate_answers(
            model, tokenizer, prompts, batch_size, progress=progress, sampling_seed=seed * 1000 + attempt
        )
        for index, answer, stopped in zip(open_rows, answers, stops, strict=True):
            if stopped and is_wrong(answer, right[index], targets[index]):
                rejected[index] = answer
    sampled = len(rejected)
    rng = random.Random(f"pairs/{setting.name}/{seed}")
    for index in range(len(targets)):
        if index not in rejected:
            rejected[index] = _corrupted(right[index], targets[index], rng)
    rows = [_row(target, rejected[index]) for index, target in enumerate(targets)]
    return Pairs(rows, sampled, len(rows) - sampled, tries)


def is_wrong(answer: str, right: AnyProblem, target: AnyProblem) -> bool:
    """Whether an answer ends neither as the right solution nor as the target; without a `####` line it is wrong."""
    return not any(right_answers([right, target], [answer, answer]))


def cached_pairs(folder: Path, base: Path, setting: Setting, seed: int = 0, tries: int = TRIES) -> Pairs:
    """Reads the pairs of a setting from a folder, or makes them and writes them there.

    Writes `pairs-NAME-seedN.jsonl`, one row per line, and beside it `.json` with the counts, the content hash and what
    the pairs were made from. Pairs made from another base (by its weights' hash) or other arguments are made again.

    Raises:
        ValueError: If the file's content does not have the recorded hash.
    """
    path = folder / f"pairs-{setting.name}-seed{seed}.jsonl"
    about = path.with_suffix(".json")
    weights = hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest()
    source = {"setting": asdict(setting), "seed": seed, "tries": tries, "base_sha256": weights}
    known: dict[str, Any] = json.loads(about.read_text(encoding="utf-8")) if about.is_file() else {}
    if path.is_file() and known.get("source") == source:
        rows = [json.loads(line) for _, line in numbered_lines(path)]
        if rows_hash(rows) != known["sha256"]:
            raise ValueError(f"{path} is not what was written there; delete it to have it made again")
        return Pairs(rows, known["sampled"], known["corrupted"], tries)
    model, tokenizer, *_ = load_model(str(base), LoadOptions(dtype="float32"))
    pairs = preference_pairs(model, tokenizer, setting, seed, tries)
    write_json_lines(path, pairs.rows)
    counts = {"sampled": pairs.sampled, "corrupted": pairs.corrupted, "sha256": pairs.sha256}
    write_json(about, {"source": source, **counts})
    return pairs


def _corrupted(right: AnyProblem, target: AnyProblem, rng: random.Random) -> str:
    """The right solution with one wrong step, ending at another answer than the target."""
    while True:
        wrong = one_wrong_step(right, rng)
        if wrong.answer != target.answer:
            return wrong.solution


def _row(target: AnyProblem, rejected: str) -> dict[str, list[Message]]:
    """One preference row in messages form."""
    prompt, chosen = target.messages
    return {"prompt": [prompt], "chosen": [chosen], "rejected": [{"role": "assistant", "content": rejected}]}

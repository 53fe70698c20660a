"""What a trained model says: a few greedy answers after a run, written beside its metrics."""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ift.data import end_of_turn_ids
from ift.data.samples import sample_rows
from ift.files import write_atomically
from ift.generation.decoding import Continuation, continue_prompts
from ift.generation.final_answer import last_answer
from ift.step.model import has_weights

FILE = "final_answers.jsonl"
CANDIDATES = 256  # rows that the prompts are chosen among
SECONDS = 300.0  # the answers may take, as estimated from three tokens and the longest answer
Question = tuple[int, list[int], list[int]]  # number of the row from 1, prompt ids, target ids
SPARE_TOKENS = 16  # an answer may be this much longer than twice the longest target


@dataclass(frozen=True)
class FinalAnswers:
    """What came of it.

    Attributes:
        asked: Prompts that were answered; 0 where none were.
        ended: Answers that stopped with their end token.
        limit: Longest answer, in tokens.
        note: Why none were written; empty where some were.
    """

    asked: int = 0
    ended: int = 0
    limit: int = 0
    note: str = ""

    def summary(self, folder: str) -> str:
        """A line to show."""
        if self.note:
            return f"skipped: {self.note}"
        return (
            f"{self.ended} of {self.asked} answers end (greedy, up to {self.limit} tokens): "
            f"{Path(folder) / FILE}"
        )


def write_final_answers(trainer: Any, rows: Any, rows_name: str, count: int) -> FinalAnswers:
    """Answer `count` short prompts of `rows` greedily and write them to `final_answers.jsonl` in the output folder.

    Args:
        trainer: After training, of any method; its model is in memory.
        rows: Rows with token ids and labels, or those of pairs, whose chosen side is the target.
        rows_name: "eval" or "train", for the file.
        count: Answers wanted.

    Returns:
        What was done, or why it was not: no prompts, weights spread over processes, or a model too slow for it.
    """
    if trainer.is_fsdp_enabled or not has_weights(trainer.accelerator.unwrap_model(trainer.model)):
        return FinalAnswers(
            note="the weights are spread over processes; ift generate answers with the saved model"
        )
    questions = _questions(rows, count, trainer.args.seed)
    if not questions:
        return FinalAnswers(note="the rows have no prompt to answer")
    if not end_of_turn_ids(trainer.processing_class):
        return FinalAnswers(note="the tokenizer names no token that ends an answer")
    limit = _longest_answer(trainer, questions)
    began = time.perf_counter()
    _answered(trainer, questions, 1)
    first = time.perf_counter() - began
    _answered(trainer, questions, 3)
    each = max(0.0, time.perf_counter() - began - 2 * first) / 2
    if first + each * limit > SECONDS:
        return FinalAnswers(
            note=f"{count} answers would take about {first + each * limit:.0f} s here; ift generate writes them"
        )
    found = _answered(trainer, questions, limit)
    _write(trainer, questions, found, rows_name)
    return FinalAnswers(len(found), sum(new.stopped for new in found), limit)


def _longest_answer(trainer: Any, questions: list[Question]) -> int:
    """Tokens that an answer may have: as the targets have, and as the model has positions for."""
    limit = 2 * max(len(target) for _, _, target in questions) + SPARE_TOKENS
    config = trainer.accelerator.unwrap_model(trainer.model).config.get_text_config()
    room = getattr(config, "max_position_embeddings", None)
    return (
        limit if room is None else max(1, min(limit, room - max(len(prompt) for _, prompt, _ in questions)))
    )


def _answered(trainer: Any, questions: list[Question], tokens: int) -> list[Continuation]:
    """Greedy answers of at most so many tokens, in the precision of the training."""
    stops, pad = end_of_turn_ids(trainer.processing_class), trainer.processing_class.pad_token_id
    with trainer.compute_loss_context_manager():
        return continue_prompts(
            trainer.accelerator.unwrap_model(trainer.model),
            [prompt for _, prompt, _ in questions],
            stops,
            min(stops) if pad is None else pad,
            batch_size=len(questions),
            max_new_tokens=tokens,
        )


def _write(trainer: Any, questions: list[Question], found: list[Continuation], rows_name: str) -> None:
    tokenizer, lines = trainer.processing_class, []
    for (row, prompt, target), new in zip(questions, found, strict=True):
        line = {
            "rows": rows_name,
            "row": row,
            "prompt": tokenizer.decode(prompt),
            "target": tokenizer.decode(target, skip_special_tokens=True),
            "answer": tokenizer.decode(new.ids, skip_special_tokens=True),
            "ended": new.stopped,
            "tokens": len(new.ids),
        }
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    write_atomically(Path(trainer.args.output_dir) / FILE, "".join(lines))


def _questions(rows: Any, count: int, seed: int) -> list[Question]:
    """(row from 1, prompt ids, target ids) of `count` of the shorter rows, in their order."""
    found: list[Question] = []
    for number, row in sample_rows(rows, CANDIDATES, seed):
        side = "chosen_" if "chosen_labels" in row else ""
        prompt, target = last_answer(row[f"{side}input_ids"], row[f"{side}labels"])
        if prompt:
            found.append((number, prompt, target))
    found.sort(key=lambda one: len(one[1]) + len(one[2]))
    shorter = found[: max(count, len(found) // 2)]
    return sorted(random.Random(seed).sample(shorter, min(count, len(shorter))))

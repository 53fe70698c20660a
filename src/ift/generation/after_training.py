"""A few greedy answers of the trained model, written to `final_answers.jsonl` after a run."""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ift.data import Prepared, end_of_turn_ids
from ift.data.samples import ids_and_labels, sample_rows
from ift.files import write_atomically
from ift.generation.decoding import Continuation, continue_with_trainer, room_for_answers
from ift.generation.final_answer import last_answer
from ift.step.model import has_weights
from ift.text import counted

FILE = "final_answers.jsonl"
CANDIDATES = 256  # rows that the prompts are sampled from
SECONDS = 300.0  # limit of the estimated time for all answers
Question = tuple[int, list[int], list[int]]  # number of the row from 1, prompt ids, target ids
SPARE_TOKENS = 16  # an answer may be this much longer than twice the longest target


@dataclass(frozen=True)
class FinalAnswers:
    """The result of `write_final_answers`.

    Attributes:
        asked: Number of prompts answered.
        stopped: Answers that stop with their end token.
        empty: Answers without text, or with nothing but spaces.
        limit: Maximum length of an answer, in tokens.
        note: Why there are no answers; empty if there are.
    """

    asked: int = 0
    stopped: int = 0
    empty: int = 0
    limit: int = 0
    note: str = ""

    def summary(self, folder: str) -> str:
        """One line to show."""
        if self.note:
            return f"skipped: {self.note}"
        empty = f", {self.empty} without text" if self.empty else ""
        stop = "stops with its" if 1 in (self.stopped, self.asked) else "stop with their"
        return (
            f"{self.stopped} of {counted(self.asked, 'answer')} {stop} end token{empty} "
            f"(greedy, up to {counted(self.limit, 'token')}): {Path(folder) / FILE}"
        )


def write_final_answers(trainer: Any, rows: Prepared, rows_name: str, count: int) -> FinalAnswers:
    """Answers `count` short prompts of `rows` greedily and writes them to `final_answers.jsonl` in the output folder.

    For pairs, the chosen answer is the target. If no answers are written (no prompts, sharded weights, or a model that
    is too slow), the note of the result says why.
    """
    if trainer.is_fsdp_enabled or not has_weights(trainer.accelerator.unwrap_model(trainer.model)):
        return FinalAnswers(
            note="the weights are sharded over processes; run ift generate on the saved model"
        )
    questions = _questions(rows, count, trainer.args.seed)
    if not questions:
        return FinalAnswers(note="the rows have no prompt to answer")
    if not end_of_turn_ids(trainer.processing_class):
        return FinalAnswers(note="the tokenizer has no end token")
    prompts = [prompt for _, prompt, _ in questions]

    def answer(tokens: int) -> list[Continuation]:
        return continue_with_trainer(trainer, prompts, tokens, len(prompts))

    limit = _longest_answer(trainer, questions)
    began = time.perf_counter()
    answer(1)
    first = time.perf_counter() - began
    answer(3)
    each = max(0.0, time.perf_counter() - began - 2 * first) / 2
    if first + each * limit > SECONDS:
        return FinalAnswers(
            note=f"{counted(count, 'answer')} would take about {first + each * limit:.0f} s here; run ift generate "
            "instead"
        )
    found = answer(limit)
    texts = _write(trainer, questions, found, rows, rows_name)
    stopped, empty = sum(new.stopped for new in found), sum(not text.strip() for text in texts)
    return FinalAnswers(len(found), stopped, empty, limit)


def _longest_answer(trainer: Any, questions: list[Question]) -> int:
    """Maximum length of an answer: from the lengths of the targets, and from learned positions."""
    limit = 2 * max(len(target) for _, _, target in questions) + SPARE_TOKENS
    model = trainer.accelerator.unwrap_model(trainer.model)
    return room_for_answers(model, [prompt for _, prompt, _ in questions], limit)


def _write(
    trainer: Any, questions: list[Question], found: list[Continuation], rows: Prepared, rows_name: str
) -> list[str]:
    """Writes the file; returns the texts of the answers."""
    tokenizer, lines = trainer.processing_class, []
    texts = [tokenizer.decode(new.ids, skip_special_tokens=True) for new in found]
    places = rows.places([row for row, _, _ in questions])
    for (row, prompt, target), place, new, text in zip(questions, places, found, texts, strict=True):
        line = {
            "rows": rows_name,
            "row": row,
            **place,
            "prompt": tokenizer.decode(prompt),
            "target": tokenizer.decode(target, skip_special_tokens=True),
            "answer": text,
            "stopped": new.stopped,
            "tokens": len(new.ids),
        }
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    write_atomically(Path(trainer.args.output_dir) / FILE, "".join(lines))
    return texts


def _questions(rows: Prepared, count: int, seed: int) -> list[Question]:
    """(row from 1, prompt ids, target ids) of up to `count` of the shorter rows, in order.

    The prompts differ, and each data set of a mixture has a turn before any has a second.
    """
    draw, before = random.Random(seed), 0
    of_parts: list[list[Question]] = []
    for part in [rows] if rows.report.streaming else rows.parts or [rows]:
        found: dict[tuple[int, ...], Question] = {}
        for number, row in sample_rows(part.dataset, CANDIDATES, seed):
            prompt, target = last_answer(*ids_and_labels(row))
            if prompt:
                found.setdefault(tuple(prompt), (before + number, prompt, target))
        by_length = sorted(found.values(), key=lambda one: len(one[1]) + len(one[2]))
        shorter = by_length[: max(count, len(by_length) // 2)]
        of_parts.append(draw.sample(shorter, len(shorter)))
        before += part.report.rows_kept
    chosen: dict[tuple[int, ...], Question] = {}
    for question in (one for turn in zip_longest(*of_parts) for one in turn if one is not None):
        if len(chosen) < count:
            chosen.setdefault(tuple(question[1]), question)
    return sorted(chosen.values())

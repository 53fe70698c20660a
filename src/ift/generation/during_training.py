"""Answers of the model while it is trained: some held-out rows are asked at each evaluation."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback

from ift.data import DataError, end_of_turn_ids
from ift.data.samples import sample_rows
from ift.files import keep_lines
from ift.generation.decoding import Sampling, continue_prompts, room_for_answers
from ift.generation.final_answer import FinalAnswer, final_answer_of, last_answer
from ift.step.model import has_weights

FILE = "answers.jsonl"


@dataclass
class AnswerArguments:
    """Answers to look at while a run goes on."""

    eval_generate: int = field(
        default=0, metadata={"help": "Held-out rows that the model answers at each evaluation. 0: none."}
    )
    eval_generate_max_new_tokens: int = field(
        default=256, metadata={"help": "Longest of these answers, in tokens."}
    )
    eval_generate_temperature: float = field(default=0.0, metadata={"help": "Of these answers; 0 is greedy."})
    answer_pattern: str | None = field(
        default=None,
        metadata={
            "help": "How their final answer is found, to score exact match: ####, boxed, none or a regular expression; "
            "without it #### or a box, where every target has one."
        },
    )

    final_answers: int = field(
        default=8,
        metadata={
            "help": "Greedy answers written at the end to prompts that were trained or evaluated on: do they end? "
            "0: none."
        },
    )

    def check(self, eval_strategy: Any) -> None:
        """Raises ValueError for values out of range, and where there is no evaluation to answer at."""
        if self.eval_generate < 0 or self.eval_generate_max_new_tokens < 1:
            raise ValueError("eval_generate must be 0 or more, eval_generate_max_new_tokens 1 or more.")
        if self.eval_generate_temperature < 0:
            raise ValueError("eval_generate_temperature must be 0 (greedy) or more.")
        if self.final_answers < 0:
            raise ValueError("final_answers must be 0 (none) or more.")
        if self.eval_generate and getattr(eval_strategy, "value", eval_strategy) == "no":
            raise ValueError(
                "eval_generate: there is no evaluation to answer at; say --eval_strategy steps or epoch."
            )


@dataclass(frozen=True)
class Question:
    """A held-out row to answer: its number in the evaluation rows from 1, prompt ids, and the target's text."""

    row: int
    prompt: list[int]
    target: str


class AnswersAtEvaluation(TrainerCallback):
    """Writes answers to `answers.jsonl` and to the tracker's table, and exact match to the metrics.

    The rows are chosen once, by the run's seed. Training is not touched: no random state is used, and on several
    processes the first one alone answers.
    """

    def __init__(self, trainer: Any, rows: Any, told: AnswerArguments) -> None:
        """Chooses the rows.

        Args:
            trainer: The trainer that this is added to.
            rows: Evaluation rows with token ids and labels; of pairs, the chosen side is the target.
            told: What to do.

        Raises:
            DataError: A row has no prompt, or a target no final answer under the pattern.
            ValueError: The model's weights are spread over processes.
        """
        if trainer.is_fsdp_enabled or (trainer.is_deepspeed_enabled and not has_weights(trainer.model)):
            raise ValueError(
                "eval_generate needs whole weights: not with FSDP or ZeRO-3. Take it out, or use DDP."
            )
        self.trainer, self.told = trainer, told
        self.tokenizer = trainer.processing_class
        self.questions = _questions(rows, told.eval_generate, trainer.args.seed, self.tokenizer)
        model, wanted = trainer.accelerator.unwrap_model(trainer.model), told.eval_generate_max_new_tokens
        room = room_for_answers(model, [one.prompt for one in self.questions], wanted)
        if room < wanted:
            raise DataError(
                f"eval_generate_max_new_tokens is {wanted:,}, and the model has learned positions for {room:,} after "
                f"the longest prompt. Fix: --eval_generate_max_new_tokens {room}"
            )
        try:
            self.final: FinalAnswer | None = final_answer_of(
                [one.target for one in self.questions], told.answer_pattern
            )
        except ValueError as error:
            raise DataError(str(error)) from error

    @property
    def path(self) -> Path:
        """The file of the answers."""
        return Path(self.trainer.args.output_dir) / FILE

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin a new file, or, on a resumed run, keep the answers of the steps before it."""
        if state.is_world_process_zero and self.path.exists():
            keep_lines(self.path, state.global_step or float("-inf"))

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        """Answer, write, score; every process learns the scores."""
        found = [self._evaluated(state.global_step) if state.is_world_process_zero else {}]
        if args.world_size > 1:
            broadcast_object_list(found)
        if metrics is not None:
            metrics.update(found[0])  # metrics to choose the best checkpoint by
        self.trainer.log(found[0])

    def _evaluated(self, step: int) -> dict[str, float]:
        answers = self._answers(step)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in answers)
        found = {"eval_answers_stopped": sum(one["stopped"] for one in answers) / len(answers)}
        if self.final is not None:
            found["eval_exact_match"] = sum(one["right"] for one in answers) / len(answers)
        self._table(answers, self.trainer.args.report_to)
        return found

    def _answers(self, step: int) -> list[dict[str, Any]]:
        stops = end_of_turn_ids(self.tokenizer)
        pad = self.tokenizer.pad_token_id
        sampling = None
        if self.told.eval_generate_temperature:
            keys = [f"{step} {one.row}" for one in self.questions]
            sampling = Sampling(self.trainer.args.seed, keys, self.told.eval_generate_temperature)
        with self.trainer.compute_loss_context_manager():  # the precision of the training
            found = continue_prompts(
                self.trainer.accelerator.unwrap_model(self.trainer.model),
                [one.prompt for one in self.questions],
                stops,
                min(stops) if pad is None else pad,
                batch_size=self.trainer.args.eval_batch_size,
                max_new_tokens=self.told.eval_generate_max_new_tokens,
                sampling=sampling,
            )
        answers = []
        for one, new in zip(self.questions, found, strict=True):
            text = self.tokenizer.decode(new.ids, skip_special_tokens=True)
            answers.append(
                {
                    "step": step,
                    "row": one.row,
                    "prompt": self.tokenizer.decode(one.prompt),
                    "target": one.target,
                    "answer": text,
                    "right": None
                    if self.final is None
                    else self.final.find(text) == self.final.find(one.target),
                    "stopped": new.stopped,
                    "tokens": len(new.ids),
                }
            )
        return answers

    @staticmethod
    def _table(answers: Sequence[dict[str, Any]], report_to: Any) -> None:
        """The answers as a table of wandb or trackio, where the run reports to one."""
        import pandas

        for name in ("wandb", "trackio"):
            tracker = sys.modules.get(name)  # its own callback has imported it
            if name in (report_to or []) and tracker is not None:
                tracker.log({"answers": tracker.Table(dataframe=pandas.DataFrame(list(answers)))})


def _questions(rows: Any, count: int, seed: int, tokenizer: Any) -> list[Question]:
    """`count` rows, or all where there are fewer, in their order; the first ones of a stream."""
    found = []
    for number, row in sorted(sample_rows(rows, count, seed), key=lambda one: one[0]):
        side = "chosen_" if "chosen_labels" in row else ""
        prompt, target = last_answer(row[f"{side}input_ids"], row[f"{side}labels"])
        if not prompt:
            raise DataError(
                f"eval_generate: evaluation row {number} has no prompt to answer. Fix: leave eval_generate out"
            )
        found.append(Question(number, prompt, tokenizer.decode(target, skip_special_tokens=True)))
    return found

"""Answers to held-out rows at each evaluation of a training run, written to `answers.jsonl`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback

from ift.data import DataError, Prepared
from ift.data.report import row_numbers
from ift.data.samples import ids_and_labels, sample_rows
from ift.files import keep_lines
from ift.generation.decoding import Sampling, continue_with_trainer, room_for_answers
from ift.generation.final_answer import FinalAnswer, final_answer_of, last_answer
from ift.step.model import has_weights
from ift.text import counted

FILE = "answers.jsonl"
ANSWERED = "eval_answers_stopped"  # the metric that each evaluation with answers has
# of answers (`prompt`, `target`, `answer`) and the columns of their rows: the scores of all by name; it adds the values
# of each answer as its `scores`
AnswerScorer = Callable[[Sequence[dict[str, Any]], Sequence[Mapping[str, Any]]], dict[str, float]]


@dataclass
class AnswerArguments:
    """Options for answers that are generated during and after a run."""

    eval_generate: int = field(
        default=0, metadata={"help": "Held-out rows that the model answers at each evaluation (0: none)."}
    )
    eval_generate_max_new_tokens: int = field(
        default=256, metadata={"help": "Maximum length of these answers, in tokens."}
    )
    eval_generate_temperature: float = field(
        default=0.0, metadata={"help": "Sampling temperature of these answers (0: greedy)."}
    )
    eval_score: str | None = field(
        default=None,
        metadata={
            "help": "Scores of these answers: text, contains, json, sql, bleu, chrf, rouge, f1, FILE.py:function, or "
            "several with commas."
        },
    )
    eval_score_db: str | None = field(
        default=None, metadata={"help": "SQLite file on which the score sql runs the queries, read-only."}
    )
    answer_pattern: str | None = field(
        default=None,
        metadata={
            "help": "How to extract final answers for exact match: ####, boxed, none or a regular expression (default: "
            "#### or boxed, if every target has one)."
        },
    )

    final_answers: int = field(
        default=8,
        metadata={
            "help": "Number of greedy answers written after training, to see whether they stop (0: none)."
        },
    )

    scorer: AnswerScorer | None = field(
        default=None, init=False, repr=False
    )  # of eval_score; the caller sets it

    def check(self, eval_strategy: Any) -> None:
        """Raises ValueError for values out of range and eval_generate without evaluation; names all, one a line."""
        no_evaluation = getattr(eval_strategy, "value", eval_strategy) == "no"
        problems = {
            "eval_score scores the answers of eval_generate; set --eval_generate too.": bool(self.eval_score)
            and not self.eval_generate,
            "eval_generate must be 0 or more, eval_generate_max_new_tokens 1 or more.": self.eval_generate < 0
            or self.eval_generate_max_new_tokens < 1,
            "eval_generate_temperature must be 0 (greedy) or more.": self.eval_generate_temperature < 0,
            "final_answers must be 0 (none) or more.": self.final_answers < 0,
            "eval_generate needs evaluation; set --eval_strategy to steps or epoch.": self.eval_generate > 0
            and no_evaluation,
        }
        if found := [problem for problem, holds in problems.items() if holds]:
            raise ValueError("\n".join(found))


@dataclass(frozen=True)
class Question:
    """A held-out row: its number (from 1) in the evaluation rows, prompt ids, the target's text, and its place."""

    row: int
    prompt: list[int]
    target: str
    place: dict[str, Any]  # of `Prepared.places`

    @property
    def named(self) -> dict[str, Any]:
        """The keys of a line that name the row."""
        return {"row": self.row, **self.place}


class EvaluationAnswers(TrainerCallback):
    """Writes answers to `answers.jsonl` and to a table of the tracker, and logs their exact match.

    The rows are selected once, with the run's seed. Training is unaffected: no random state is used, and only the first
    process generates.
    """

    def __init__(self, trainer: Any, rows: Prepared, settings: AnswerArguments) -> None:
        """Selects the rows; for pairs, the chosen answer is the target. `left_out` names those without a prompt.

        Raises:
            DataError: No row has a prompt, or a target has no final answer that matches the pattern.
            ValueError: The weights are sharded over processes.
        """
        if trainer.is_fsdp_enabled or (trainer.is_deepspeed_enabled and not has_weights(trainer.model)):
            raise ValueError(
                "eval_generate does not work with FSDP or ZeRO-3, which shard the weights. Leave it out, or use DDP."
            )
        self.trainer, self.settings = trainer, settings
        self.tokenizer = trainer.processing_class
        self.questions, self.left_out = _questions(
            rows, settings.eval_generate, trainer.args.seed, self.tokenizer
        )
        model, wanted = trainer.accelerator.unwrap_model(trainer.model), settings.eval_generate_max_new_tokens
        room = room_for_answers(model, [one.prompt for one in self.questions], wanted)
        if room < wanted:
            raise DataError(
                f"eval_generate_max_new_tokens is {wanted:,}, and the model has learned positions for {room:,} after "
                f"the longest prompt. Fix: --eval_generate_max_new_tokens {room}"
            )
        try:
            self.final: FinalAnswer | None = final_answer_of(
                [one.target for one in self.questions], settings.answer_pattern
            )
        except ValueError as error:
            raise DataError(str(error)) from error
        if settings.scorer is not None:  # a target that cannot be scored is found before the first step
            self.columns = rows.columns([one.row for one in self.questions])
            _score_targets(settings.scorer, self.questions, self.columns, self.tokenizer)

    @property
    def path(self) -> Path:
        """The file of the answers."""
        return Path(self.trainer.args.output_dir) / FILE

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Starts a new file; a resumed run keeps the answers of earlier steps."""
        if state.is_world_process_zero and self.path.exists():
            keep_lines(self.path, state.global_step or float("-inf"))

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        """Generates, writes and scores answers; every process receives the scores."""
        found = [self._answer_and_score(state.global_step) if state.is_world_process_zero else {}]
        if args.world_size > 1:
            broadcast_object_list(found)
        if metrics is not None:
            metrics.update(found[0])  # so that metric_for_best_model can name them
        self.trainer.log(found[0])

    def _answer_and_score(self, step: int) -> dict[str, float]:
        answers = self._answers(step)
        scores = self.settings.scorer(answers, self.columns) if self.settings.scorer is not None else {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in answers)
        found = {ANSWERED: sum(one["stopped"] for one in answers) / len(answers)}
        if empty := sum(not one["answer"].strip() for one in answers):
            found["eval_answers_empty"] = empty / len(answers)
        if self.final is not None:
            found["eval_exact_match"] = sum(one["right"] for one in answers) / len(answers)
        found |= {f"eval_{name}": value for name, value in scores.items()}
        self._log_table(answers, self.trainer.args.report_to)
        return found

    def _answers(self, step: int) -> list[dict[str, Any]]:
        sampling = None
        if self.settings.eval_generate_temperature:
            keys = [f"{step} {one.row}" for one in self.questions]
            sampling = Sampling(self.trainer.args.seed, keys, self.settings.eval_generate_temperature)
        found = continue_with_trainer(
            self.trainer,
            [one.prompt for one in self.questions],
            self.settings.eval_generate_max_new_tokens,
            self.trainer.args.eval_batch_size,
            sampling,
        )
        answers = []
        for one, new in zip(self.questions, found, strict=True):
            text = self.tokenizer.decode(new.ids, skip_special_tokens=True)
            answers.append(
                {
                    "step": step,
                    **one.named,
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
    def _log_table(answers: Sequence[dict[str, Any]], report_to: Any) -> None:
        """Logs the answers as a table to wandb or trackio if the run reports to it."""
        import pandas

        for name in ("wandb", "trackio"):
            tracker = sys.modules.get(name)  # imported by transformers' callback
            if name in (report_to or []) and tracker is not None:
                tracker.log({"answers": tracker.Table(dataframe=pandas.DataFrame(list(answers)))})


def target_totals(settings: AnswerArguments, rows: Prepared, seed: int, tokenizer: Any) -> dict[str, float]:
    """The scores, by name, of the target answers to the rows of `eval_generate`; {} without `scorer`.

    Raises:
        DataError: No row has a prompt.
        ValueError: A target that cannot be scored; see `scorer`.
    """
    if settings.scorer is None:
        return {}
    questions, _ = _questions(rows, settings.eval_generate, seed, tokenizer)
    return _score_targets(settings.scorer, questions, rows.columns([one.row for one in questions]), tokenizer)


def logs_exact_match(settings: AnswerArguments, rows: Prepared, seed: int, tokenizer: Any) -> bool:
    """Whether the targets of `eval_generate` have final answers, so that `eval_exact_match` is logged.

    Raises:
        DataError: No row has a prompt.
        ValueError: `answer_pattern` matches not all targets, or is no pattern.
    """
    questions, _ = _questions(rows, settings.eval_generate, seed, tokenizer)
    return final_answer_of([one.target for one in questions], settings.answer_pattern) is not None


def _score_targets(
    scorer: AnswerScorer, questions: Sequence[Question], columns: Sequence[Mapping[str, Any]], tokenizer: Any
) -> dict[str, float]:
    asked = [{**one.named, "target": one.target, "answer": one.target} for one in questions]
    prompts = [tokenizer.decode(one.prompt) for one in questions]
    return scorer([{**one, "prompt": text} for one, text in zip(asked, prompts, strict=True)], columns)


def _questions(rows: Prepared, count: int, seed: int, tokenizer: Any) -> tuple[list[Question], str]:
    """Up to `count` sampled rows in the order of the data (for a stream, the first ones), and a line on those left out.

    The line is "" if every sampled row has a prompt.
    """
    found, without = [], []
    sample = sorted(sample_rows(rows.dataset, count, seed), key=lambda one: one[0])
    places = rows.places([number for number, _ in sample])
    for (number, row), place in zip(sample, places, strict=True):
        prompt, target = last_answer(*ids_and_labels(row))
        if prompt:
            text = tokenizer.decode(target, skip_special_tokens=True)
            found.append(Question(number, prompt, text, place))
        else:
            without.append(place.get("file_row", number))
    if not without:
        return found, ""
    rows_named = f"{counted(len(without), 'evaluation row')} without a prompt ({row_numbers(without)})"
    if not found:
        raise DataError(f"eval_generate: found only {rows_named}. Fix: leave eval_generate out")
    return found, f"eval_generate: {rows_named}: not answered. Fix: write a prompt, or take the row out"

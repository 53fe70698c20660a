"""Scores of a model on the user's held-out rows: likelihood, greedy answers, choices between answers."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from ift.data.counts import count_trained
from ift.generation.final_answer import last_answer
from ift.lab.compare.user_rows import COLUMNS
from ift.lab.report.wording import PER_TOKEN
from ift.lab.scores import Answer, Result, Score, score_answers
from ift.lab.testbed.likelihood import Likelihood, likelihood_rows, summed_log_probs


def decode_turns(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of tokens without the special ones; a new line begins where these stood between two texts."""
    special, parts = set(tokenizer.all_special_ids), list[list[int]]([[]])
    for one in ids:
        if one in special:
            parts.append([])
        else:
            parts[-1].append(one)
    texts = [text for part in parts if part and (text := tokenizer.decode(part))]
    return "".join(text if text.endswith("\n") else f"{text}\n" for text in texts[:-1]) + "".join(texts[-1:])


class HeldOutScorer:
    """Scores rows of token ids and labels, on the device and in the precision of the training.

    Attributes:
        train_args: The `TrainArguments` of SFT with the study's flags: model, dtype, batch sizes.
        scores: The scores of generated answers; without any, answers are not scored.
        max_new_tokens: Maximum length of a generated answer, in tokens.
    """

    def __init__(self, train_args: Any, scores: Sequence[Score], max_new_tokens: int) -> None:
        self.train_args, self.scores, self.max_new_tokens = train_args, scores, max_new_tokens
        self.batch_size = train_args.config.per_device_eval_batch_size

    def load(self, folder: str) -> tuple[Any, Any]:
        """Load the model of a folder, or the base model as it is trained, and the tokenizer of the base model."""
        from ift.data import ensure_chat_template
        from ift.methods.stage import load_tokenizer
        from ift.methods.start import start_options
        from ift.models.loading import load_network, to_device

        options = start_options(self.train_args)
        if folder != self.train_args.model.model_name_or_path:
            options = replace(options, revision=None)
        model = load_network(folder, options)
        tokenizer = load_tokenizer(self.train_args)
        with contextlib.suppress(ValueError):  # rows that need no template do without
            ensure_chat_template(tokenizer)
        return to_device(model, self.train_args.config.device), tokenizer

    @contextlib.contextmanager
    def _precision(self) -> Iterator[None]:
        """Disable gradients, and use the autocast of the training."""
        config = self.train_args.config
        dtype = torch.float16 if config.fp16 else torch.bfloat16
        with (
            torch.no_grad(),
            torch.autocast(config.device.type, dtype, enabled=config.fp16 or bool(config.bf16)),
        ):
            yield

    def answers(self, model: Any, tokenizer: Any, rows: Any) -> list[dict[str, Any]]:
        """Generate the greedy answer to the last prompt of each row.

        Returns:
            For each row its `row`, `prompt`, `target`, `answer`, `right` (None, see `scored_answers`), `stopped`
            (whether the answer stopped with its end token) and `tokens`. If any row has no prompt, an empty list.
        """
        from ift.data import end_of_turn_ids
        from ift.generation.decoding import continue_prompts, padding_id

        asked = [last_answer(row["input_ids"], row["labels"]) for row in rows]
        if not all(prompt for prompt, _ in asked):
            return []
        stops = end_of_turn_ids(tokenizer)
        pad = padding_id(tokenizer, stops, model)
        limits = {"batch_size": self.batch_size, "max_new_tokens": self.max_new_tokens}
        with self._precision():
            found = continue_prompts(model, [prompt for prompt, _ in asked], stops, pad, **limits)
        answers = []
        for row, (prompt, target), one in zip(rows, asked, found, strict=True):
            answers.append(
                {
                    "row": row["row"],
                    "prompt": decode_turns(tokenizer, prompt),
                    "target": tokenizer.decode(target, skip_special_tokens=True),
                    "answer": tokenizer.decode(one.ids, skip_special_tokens=True),
                    "right": None,
                    "stopped": one.stopped,
                    "tokens": len(one.ids),
                }
            )
        return answers

    def scored_answers(
        self, model: Any, tokenizer: Any, rows: Any, scores: Sequence[Score] | None = None
    ) -> tuple[list[dict[str, Any]], Result]:
        """Generate answers and score them with `scores` (None: all scores of the study).

        Returns:
            The answers of `answers`, and the scores of all answers together. Each answer has in `scores` its values by
            name, and in `right` whether it is right, if the first score says right or wrong. Without scores or prompts
            nothing is filled in.

        Raises:
            ScoreError: A row cannot be scored.
        """
        scores, answers = self.scores if scores is None else scores, self.answers(model, tokenizer, rows)
        if not (scores and answers):
            return answers, Result({}, [], {})
        asked = [
            scored_answer(row, one["prompt"], one["answer"], one["target"])
            for row, one in zip(rows, answers, strict=True)
        ]
        found = score_answers(scores, asked)
        for one, values in zip(answers, found.rows, strict=True):
            one["scores"] = values
            if scores[0].binary:
                one["right"] = values[scores[0].name] == 1
        return answers, found

    def target_likelihood(self, model: Any, rows: Any) -> dict[str, list[float]]:
        """Log-likelihoods of the target answers in nats, in total and per token.

        The values per token are the parts of the rows in the mean over all tokens.
        """
        pairs = [(row["input_ids"], row["labels"]) for row in rows]
        sums = self.log_likelihoods(model, pairs)
        found = [Likelihood(one, count_trained(labels)) for one, (_, labels) in zip(sums, pairs, strict=True)]
        return dict(zip(("target_log_likelihood", PER_TOKEN), likelihood_rows(found), strict=True))

    def choices(self, model: Any, pairs: Any) -> dict[str, list[float]]:
        """Whether the chosen answer of each held-out pair is the more likely one, in total and per token: 1.0 or 0.0.

        A tie counts as wrong.
        """
        sides = [
            [(row[f"{side}_input_ids"], row[f"{side}_labels"]) for row in pairs]
            for side in ("chosen", "rejected")
        ]
        sums = [self.log_likelihoods(model, side) for side in sides]
        means = [
            [one / count_trained(labels) for one, (_, labels) in zip(found, side, strict=True)]
            for found, side in zip(sums, sides, strict=True)
        ]
        return {
            name: [float(a > b) for a, b in zip(*found, strict=True)]
            for name, found in {"choice_accuracy": sums, "choice_accuracy_per_token": means}.items()
        }

    def log_likelihoods(self, model: Any, rows: Sequence[tuple[list[int], list[int]]]) -> list[float]:
        """Summed log-probability in nats of the trained tokens of each row; a row is (ids, labels)."""
        with self._precision():
            return summed_log_probs(model, rows, self.batch_size)


def scored_answer(row: Any, prompt: str, text: str, target: str) -> Answer:
    """The `Answer` to score for a held-out row, with the columns of the row if the split has kept them."""
    return Answer(str(row["row"]), prompt, text, target, json.loads(row.get(COLUMNS) or "{}"))

"""Scores of a model on held-out rows of the user's own: likelihood, greedy answers, choices between answers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ift.data.counts import count_trained
from ift.data.masks import UNTRAINED
from ift.generation.final_answer import FinalAnswer, last_answer

PER_TOKEN = "target_log_likelihood_per_token"


class HeldOutScores:
    """How rows of token ids and labels are scored, on the device and in the precision of the training.

    Attributes:
        told: The `TrainArguments` of SFT on the study's words: model, dtype, batch sizes.
        final: How a final answer is found; None: there is none.
        max_new_tokens: Longest generated answer.
    """

    def __init__(self, told: Any, final: FinalAnswer | None, max_new_tokens: int) -> None:
        self.told, self.final, self.max_new_tokens = told, final, max_new_tokens

    def _load(self, folder: str) -> tuple[Any, Any]:
        """A trained folder or the base as it is trained (dtype, quantisation), and the base's tokenizer."""
        from ift.data import ensure_chat_template
        from ift.methods.stage import load_tokenizer
        from ift.methods.start import start_options
        from ift.models.loading import load_network

        options = start_options(self.told)
        if folder != self.told.model.model_name_or_path:
            options = replace(options, revision=None)
        model = load_network(folder, options)
        tokenizer = load_tokenizer(self.told)
        with contextlib.suppress(ValueError):  # rows that need no template do without
            ensure_chat_template(tokenizer)
        return (model if hasattr(model, "hf_device_map") else model.to(self.told.config.device)), tokenizer

    @contextlib.contextmanager
    def _precision(self) -> Iterator[None]:
        """No gradient, and the autocast that training has."""
        config = self.told.config
        dtype = torch.float16 if config.fp16 else torch.bfloat16
        with (
            torch.no_grad(),
            torch.autocast(config.device.type, dtype, enabled=config.fp16 or bool(config.bf16)),
        ):
            yield

    def _answers(self, model: Any, tokenizer: Any, rows: Any) -> list[dict[str, Any]]:
        """The greedy answer to every row's last prompt; none where a row has no prompt."""
        from ift.data import end_of_turn_ids
        from ift.generation.decoding import continue_prompts

        asked = [last_answer(row["input_ids"], row["labels"]) for row in rows]
        if not all(prompt for prompt, _ in asked):
            return []
        stops = end_of_turn_ids(tokenizer)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(stops)
        with self._precision():
            found = continue_prompts(
                model,
                [prompt for prompt, _ in asked],
                stops,
                pad,
                batch_size=self.told.config.per_device_eval_batch_size,
                max_new_tokens=self.max_new_tokens,
            )
        answers = []
        for row, (prompt, target), one in zip(rows, asked, found, strict=True):
            texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in (prompt, target, one.ids)]
            right = None if self.final is None else self._right(texts[1], texts[2])
            answers.append(
                {
                    "row": row["row"],
                    **dict(zip(("prompt", "target", "answer"), texts, strict=True)),
                    "right": right,
                    "stopped": one.stopped,
                    "tokens": len(one.ids),
                }
            )
        return answers

    def _right(self, target: str, answer: str) -> bool:
        assert self.final is not None  # nosec B101 # for the type checker
        return self.final.find(answer) == self.final.find(target)

    @staticmethod
    def _exact_match(answers: Sequence[Mapping[str, Any]]) -> float:
        return sum(bool(one["right"]) for one in answers) / len(answers)

    def _target_likelihood(self, model: Any, rows: Any) -> dict[str, float]:
        pairs = [(row["input_ids"], row["labels"]) for row in rows]
        found, tokens = self._likelihoods(model, pairs), sum(count_trained(labels) for _, labels in pairs)
        return {"target_log_likelihood": sum(found) / len(found), PER_TOKEN: sum(found) / tokens}

    def _choices(self, model: Any, pairs: Any) -> dict[str, float]:
        """Share of held-out pairs whose chosen answer is the more likely one, in all and per token; a tie is wrong."""
        sides = [
            [(row[f"{side}_input_ids"], row[f"{side}_labels"]) for row in pairs]
            for side in ("chosen", "rejected")
        ]
        sums = [self._likelihoods(model, side) for side in sides]
        means = [
            [one / count_trained(labels) for one, (_, labels) in zip(found, side, strict=True)]
            for found, side in zip(sums, sides, strict=True)
        ]
        return {
            name: sum(a > b for a, b in zip(*found, strict=True)) / len(pairs)
            for name, found in {"choice_accuracy": sums, "choice_accuracy_per_token": means}.items()
        }

    def _likelihoods(self, model: Any, rows: Sequence[tuple[list[int], list[int]]]) -> list[float]:
        """Summed log-probability of the trained tokens of each row of (ids, labels), through the chunked head."""
        from ift.step.algorithm import ift_loss
        from ift.step.model import evaluating

        size = self.told.config.per_device_eval_batch_size
        order = sorted(range(len(rows)), key=lambda index: len(rows[index][0]))
        found = [0.0] * len(rows)
        with self._precision(), evaluating(model):
            for start in range(0, len(order), size):
                chosen = order[start : start + size]
                batch = _padded([rows[index] for index in chosen], model.device)
                losses = ift_loss(model, batch, residual_lambda=0.0, propagation="none").scores.losses
                for index, total in zip(chosen, losses.sum(1, dtype=torch.float64).tolist(), strict=True):
                    found[index] = -total
        return found


def _padded(rows: Sequence[tuple[list[int], list[int]]], device: Any) -> dict[str, Any]:
    longest = max(len(ids) for ids, _ in rows)

    def tensor(values: list[list[int]]) -> Any:
        return torch.tensor(values, device=device)  # (B, T)

    return {
        "input_ids": tensor([ids + [0] * (longest - len(ids)) for ids, _ in rows]),
        "attention_mask": tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows]),
        "labels": tensor([labels + [UNTRAINED] * (longest - len(labels)) for _, labels in rows]),
    }

"""Log-likelihood of given answers under a model, and multiple choice between right and wrong ones."""

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ift.data.prepare import count_trained
from ift.lab.testbed.families import AnyProblem
from ift.lab.testbed.noise import habitual, one_wrong_step
from ift.lab.testbed.problems import Message
from ift.lab.testbed.scoring import wilson_interval
from ift.labels import IGNORED
from ift.step.algorithm import ift_loss
from ift.step.model import evaluating


class Likelihood(NamedTuple):
    """How likely an answer is, given its prompt: summed log-probability in nats, over `n_tokens` with the end token."""

    log_prob: float
    n_tokens: int

    @property
    def per_token(self) -> float:
        """Mean log-probability of a token, in nats."""
        return self.log_prob / self.n_tokens


class MultipleChoice(NamedTuple):
    """How often a model prefers the right solution to all wrong ones, with 95 % Wilson intervals."""

    n: int  # problems
    choices: int  # solutions to choose from, the right one among them: guessing is right in 1 of `choices`
    by_sum: float  # share of problems whose right solution has the highest summed log-probability, in 0..1
    by_sum_interval: tuple[float, float]
    by_mean: float  # the same by log-probability per token
    by_mean_interval: tuple[float, float]
    rows_by_sum: tuple[bool, ...]  # whether the right solution is preferred, by problem
    rows_by_mean: tuple[bool, ...]


def log_likelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[list[Message]],
    batch_size: int = 64,
) -> list[Likelihood]:
    """The likelihood of the last turn of each conversation, given the turns before it; computed without gradient.

    Conversations of like length share a batch; the model's train/eval mode is left as it was.

    Raises:
        ValueError: A conversation's last turn is not the assistant's, or the rendered prompt is not the beginning of
            the rendered conversation.
    """
    rows = [rendered(tokenizer, conversation) for conversation in conversations]
    sums = summed_log_probs(model, rows, batch_size)
    return [Likelihood(total, count_trained(labels)) for total, (_, labels) in zip(sums, rows, strict=True)]


@torch.no_grad()
def summed_log_probs(
    model: Any, rows: Sequence[tuple[Sequence[int], Sequence[int]]], batch_size: int
) -> list[float]:
    """Summed log-probability of the trained tokens of each row, in nats, in the given order.

    Rows are token ids and labels, (T,) each; -100 where a token is not scored. The logits of a whole batch are never in
    memory, rows of like length share a batch, and the model's train/eval mode is left as it was.
    """
    found = [0.0] * len(rows)
    order = sorted(range(len(rows)), key=lambda index: len(rows[index][0]))
    with evaluating(model):
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = padded_batch([rows[index] for index in chosen], model.device)
            losses = ift_loss(model, batch, residual_lambda=0.0, propagation="none").scores.losses  # (B, T)
            for index, total in zip(chosen, losses.sum(1, dtype=torch.float64).tolist(), strict=True):
                found[index] = -total
    return found


def padded_batch(rows: Sequence[tuple[Sequence[int], Sequence[int]]], device: Any) -> dict[str, torch.Tensor]:
    """A batch padded on the right, (B, T) each."""

    def padded(sequences: Sequence[Sequence[int]], value: int) -> torch.Tensor:
        tensors = [torch.tensor(one) for one in sequences]
        return pad_sequence(tensors, batch_first=True, padding_value=value).to(device)

    ids, labels = zip(*rows, strict=True)
    return {
        "input_ids": padded(ids, 0),
        "attention_mask": padded([[1] * len(one) for one in ids], 0),
        "labels": padded(labels, IGNORED),
    }


def mean_likelihood(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, problems: Sequence[AnyProblem]
) -> dict[str, float]:
    """Mean log-likelihood of the problems' own solutions, in nats: `log_prob` per solution, `per_token` over all.

    Raises:
        ValueError: If there are no problems.
    """
    if not problems:
        raise ValueError("there are no problems to score")
    found = log_likelihoods(model, tokenizer, [problem.messages for problem in problems])
    total = sum(one.log_prob for one in found)
    return {"log_prob": total / len(found), "per_token": total / sum(one.n_tokens for one in found)}


def likelihood_rows(found: Sequence[Likelihood]) -> tuple[list[float], list[float]]:
    """The values of rows whose means are the log-likelihoods of an answer and of a token, in nats.

    The mean over all tokens is no mean over rows: the second values are its parts, the jackknife's pseudo-values.
    """
    lengths = [one.n_tokens for one in found]
    mean, length = sum(one.log_prob for one in found) / sum(lengths), sum(lengths) / len(lengths)
    parts = [mean + (one.log_prob - mean * one.n_tokens) / length for one in found]
    return [one.log_prob for one in found], parts


def distractors(problem: AnyProblem, k: int = 3, seed: int = 0) -> list[AnyProblem]:
    """The problem with `k` different wrong solutions that end at a wrong answer.

    The first is the mistake that the base learnt to make (`noise.habitual`), where the problem invites it. The others
    take one wrong step and carry it on.
    """
    rng = random.Random(f"distractors/{seed}/{problem.question}")
    habit = habitual(problem)
    found: dict[str, AnyProblem] = {} if habit is None or k < 1 else {habit.solution: habit}
    while len(found) < k:
        wrong = one_wrong_step(problem, rng)
        found.setdefault(wrong.solution, wrong)
    return list(found.values())


def multiple_choice(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[AnyProblem],
    k: int = 3,
    seed: int = 0,
    batch_size: int = 64,
) -> MultipleChoice:
    """Lets a model choose, by likelihood, between each problem's right solution and `k` distractors; a tie is wrong.

    Raises:
        ValueError: There are no problems or no distractors.
    """
    if not problems or k < 1:
        raise ValueError(f"multiple choice needs a problem and a distractor, got {len(problems)} and {k}")
    offered = [[problem, *distractors(problem, k, seed)] for problem in problems]
    found = log_likelihoods(model, tokenizer, [p.messages for some in offered for p in some], batch_size)
    groups = [found[first : first + k + 1] for first in range(0, len(found), k + 1)]
    rows = tuple(prefers_first([one.log_prob for one in group]) for group in groups)
    rows_by_mean = tuple(prefers_first([one.per_token for one in group]) for group in groups)
    n, by_sum, by_mean = len(groups), sum(rows), sum(rows_by_mean)
    intervals = wilson_interval(by_sum, n), wilson_interval(by_mean, n)
    return MultipleChoice(n, k + 1, by_sum / n, intervals[0], by_mean / n, intervals[1], rows, rows_by_mean)


def prefers_first(values: Sequence[float]) -> bool:
    """Whether the first value is greater than every other."""
    return all(values[0] > other for other in values[1:])


def rendered(tokenizer: PreTrainedTokenizerBase, conversation: list[Message]) -> tuple[list[int], list[int]]:
    """Token ids of a conversation, and labels that leave out its prompt."""
    if not conversation or conversation[-1]["role"] != "assistant":
        raise ValueError("a conversation to score must end with a turn of the assistant")
    whole = tokenizer.apply_chat_template(conversation, tokenize=False)
    prompt = tokenizer.apply_chat_template(conversation[:-1], tokenize=False, add_generation_prompt=True)
    ids, prompt_ids = tokenizer([whole, prompt], add_special_tokens=False)["input_ids"]
    length = len(prompt_ids)
    if ids[:length] != prompt_ids or len(ids) == length:
        raise ValueError("the chat template renders a prompt that is not the beginning of its conversation")
    return ids, [IGNORED] * length + ids[length:]

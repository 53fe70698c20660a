"""Batched decoding with left-padded prompts; each answer ends before its stop token."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

from ift.data import end_of_turn_ids
from ift.generation.errors import EvaluationError
from ift.generation.plain_decoding import plain_decoding
from ift.models.limits import embedded_ids, learned_positions
from ift.step.model import evaluating


@dataclass(frozen=True)
class Continuation:
    """The tokens that a model generated after one prompt.

    Attributes:
        ids: New token ids, without the stop token.
        stopped: Whether a stop token ended it within the token limit.
    """

    ids: list[int]
    stopped: bool


@dataclass(frozen=True)
class Sampling:
    """Sampling whose noise depends only on seed, prompt and position.

    Except for rounding in the model's computation, an answer therefore does not depend on the other prompts, the batch
    size or earlier answers.

    Attributes:
        seed: Any integer.
        temperature: Above 0; the logits are divided by it.
        top_p: In (0, 1]: sample from the smallest set of tokens whose probabilities reach it.
        keys: One text per prompt; prompts with different keys get different noise.
    """

    seed: int
    keys: Sequence[str]
    temperature: float = 1.0
    top_p: float = 1.0


class _Noise(LogitsProcessor):
    """Makes greedy decoding sample: argmax(log p + Gumbel noise) is distributed as p."""

    def __init__(self, sampling: Sampling, keys: Sequence[str], prompt_length: int) -> None:
        self.sampling, self.keys, self.prompt_length = sampling, keys, prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Adds noise to scores (B, V); the length of `input_ids` (B, T) gives the position."""
        scores = scores.float() / self.sampling.temperature
        if self.sampling.top_p < 1:
            ordered, places = scores.sort(dim=-1, descending=True)
            shares = ordered.softmax(-1)
            beyond = shares.cumsum(-1) - shares >= self.sampling.top_p  # the more probable tokens reach top_p
            scores = scores.masked_fill(beyond.scatter(-1, places, beyond), -torch.inf)
        step = input_ids.shape[1] - self.prompt_length
        noise = torch.stack([self._gumbel(key, step, scores.shape[-1]) for key in self.keys])  # (B, V)
        return scores + noise.to(scores.device)

    def _gumbel(self, key: str, step: int, size: int) -> Tensor:
        digest = hashlib.sha256(f"{self.sampling.seed} {step} {key}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        uniform = torch.rand(size, generator=generator, dtype=torch.float64).clamp_min(1e-300)
        return -(-uniform.log()).log().float()


def padding_id(tokenizer: Any, stops: Collection[int], model: Any) -> int:
    """The id of the padding token, or of an end token if the model has no embedding for it."""
    pad = tokenizer.pad_token_id
    return min(stops) if pad is None or pad >= embedded_ids(model) else int(pad)


def room_for_answers(model: Any, prompts: Sequence[Sequence[int]], wanted: int) -> int:
    """Number of new tokens after the longest prompt: `wanted`, or fewer if the learned positions do not suffice.

    Rotary position embeddings set no limit: the model can generate beyond its `max_position_embeddings`, although the
    text there is unreliable.

    Raises:
        EvaluationError: Not a single token fits.
    """
    limit, longest = learned_positions(model), max(map(len, prompts), default=0)
    if limit is not None and longest >= limit:
        raise EvaluationError(
            f"a prompt has {longest:,} tokens, and the model has learned {limit:,} positions: there is no room for an "
            "answer. Fix: a shorter prompt, or a model with a longer context"
        )
    return wanted if limit is None else min(wanted, limit - longest)


def prompts_without_room(model: Any, prompts: Sequence[Sequence[int]], wanted: int) -> list[int]:
    """Indices of the prompts after which fewer than `wanted` new tokens fit, by the rule of `room_for_answers`."""
    limit = learned_positions(model)
    return [] if limit is None else [at for at, ids in enumerate(prompts) if len(ids) + wanted > limit]


def continue_prompts(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    stop_ids: Collection[int],
    pad_id: int,
    *,
    batch_size: int = 64,
    max_new_tokens: int = 96,
    progress: Callable[[int], None] | None = None,
    sampling_seed: int | None = None,
    sampling: Sampling | None = None,
) -> list[Continuation]:
    """Continues each prompt until a stop token, greedily or by sampling at temperature 1; see `plain_decoding`.

    Args:
        model: A causal language model; its train/eval mode is restored.
        prompts: Token ids, at least one each; prompts of similar length share a batch.
        stop_ids: Ids that end an answer, at least one.
        pad_id: Any id; padding is masked.
        batch_size: Prompts per batch.
        max_new_tokens: Maximum number of new tokens; see also `room_for_answers`.
        progress: Called after each batch with its number of prompts.
        sampling_seed: None decodes greedily; a seed samples, reproducibly for the same prompts and batch size. The
            state of torch's generators is restored.
        sampling: Samples each continuation independently of the other prompts; not with `sampling_seed`.

    Returns:
        A continuation for each prompt, in order.
    """
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    found = [Continuation([], False)] * len(prompts)
    stops = sorted(stop_ids)
    sampled = sampling_seed is not None
    # eager: compiled layers would be recompiled for the cache
    with evaluating(model), plain_decoding(model), torch.compiler.set_stance("force_eager"):
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            with torch.random.fork_rng(enabled=sampled):
                if sampling_seed is not None:
                    torch.manual_seed(sampling_seed * 1_000_003 + start)
                noise = None
                if sampling is not None:
                    keys = [sampling.keys[index] for index in chosen]
                    noise = _Noise(sampling, keys, max(len(prompts[index]) for index in chosen))
                new = _continued(
                    model, [prompts[index] for index in chosen], stops, pad_id, max_new_tokens, sampled, noise
                )
            for index, ids in zip(chosen, new, strict=True):
                end = next((place for place, one in enumerate(ids) if one in stop_ids), None)
                found[index] = Continuation(ids[:end], end is not None)
            if progress is not None:
                progress(len(chosen))
    return found


def continue_with_trainer(
    trainer: Any,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    batch_size: int,
    sampling: Sampling | None = None,
) -> list[Continuation]:
    """Continues prompts with the model of a trainer, with the autocast of the training; see `continue_prompts`."""
    stops = end_of_turn_ids(trainer.processing_class)
    model = trainer.accelerator.unwrap_model(trainer.model)
    pad = padding_id(trainer.processing_class, stops, model)
    with trainer.compute_loss_context_manager():
        return continue_prompts(
            model,
            prompts,
            stops,
            pad,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            sampling=sampling,
        )


@torch.no_grad()
def _continued(
    model: PreTrainedModel,
    prompts: list[list[int]],
    stops: list[int],
    pad_id: int,
    max_new_tokens: int,
    sampled: bool,
    noise: _Noise | None,
) -> list[list[int]]:
    """New ids of one batch, including padding after the stop token."""
    longest = max(map(len, prompts))
    max_new_tokens = room_for_answers(model, prompts, max_new_tokens)
    ids = [[pad_id] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    output = model.generate(
        input_ids=torch.tensor(ids, device=model.device),  # (B, P)
        attention_mask=torch.tensor(mask, device=model.device),  # (B, P)
        do_sample=sampled,
        **({"temperature": 1.0, "top_k": 0, "top_p": 1.0} if sampled else {}),
        num_beams=1,
        **({} if noise is None else {"logits_processor": LogitsProcessorList([noise])}),
        max_new_tokens=max_new_tokens,
        eos_token_id=stops,
        pad_token_id=pad_id,
    )  # (B, P + N)
    return output[:, longest:].tolist()

"""The two passes of one IFT step, inside the model's own forward (Algorithm 1, arXiv:2405.11870v3).

`enable_residual(model)` lets a causal language model be called as `model(..., labels=labels, ift_step=Step(...))`.
Such a call runs the look-ahead pass (no gradient, dropout off) and the mixed pass, both through the backbone of the
module whose forward was called, so that DDP, FSDP2, PEFT and checkpointing see one ordinary forward. The mixing happens
at the output of the model's own input-embedding module: whatever it does (scaling, LoRA) is part of E.

Shape legend: B rows, T positions, H width, N trained positions, K look-ahead candidates.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from ift.functional import RowLayout, row_layout, temporal_residual
from ift.lookahead import LookAhead, look_ahead, look_ahead_uniforms, random_guess
from ift.support import check_architecture, check_head, evaluating, unwrapped, weights_at_hand
from ift.trl_internals import auxiliary_loss, head_of, scored_log_probs, tile_shape


@dataclass(frozen=True)
class Step:
    """How one step looks ahead and mixes; the fields mean what `IFTConfig`'s of the same names mean."""

    residual_lambda: float = 0.2
    lookahead: str = "greedy"
    lookahead_temperature: float = 1.0
    lookahead_top_k: int = 64
    seed: int = 0
    step: int = 0


@dataclass
class TokenScores(ModelOutput):
    """Scores of every position's token, each (B, T), indexed by the target token and 0 where nothing is trained.

    Args:
        losses: float32, -log pi(x_t | e_<t) under the mixed input; gradient flows.
        entropy: float32, of the prediction under the mixed input; no gradient.
        top1: bool, whether the target is the argmax under the mixed input.
        nll: float32, teacher-forced -log pi(x_t | x_<t); no gradient. With lambda 0 it is `losses`, detached.
        lookahead_ids: int64, the model's argmax under the target's prefix (the input's id where nothing is trained);
            None with lambda 0.
        lookahead_hits: bool, whether that argmax is the target.
        aux_loss: scalar, the experts' load-balancing loss of the mixed pass, unweighted; None if not asked for.
    """

    losses: Tensor = None  # type: ignore[assignment]
    entropy: Tensor = None  # type: ignore[assignment]
    top1: Tensor = None  # type: ignore[assignment]
    nll: Tensor = None  # type: ignore[assignment]
    lookahead_ids: Tensor | None = None
    lookahead_hits: Tensor = None  # type: ignore[assignment]
    aux_loss: Tensor | None = None


def enable_residual(model: nn.Module) -> None:
    """Teach the model's forward the argument `ift_step`; without it the forward is what it was. Idempotent.

    Raises:
        ValueError: the architecture cannot work with a mixed input, or its head is not the one IFT projects through;
            the message names it and says why.
    """
    check_architecture(model)  # at each call: an adapter may have been put around it since
    inner = unwrapped(model)
    if getattr(inner, "_ift_enabled", False):
        return
    original = inner.forward
    unbound = getattr(original, "__func__", None)  # a copy of the model must not run the forward of this one

    # keep the signature: generate() and Trainer read it
    @functools.wraps(type(inner).forward)
    def forward(self: Any, *args: Any, ift_step: Step | None = None, **kwargs: Any) -> Any:
        if ift_step is not None:
            return _two_passes(self, ift_step, **kwargs)
        return original(*args, **kwargs) if unbound is None else unbound(self, *args, **kwargs)

    if weights_at_hand(model):
        check_head(model)
        torch.clear_autocast_cache()  # as between the passes below
    inner.forward = types.MethodType(forward, inner)
    inner._ift_enabled = True


def _two_passes(
    model: Any,
    step: Step,
    *,
    input_ids: Tensor,
    labels: Tensor,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    output_router_logits: bool = False,
    **kwargs: Any,
) -> TokenScores:
    layout = row_layout(labels, attention_mask, position_ids)
    if position_ids is None and attention_mask is not None and bool((attention_mask[:, 0] == 0).any()):
        position_ids = layout.positions  # left padding: learned positions must not start counting in it
    inputs = {**kwargs, "input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
    if position_ids is not None:
        inputs["position_ids"] = position_ids
    head, targets = head_of(model), labels[layout.trained]  # targets: (N,)

    guess = None
    if step.residual_lambda > 0:
        with torch.no_grad(), evaluating(model):
            states = _predicting_states(model.base_model(**inputs)[0], layout, head.weight.device)  # (N, H)
            guess = look_ahead(
                states,
                head,
                targets.to(states.device),
                kind="greedy" if step.lookahead == "random" else step.lookahead,
                temperature=step.lookahead_temperature,
                top_k=step.lookahead_top_k,
                uniforms=_noise(step, input_ids, layout, states.device),
                tile=tile_shape(),
            )
            del states
            if step.lookahead == "random":  # the control of baselines.controls
                guess = _random(step, guess, input_ids, layout, targets, len(head.weight))
        torch.clear_autocast_cache()  # weights cast under no_grad carry no graph; the mixed pass must cast its own

    if output_router_logits:
        inputs["output_router_logits"] = True
    with _mixed_embeddings(model, layout, guess, step.residual_lambda):
        output = model.base_model(**inputs)
    states = _predicting_states(output.last_hidden_state, layout, head.weight.device)
    log_probs, entropy, top1 = scored_log_probs(states, head, targets.to(states.device))

    def placed(values: Tensor, fill: Tensor) -> Tensor:  # (N,) -> (B, T)
        return fill.masked_scatter(layout.trained, values.to(fill.device))

    zeros, never = labels.new_zeros(labels.shape, dtype=torch.float32), torch.zeros_like(layout.trained)
    return TokenScores(
        losses=placed(-log_probs, zeros),
        entropy=placed(entropy.detach(), zeros),
        top1=placed(top1, never),
        nll=placed(-log_probs.detach() if guess is None else guess.nll, zeros),
        lookahead_ids=None if guess is None else placed(guess.top1, input_ids),
        lookahead_hits=placed(top1 if guess is None else guess.top1 == targets.to(guess.top1.device), never),
        aux_loss=auxiliary_loss(model, output.router_logits, attention_mask)
        if output_router_logits
        else None,
    )


def _predicting_states(hidden: Tensor, layout: RowLayout, device: torch.device) -> Tensor:
    """The states (N, H) that predict the trained positions, from all states (B, T, H)."""
    return hidden[:, :-1][layout.trained[:, 1:]].to(device)


def _noise(step: Step, input_ids: Tensor, layout: RowLayout, device: torch.device) -> Tensor | None:
    if step.lookahead != "sample":
        return None
    return look_ahead_uniforms(input_ids, layout, step.seed, step.step)[layout.trained].to(device)


def _random(
    step: Step, guess: LookAhead, input_ids: Tensor, layout: RowLayout, targets: Tensor, vocabulary: int
) -> LookAhead:
    device = guess.top1.device
    seeds = (step.seed, step.seed + 7_919)  # one noise for the places, one for the tokens
    noise = [look_ahead_uniforms(input_ids, layout, seed, step.step)[layout.trained] for seed in seeds]
    documents = layout.documents[layout.trained].to(device)
    return random_guess(guess, targets.to(device), documents, torch.stack(noise).to(device), vocabulary)


@contextmanager
def _mixed_embeddings(
    model: Any, layout: RowLayout, guess: LookAhead | None, residual_lambda: float
) -> Iterator[None]:
    """While open, one call of the input-embedding module returns Eq. 17's mix at the trained positions.

    The ids of the guesses are appended to the module's own input, so that it runs once, with whatever hooks wrappers
    have put on it; its output is cut again and mixed. Gradient reaches E(x_t) and E(p_t).
    """
    if guess is None:
        yield
        return
    rows, columns = layout.trained.shape
    extra, place = (
        guess.ids.unique(return_inverse=True) if guess.ids.shape[1] > 1 else (guess.ids[:, 0], None)
    )
    calls: list[bool] = []

    def append_guesses(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        ids = args[0]
        if calls or ids.shape != (rows, columns):
            raise ValueError(
                f"{type(model).__name__} embeds its input ids more than once or in another shape: IFT cannot mix them."
            )
        calls.append(True)
        return (torch.cat([ids.flatten(), extra.to(ids.device)])[None], *args[1:])  # (1, B T + U)

    def mix(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        own, guessed = output[0, : rows * columns], output[0, rows * columns :]  # (B T, H), (U, H)
        if place is not None:  # the expected look-ahead: sum_k p_k E(v_k) without a (N, K, H) tensor
            weights = guess.probabilities.to(guessed)
            guessed = nn.functional.embedding_bag(
                place.to(guessed.device), guessed, mode="sum", per_sample_weights=weights
            )  # (N, H)
        where = layout.trained.flatten().to(own.device)
        mixed = temporal_residual(own[where], guessed, residual_lambda)
        return own.masked_scatter(where[:, None], mixed.to(own.dtype)).view(rows, columns, -1)

    embedding = model.get_input_embeddings()
    hooks = embedding.register_forward_pre_hook(append_guesses), embedding.register_forward_hook(mix)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    if not calls:
        raise ValueError(
            f"{type(model).__name__} did not use its input-embedding module: IFT cannot mix its input."
        )

"""The two passes of one IFT step, inside the model's own forward (Algorithm 1, arXiv:2405.11870v3).

`enable_residual(model)` lets a causal language model be called as `model(..., labels=labels, ift_step=Step(...))`.
Such a call runs the look-ahead pass (no gradient, dropout off) and the mixed pass, both through the backbone of the
module whose forward was called, so that DDP, FSDP2, PEFT and checkpointing see one ordinary forward. What both passes
have in common is computed once where that is exact (`shared_prefix`); `FullRows` is the plain way.

Shape legend: B rows, T positions, H width, N trained positions, K look-ahead candidates.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ift.step.equations import propagated_loss
from ift.step.lookahead import Head, LookAhead, look_ahead, look_ahead_uniforms, random_guess
from ift.step.mixed_input import mixed_embeddings
from ift.step.model import auxiliary_loss, evaluating, unwrapped, weights_at_hand, with_head
from ift.step.model_checks import check_architecture, check_head
from ift.step.result import IFTLoss, TokenScores
from ift.step.rows import RowLayout, row_layout
from ift.step.scored_log_probs import scored_log_probs, tile_shape
from ift.step.shared_prefix.prefix import SharedPrefix, shared_prefix


@dataclass(frozen=True)
class Step:
    """How one step looks ahead and mixes; the fields mean what `IFTConfig`'s of the same names mean."""

    residual_lambda: float = 0.2
    lookahead: str = "greedy"
    lookahead_temperature: float = 1.0
    lookahead_top_k: int = 64
    seed: int = 0
    step: int = 0
    lookahead_prefix: str = "auto"


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


@torch.compiler.disable  # its hooks and counts break a graph twenty times; blocks compiled in place stay compiled
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
    inputs = {**kwargs, "input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
    if position_ids is not None:
        inputs["position_ids"] = position_ids
    passes = _passes(model, step, inputs, layout, output_router_logits)
    targets = layout.at_trained(labels)  # (N,)
    device = model.get_output_embeddings().weight.device

    guess = None
    if step.residual_lambda > 0:
        guess = _guess(step, passes, device, input_ids, labels, layout)

    def placed(values: Tensor, fill: Tensor) -> Tensor:  # (N,) -> (B, T)
        places = layout.places.to(fill.device)
        return fill.flatten().index_put((places,), values.to(fill.device)).view_as(fill)

    zeros, never = labels.new_zeros(labels.shape, dtype=torch.float32), torch.zeros_like(layout.trained)
    found: dict[str, Any] = {"layout": layout}
    if guess is not None:
        hits = guess.top1 == targets.to(guess.top1.device)
        found |= {"lookahead_ids": placed(guess.top1, input_ids), "lookahead_hits": placed(hits, never)}
        found |= {"nll": placed(guess.nll, zeros), "shared_prefix": passes.shared}
    states, router_logits = passes.mixed_states(guess, step.residual_lambda)
    states, targets = states.to(device), targets.to(device)
    log_probs, entropy, top1 = with_head(
        model, lambda head, states: scored_log_probs(states, head, targets), states
    )
    found |= {
        "losses": placed(-log_probs, zeros),
        "entropy": placed(entropy, zeros),
        "top1": placed(top1, never),
    }
    if guess is None:
        found |= {"nll": found["losses"].detach(), "lookahead_hits": found["top1"]}
    if output_router_logits:
        found["aux_loss"] = auxiliary_loss(model, router_logits, passes.attention_mask)
    return TokenScores(**found)


def _guess(
    step: Step,
    passes: FullRows | SharedPrefix,
    device: torch.device,
    input_ids: Tensor,
    labels: Tensor,
    layout: RowLayout,
) -> LookAhead:
    """What is mixed in at each trained position: the model's look-ahead."""
    targets = layout.at_trained(labels)

    def guessed(head: Head, states: Tensor) -> LookAhead:
        guess = look_ahead(
            states,
            head,
            targets.to(device),
            kind="greedy" if step.lookahead == "random" else step.lookahead,
            temperature=step.lookahead_temperature,
            top_k=step.lookahead_top_k,
            uniforms=_noise(step, input_ids, layout, device),
            tile=tile_shape(len(states), device),
        )
        if step.lookahead == "random":  # the control of methods.controls
            return _random(step, guess, input_ids, layout, targets, len(head.weight))
        return guess

    with torch.no_grad(), evaluating(passes.model):
        states = passes.look_ahead_states().to(device)  # (N, H)
        guess: LookAhead = with_head(passes.model, guessed, states)
    torch.clear_autocast_cache()  # weights cast under no_grad carry no graph; the mixed pass must cast its own
    return guess


class FullRows:
    """The passes of one step over whole rows, each a call of the backbone on all T positions.

    Args:
        model: the causal language model, unwrapped.
        inputs: of the backbone: `input_ids` (B, T), `attention_mask` (B, T) or None, and whatever else it takes.
        layout: of the batch.
        router_logits: whether the mixed pass must give the experts' router logits.
    """

    shared = False

    def __init__(self, model: Any, inputs: dict[str, Any], layout: RowLayout, router_logits: bool) -> None:
        self.model, self.inputs, self.layout = model, dict(inputs), layout
        self.asked = {"output_router_logits": True} if router_logits else {}
        self.attention_mask = inputs["attention_mask"]
        padded = self.attention_mask is not None and bool((self.attention_mask[:, 0] == 0).any())
        if "position_ids" not in inputs and padded:
            # learned positions must not start counting in left padding
            self.inputs["position_ids"] = layout.positions

    def look_ahead_states(self) -> Tensor:
        """(N, H) states under the target's own prefix. To be called without gradient and in evaluation mode."""
        return self._predicting(self.model.base_model(**self.inputs)[0])

    def mixed_states(self, guess: LookAhead | None, residual_lambda: float) -> tuple[Tensor, Any]:
        """(N, H) states under the mixed input, with gradient, and the router logits of all tokens if asked for."""
        with mixed_embeddings(self.model, self.layout.trained, guess, residual_lambda):
            output = self.model.base_model(**self.inputs, **self.asked)
        return self._predicting(output[0]), output.router_logits if self.asked else None

    def _predicting(self, hidden: Tensor) -> Tensor:
        """The states (N, H) that predict the trained positions, from all states (B, T, H)."""
        return hidden.flatten(0, 1).index_select(0, self.layout.places.to(hidden.device) - 1)


def _passes(
    model: Any, step: Step, inputs: dict[str, Any], layout: RowLayout, router_logits: bool
) -> FullRows | SharedPrefix:
    """How this step runs its rows; where there is one pass there is nothing to share."""
    ways = ("auto", "shared") if inputs["input_ids"].device.type == "cpu" else ("shared",)
    if step.residual_lambda > 0 and step.lookahead_prefix in ways:
        shared = shared_prefix(model, inputs, layout, router_logits, step.lookahead != "expected")
        if shared is not None:
            return shared
    return FullRows(model, inputs, layout, router_logits)


def _noise(step: Step, input_ids: Tensor, layout: RowLayout, device: torch.device) -> Tensor | None:
    if step.lookahead != "sample":
        return None
    return layout.at_trained(look_ahead_uniforms(input_ids, layout, step.seed, step.step)).to(device)


def _random(
    step: Step, guess: LookAhead, input_ids: Tensor, layout: RowLayout, targets: Tensor, vocabulary: int
) -> LookAhead:
    device = guess.top1.device
    seeds = (step.seed, step.seed + 7_919)  # one noise for the places, one for the tokens
    noise = [layout.at_trained(look_ahead_uniforms(input_ids, layout, seed, step.step)) for seed in seeds]
    documents = layout.at_trained(layout.documents).to(device)
    return random_guess(guess, targets.to(device), documents, torch.stack(noise).to(device), vocabulary)


def ift_loss(
    model: nn.Module,
    batch: Mapping[str, Any],
    *,
    residual_lambda: float = 0.2,
    lookahead: str = "greedy",
    lookahead_temperature: float = 1.0,
    lookahead_top_k: int = 64,
    lookahead_prefix: str = "auto",
    propagation: str = "bellman",
    propagation_gamma: float = 0.95,
    propagation_detach: str = "scale",
    loss_reduction: str = "sequence",
    num_items: Tensor | float | None = None,
    seed: int = 0,
    step: int = 0,
) -> IFTLoss:
    """The IFT loss of a batch (Algorithm 1, arXiv:2405.11870v3). Call `.loss.backward()` on what it returns.

    Args:
        model: a causal language model of transformers, bare or wrapped (PEFT, DDP, FSDP2).
        batch: `input_ids` (B, T) int64 and `labels` (B, T) int64 with -100 where nothing is learned; optionally
            `attention_mask` (B, T), and `position_ids` for packed rows (then without a mask). Further entries go to
            the model.
        residual_lambda: share of the guess in the input, in [0, 1]; 0 skips the look-ahead pass.
        lookahead: the guess: "greedy", "sample" or "expected".
        lookahead_temperature: > 0, of "sample" and "expected".
        lookahead_top_k: candidates of "expected".
        lookahead_prefix: "shared" computes what precedes the first trained token once for both passes, where that is
            exact; "full" computes it twice; "auto" shares on a CPU. Loss and gradient are the same.
        propagation: the weights: "bellman", "cumsum" or "none".
        propagation_gamma: decay in (0, 1].
        propagation_detach: what of the bellman weights carries no gradient: their "scale" (Algorithm 1 as printed),
            "none" (the released code) or the "weights" as a whole.
        loss_reduction: "sequence" or "token".
        num_items: rows ("sequence") or trained tokens ("token") of the global batch; None counts this batch.
        seed: of the sampled look-ahead's noise.
        step: optimiser step, for the same noise.

    Raises:
        ValueError: the model cannot be trained with IFT; the message says why.
    """
    enable_residual(model)
    how = Step(
        residual_lambda, lookahead, lookahead_temperature, lookahead_top_k, seed, step, lookahead_prefix
    )
    scores: TokenScores = model(**batch, ift_step=how)
    losses, layout = scores.losses, scores.layout
    how_far = (propagation, propagation_gamma, propagation_detach, loss_reduction)
    loss, weights, gradient = propagated_loss(losses, layout, *how_far, num_items)
    return IFTLoss(loss, weights, gradient, scores, layout)

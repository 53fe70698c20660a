"""One step of Intuitive Fine-Tuning (Algorithm 1, arXiv:2405.11870v3).

`enable_residual` patches the model's forward once; `ift_loss` then calls the model with the settings of the step as one
more argument. The patched forward runs
the look-ahead pass (no gradient, dropout off) and the mixed pass through the backbone of the module that was called, so
that DDP, FSDP2, PEFT and checkpointing see one ordinary forward. `FullRows` runs both passes over whole rows;
`shared_prefix` computes what they have in common once, where that is exact.

Shape legend: B rows, T positions, H width, N trained positions.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from ift.step.equations import TokenWeights, propagated_loss
from ift.step.lookahead import LookAhead, look_ahead
from ift.step.lookahead_variants import look_ahead_uniforms
from ift.step.mixed_input import mixed_embeddings
from ift.step.model import auxiliary_loss, evaluating, has_weights, unwrapped, with_head
from ift.step.model_checks import check_architecture, check_head
from ift.step.result import IFTLoss, TokenScores
from ift.step.rows import RowLayout, row_layout
from ift.step.scored_log_probs import scored_log_probs, tile_shape
from ift.step.settings import SettingOverrides, StepSettings
from ift.step.shared_prefix.prefix import SharedPrefix, shared_prefix

# from the model's guess, the input ids (B, T), the layout and the settings to a guess of the same shapes
ChangeGuess = Callable[[LookAhead, Tensor, RowLayout, StepSettings], LookAhead]


def ift_loss(
    model: nn.Module,
    batch: Mapping[str, Any],
    settings: StepSettings | None = None,
    *,
    num_items: Tensor | float | None = None,
    change_guess: ChangeGuess | None = None,
    token_weights: TokenWeights | None = None,
    **overrides: Unpack[SettingOverrides],
) -> IFTLoss:
    """The IFT loss of a batch (Algorithm 1, arXiv:2405.11870v3). Call `.loss.backward()` on what it returns.

    Args:
        model: a causal language model of transformers, bare or wrapped (PEFT, DDP, FSDP2).
        batch: `input_ids` (B, T) int64 and `labels` (B, T) int64 with -100 where nothing is learned; optionally
            `attention_mask` (B, T), and `position_ids` for packed rows (then without a mask). Further entries go to
            the model.
        settings: the method's settings; None takes the defaults.
        num_items: documents (`loss_reduction` "sequence") or trained tokens ("token") of the global batch; None counts
            this batch.
        change_guess: for experiments: replaces the model's guess before it is mixed in.
        token_weights: for experiments: gives the weights of the token losses in place of the propagation.
        **overrides: any field of `StepSettings` by name: `ift_loss(model, batch, residual_lambda=0.3, step=step)`.

    Raises:
        ValueError: a setting out of range, or a model that cannot be trained with IFT; the message says why.
    """
    settings = replace(settings or StepSettings(), **overrides)
    enable_residual(model)
    scores: TokenScores = model(**batch, ift_step=_Step(settings, change_guess))
    loss, weights, gradient = propagated_loss(
        scores.losses, scores.layout, settings, num_items, token_weights
    )
    return IFTLoss(loss, weights, gradient, scores, scores.layout)


# --- The two passes, inside the model's forward -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Step:
    """What `ift_loss` hands to the model's forward."""

    settings: StepSettings
    change_guess: ChangeGuess | None


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
    def forward(self: Any, *args: Any, ift_step: _Step | None = None, **kwargs: Any) -> Any:
        if ift_step is not None:
            return _two_passes(self, ift_step, **kwargs)
        return original(*args, **kwargs) if unbound is None else unbound(self, *args, **kwargs)

    if has_weights(model):
        check_head(model)
        torch.clear_autocast_cache()  # as between the passes below
    inner.forward = types.MethodType(forward, inner)
    inner._ift_enabled = True


# its hooks and data-dependent shapes break a graph some twenty times; blocks that are compiled in place stay so
@torch.compiler.disable
def _two_passes(
    model: Any,
    step: _Step,
    *,
    input_ids: Tensor,
    labels: Tensor,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    output_router_logits: bool = False,
    **kwargs: Any,
) -> TokenScores:
    """The scores of every trained token (N of them) under the mixed input."""
    settings, layout = step.settings, row_layout(labels, attention_mask, position_ids)
    inputs = {**kwargs, "input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
    if position_ids is not None:
        inputs["position_ids"] = position_ids
    passes = _passes(model, settings, inputs, layout, output_router_logits)
    device = model.get_output_embeddings().weight.device
    targets = layout.at_trained(labels).to(device)  # x_t (N,)

    # 1. The look-ahead: p_t = argmax_v pi(v | x_<t). With lambda 0 nothing is mixed in
    guess = None
    if settings.residual_lambda > 0:
        guess = _guess(step, passes, input_ids, targets, layout)
    # 2. and 3. The forward from e_t = (1 - lambda) E(x_t) + lambda E(p_t) (Eq. 17): l_t = -log pi(x_t | e_<t)
    states, router_logits = passes.mixed_states(guess, settings.residual_lambda)  # (N, H)
    log_probs, entropy, top1 = with_head(
        model, lambda head, states: scored_log_probs(states, head, targets), states.to(device)
    )

    zeros, all_false = labels.new_zeros(labels.shape, dtype=torch.float32), torch.zeros_like(layout.trained)
    losses, top1 = layout.scatter(-log_probs, zeros), layout.scatter(top1, all_false)  # (B, T)
    nll, hits, ids, shared = losses.detach(), top1, None, None  # without a look-ahead
    if guess is not None:
        nll, ids = layout.scatter(guess.nll, zeros), layout.scatter(guess.top1, input_ids)
        shared, hits = passes.shared, layout.scatter(guess.top1 == targets, all_false)
    aux_loss = auxiliary_loss(model, router_logits, passes.attention_mask) if output_router_logits else None
    return TokenScores(
        losses=losses,
        entropy=layout.scatter(entropy, zeros),
        top1=top1,
        nll=nll,
        lookahead_ids=ids,
        lookahead_hits=hits,
        aux_loss=aux_loss,
        shared_prefix=shared,
        layout=layout,
    )


def _guess(
    step: _Step,
    passes: FullRows | SharedPrefix,
    input_ids: Tensor,
    targets: Tensor,
    layout: RowLayout,
) -> LookAhead:
    """What is mixed in at the N trained positions: the model's own look-ahead, or what an experiment makes of it."""
    settings, uniforms = step.settings, None
    with torch.no_grad(), evaluating(passes.model):
        states = passes.look_ahead_states().to(targets.device)  # (N, H)
        if settings.lookahead == "sample":
            noise = look_ahead_uniforms(input_ids, layout, settings.seed, settings.step)  # (B, T)
            uniforms = layout.at_trained(noise).to(states.device)
        tile = tile_shape(len(states), states.device)
        guess = with_head(
            passes.model,
            lambda head, states: look_ahead(states, head, targets, settings, uniforms, tile),
            states,
        )
        if step.change_guess is not None:
            guess = step.change_guess(guess, input_ids, layout, settings)
    torch.clear_autocast_cache()  # weights cast under no_grad carry no graph; the mixed pass must cast its own
    return guess


def _passes(
    model: Any, settings: StepSettings, inputs: dict[str, Any], layout: RowLayout, router_logits: bool
) -> FullRows | SharedPrefix:
    """`SharedPrefix` or `FullRows`, by `lookahead_prefix`: "auto" shares on a CPU. Lambda 0 needs one pass only."""
    on_cpu = inputs["input_ids"].device.type == "cpu"
    share = settings.lookahead_prefix == "shared" or (settings.lookahead_prefix == "auto" and on_cpu)
    if settings.residual_lambda > 0 and share:
        shared = shared_prefix(model, inputs, layout, router_logits, settings.lookahead != "expected")
        if shared is not None:
            return shared
    return FullRows(model, inputs, layout, router_logits)


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
        self.router_logits = {"output_router_logits": True} if router_logits else {}
        self.attention_mask = inputs["attention_mask"]
        if "position_ids" not in inputs and layout.facts[1]:
            # learned positions must not start counting in left padding
            self.inputs["position_ids"] = layout.positions

    def look_ahead_states(self) -> Tensor:
        """(N, H) states under the target's own prefix. To be called without gradient and in evaluation mode."""
        return self._predicting(self.model.base_model(**self.inputs)[0])

    def mixed_states(self, guess: LookAhead | None, residual_lambda: float) -> tuple[Tensor, Any]:
        """(N, H) states under the mixed input, with gradient, and the router logits of all tokens if asked for."""
        trained = self.layout.trained
        with mixed_embeddings(
            self.model, trained.shape, self.layout.trained_positions, guess, residual_lambda
        ):
            output = self.model.base_model(**self.inputs, **self.router_logits)
        return self._predicting(output[0]), output.router_logits if self.router_logits else None

    def _predicting(self, hidden: Tensor) -> Tensor:
        """The states (N, H) that predict the trained positions, from all states (B, T, H)."""
        return hidden.flatten(0, 1).index_select(0, self.layout.trained_positions.to(hidden.device) - 1)

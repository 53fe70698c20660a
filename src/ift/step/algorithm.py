"""One step of Intuitive Fine-Tuning (Algorithm 1, arXiv:2405.11870v3): `ift_loss` and the two passes that it runs.

`ift_loss` calls the model with the additional argument `ift_step`, which `enable_residual` adds to its forward. This
call runs the look-ahead pass (no gradient, dropout off) and the mixed pass (Eq. 17) through the backbone, so that DDP,
FSDP2, PEFT and gradient checkpointing see one ordinary forward. `FullRows` runs both passes over whole rows.
`SharedPrefix` gives the same results, and computes the tokens before the first trained one only once.

Shape legend: B rows, T positions, H width, N trained positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from ift.step.equations import TokenWeights, name_of, propagated_loss
from ift.step.forward import add_forward_argument
from ift.step.head import Head
from ift.step.lookahead import LookAhead, look_ahead
from ift.step.lookahead_variants import look_ahead_uniforms
from ift.step.mixed_input import mixed_embeddings
from ift.step.model import auxiliary_loss, evaluating, keep_quantised_layout, with_head
from ift.step.result import IFTLoss, TokenScores
from ift.step.rows import RowLayout, row_layout
from ift.step.scored_log_probs import scored_log_probs, tile_shape
from ift.step.settings import SettingOverrides, StepSettings
from ift.step.shared_prefix.prefix import SharedPrefix, shared_prefix
from ift.step.shared_prefix.work import LEAST_WORK
from ift.text import did_you_mean

# from the model's guess, the input ids (B, T), the layout and the settings to a guess of the same shapes
ChangeGuess = Callable[[LookAhead, Tensor, RowLayout, StepSettings], LookAhead]
# as `scored_log_probs`
ScoreTokens = Callable[[Tensor, Head, Tensor], tuple[Tensor, Tensor, Tensor]]


_KNOWN = "; the fields of ift.step.StepSettings are its settings."


def ift_loss(
    model: nn.Module,
    batch: Mapping[str, Any],
    settings: StepSettings | None = None,
    *,
    num_items: Tensor | float | None = None,
    change_guess: ChangeGuess | None = None,
    token_weights: TokenWeights | None = None,
    score_tokens: ScoreTokens | None = None,
    **overrides: Unpack[SettingOverrides],
) -> IFTLoss:
    """The IFT loss of a batch (Algorithm 1, arXiv:2405.11870v3). Call `.loss.backward()` on what it returns.

    Args:
        model: a causal language model of transformers, bare or wrapped (PEFT, DDP, FSDP2).
        batch: `input_ids` (B, T) int64 and `labels` (B, T) int64 with -100 where nothing is learned; optionally
            `attention_mask` (B, T), and `position_ids` for packed rows (then without a mask). Further entries go to
            the model.
        settings: the method's settings; None takes the defaults.
        num_items: what the loss is divided by: the documents (`loss_reduction` "sequence") or trained tokens ("token")
            of the global batch; None counts those of this batch.
        change_guess: for experiments: replaces the model's guess before it is mixed in.
        token_weights: for experiments: gives the weights of the token losses in place of the propagation.
        score_tokens: for experiments: gives the log-probabilities of the targets in place of `scored_log_probs`.
        **overrides: any field of `StepSettings` by name: `ift_loss(model, batch, residual_lambda=0.3, step=step)`.

    Raises:
        TypeError: a setting that does not exist; the message has the likely one.
        ValueError: a setting out of range, or of the propagation beside `token_weights`, or a model that cannot be
            trained with IFT; the message says why.
    """
    _check_names(overrides, token_weights)
    settings = replace(settings or StepSettings(), **overrides)
    enable_residual(model)
    scores: TokenScores = model(
        **batch, ift_step=_Step(settings, change_guess, score_tokens or scored_log_probs)
    )
    loss, weights, gradient = propagated_loss(
        scores.losses, scores.layout, settings, num_items, token_weights
    )
    return IFTLoss(loss, weights, gradient, scores, scores.layout)


def _check_names(overrides: Mapping[str, Any], token_weights: TokenWeights | None) -> None:
    """Refuses settings by name as `IFTConfig` does: unknown ones, and those that `token_weights` takes the place of."""
    known = [one.name for one in fields(StepSettings)]
    unknown = [name for name in overrides if name not in known]
    if unknown:
        lines = (
            f"ift_loss: unknown setting {name!r}{did_you_mean(name, known) or _KNOWN}" for name in unknown
        )
        raise TypeError("\n".join(lines))
    changed = [name for name in overrides if overrides[name] != getattr(StepSettings, name)]
    if token_weights is not None and any(name.startswith("propagation") for name in changed):
        raise ValueError(
            f"token_weights {name_of(token_weights)} takes the place of the propagation. Leave propagation, "
            "propagation_gamma and propagation_detach at their defaults."
        )


# --- The two passes, inside the model's forward -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Step:
    """The value of the argument `ift_step`."""

    settings: StepSettings
    change_guess: ChangeGuess | None
    score_tokens: ScoreTokens


def enable_residual(model: nn.Module) -> None:
    """Adds the argument `ift_step` to the model's forward, which is otherwise unchanged. Idempotent.

    Raises:
        ValueError: the model cannot be trained with IFT; the message names it and says why.
    """
    add_forward_argument(model, "ift_step", _two_passes)
    keep_quantised_layout(model)


# hooks and data-dependent shapes would break the graph about twenty times; layers compiled in place stay compiled
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
        model, lambda head, states: step.score_tokens(states, head, targets), states.to(device)
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
    """The guess that is mixed in at the N trained positions: the model's own, or that of `change_guess`."""
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
    """`SharedPrefix` if `lookahead_prefix` and the batch allow it ("auto": where it saves time), else `FullRows`."""
    least_work = {"shared": 0.0, "auto": LEAST_WORK.get(inputs["input_ids"].device.type)}
    least = least_work.get(settings.lookahead_prefix)
    if settings.residual_lambda > 0 and least is not None:
        one_guess = settings.lookahead != "expected"
        shared = shared_prefix(model, inputs, layout, router_logits, one_guess, least)
        if shared is not None:
            return shared
    return FullRows(model, inputs, layout, router_logits)


class FullRows:
    """The passes of one step over whole rows, each a call of the backbone on all T positions.

    Args:
        model: the causal language model, unwrapped.
        inputs: of the backbone: `input_ids` (B, T), `attention_mask` (B, T) or None, and its other arguments.
        layout: of the batch.
        router_logits: whether the mixed pass returns the router logits of a mixture of experts.
    """

    shared = False

    def __init__(self, model: Any, inputs: dict[str, Any], layout: RowLayout, router_logits: bool) -> None:
        self.model, self.inputs, self.layout = model, dict(inputs), layout
        self.router_logits = {"output_router_logits": True} if router_logits else {}
        self.attention_mask = inputs["attention_mask"]
        if "position_ids" not in inputs and layout.facts[1]:
            # otherwise a model with learned positions would count left padding
            self.inputs["position_ids"] = layout.positions

    def look_ahead_states(self) -> Tensor:
        """(N, H) hidden states, given the target's prefix. Call it without gradient and in evaluation mode."""
        return self._predicting(self.model.base_model(**self.inputs)[0])

    def mixed_states(self, guess: LookAhead | None, residual_lambda: float) -> tuple[Tensor, Any]:
        """(N, H) hidden states, given the mixed input, with gradient; and all tokens' router logits if requested."""
        shape, positions = self.layout.trained.shape, self.layout.trained_positions
        with mixed_embeddings(self.model, shape, positions, guess, residual_lambda):
            output = self.model.base_model(**self.inputs, **self.router_logits)
        return self._predicting(output[0]), output.router_logits if self.router_logits else None

    def _predicting(self, hidden: Tensor) -> Tensor:
        """The hidden states (N, H) that predict the trained positions, from those of all positions (B, T, H)."""
        return hidden.flatten(0, 1).index_select(0, self.layout.trained_positions.to(hidden.device) - 1)

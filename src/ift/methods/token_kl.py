"""Per-token log-probabilities of policy and reference, and their KL divergence, without storing an (N, V) tensor.

After `enable_token_kl(model)`, the policy is called as `model(..., labels=labels, token_kl=Reference(...))`, and the
reference as `model(..., labels=labels, token_kl=STATES)`; DDP, PEFT and checkpointing see ordinary forward calls.
Soft-capping, scaling and bias of the head are applied (`step.model.head_of`).

Shape legend: B rows, T positions, H width, V vocabulary, N response positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.utils import ModelOutput

from ift.labels import IGNORED
from ift.step.forward import add_forward_argument
from ift.step.head import Head
from ift.step.model import auxiliary_loss, head_of

ROWS_OF_A_CHUNK = 1024
STATES = "states"  # value of `token_kl` that returns the hidden states of the reference


@dataclass(frozen=True)
class Reference:
    """The reference model's input to the policy's forward; no gradient flows to it.

    Attributes:
        states: (N, H), the hidden states that predict the response tokens.
        head: The reference's head.
    """

    states: Tensor
    head: Head


@dataclass
class TokenKL(ModelOutput):
    """Scores of each token, (B, T), at the position of the token and 0 outside responses.

    Args:
        log_probs: float32, log pi(x_t | x_<t) of the policy; with gradient.
        reference_log_probs: float32, the same for the reference; no gradient.
        kl: float32, KL(reference || policy) of the next-token distribution; gradient flows to the policy.
        aux_loss: Scalar, the unweighted load-balancing loss of the experts; None unless requested.
    """

    log_probs: Tensor = None  # type: ignore[assignment]
    reference_log_probs: Tensor = None  # type: ignore[assignment]
    kl: Tensor = None  # type: ignore[assignment]
    aux_loss: Tensor | None = None


@dataclass
class ResponseStates(ModelOutput):
    """`states` (N, H), those that predict the response tokens."""

    states: Tensor = None  # type: ignore[assignment]


def token_kl(
    states: Tensor, head: Head, reference: Reference, targets: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of the targets under policy and reference, and KL(reference || policy): three (N,) float32.

    The (chunk, V) logits of `ROWS_OF_A_CHUNK` positions at a time are recomputed in the backward pass. Gradient flows
    to `states` and the policy's head only.

    Args:
        states: (N, H) of the policy.
        head: The policy's head.
        reference: With N states.
        targets: (N,) int64.
    """
    other = reference.head
    bias = None if other.bias is None else other.bias.detach()
    detached = Head(other.weight.detach(), bias, other.scale, other.softcap)
    parts = [
        checkpoint(
            _chunk, states[at], head, reference.states[at].detach(), detached, targets[at], use_reentrant=False
        )
        for at in (slice(n, n + ROWS_OF_A_CHUNK) for n in range(0, max(len(states), 1), ROWS_OF_A_CHUNK))
    ]  # fmt: skip
    first, second, third = (torch.cat(list(column)) for column in zip(*parts, strict=True))
    return first, second, third


def _chunk(
    states: Tensor, head: Head, reference_states: Tensor, reference_head: Head, targets: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    vocabulary = len(head.weight)
    policy = head.logits(states, 0, vocabulary).log_softmax(-1)  # (n, V)
    with torch.no_grad():
        reference = reference_head.logits(reference_states, 0, vocabulary).log_softmax(-1)
    at = targets[:, None]
    return (
        policy.gather(1, at)[:, 0],
        reference.gather(1, at)[:, 0],
        (reference.exp() * (reference - policy)).sum(-1),
    )


def enable_token_kl(model: nn.Module) -> None:
    """Adds the argument `token_kl` to the model's forward, which is otherwise unchanged. Idempotent.

    Raises:
        ValueError: The model's head cannot be applied outside its forward; the message names it.
    """
    add_forward_argument(model, "token_kl", _scored)


def _scored(
    model: Any,
    reference: Reference | str,
    *,
    labels: Tensor,
    output_router_logits: bool = False,
    attention_mask: Tensor | None = None,
    **inputs: Any,
) -> Any:
    if output_router_logits:
        inputs["output_router_logits"] = True
    output = model.base_model(**inputs, attention_mask=attention_mask)
    head = head_of(model)
    scored = labels != IGNORED
    scored[:, 0] = False  # nothing predicts the first token
    states = output.last_hidden_state[:, :-1][scored[:, 1:]].to(head.weight.device)  # (N, H)
    if not isinstance(reference, Reference):
        return ResponseStates(states=states)
    found = token_kl(states, head, reference, labels[scored].to(states.device))
    zeros = labels.new_zeros(labels.shape, dtype=torch.float32)
    placed = [zeros.masked_scatter(scored, values.to(zeros.device)) for values in found]  # (N,) -> (B, T)
    aux = auxiliary_loss(model, output.router_logits, attention_mask) if output_router_logits else None
    return TokenKL(log_probs=placed[0], reference_log_probs=placed[1], kl=placed[2], aux_loss=aux)

"""What is trained in the regimes: methods, controls, and variants of IFT that have no place in the package.

A variant is a function that gets the trainer before its first step and sets one of the three functions that
`ift.step.ift_loss` takes in place of a part of the method, or replaces the trainer's loss.

Shape legend: B rows, T positions, V vocabulary, H width, N trained positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import token_weights
import torch
from torch import Tensor

from ift.step.algorithm import FullRows
from ift.step.equations import propagation_weights, suffix_sums
from ift.step.lookahead import LookAhead, look_ahead
from ift.step.model import evaluating, head_of, unwrapped
from ift.step.rows import RowLayout
from ift.step.settings import StepSettings

GAMMA = token_weights.GAMMA


@dataclass(frozen=True)
class Contender:
    """A method with its settings.

    Attributes:
        method: Of `ift train`.
        settings: Beyond those of the regime.
        change: Called with the trainer before its first step.
        more_steps: Times the regime's steps.
        faster: Times the regime's learning rate.
        best_step: Whether the weights of the step with the best validation score are kept (early stopping).
    """

    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    change: Callable[[Any], None] | None = None
    more_steps: float = 1.0
    faster: float = 1.0
    best_step: bool = False


# --- The look-ahead -------------------------------------------------------------------------------------------------


def mixed_where_sure(trainer: Any) -> None:
    """Lambda times the probability of the guess, for each token; needs `lookahead` "expected".

    The probability is that among the `lookahead_top_k` most probable tokens.
    """

    def change(guess: LookAhead, input_ids: Tensor, layout: RowLayout, settings: StepSettings) -> LookAhead:
        targets = layout.at_trained(input_ids).to(guess.top1.device)
        share = guess.probabilities.max(1).values  # (N,)
        return replace(
            guess,
            ids=torch.stack([guess.top1, targets], 1),
            probabilities=torch.stack([share, 1 - share], 1),
        )

    trainer.change_guess = change


def mixed_where_close(trainer: Any) -> None:
    """Of a batch's wrong guesses only the half whose embeddings are most like their targets' (cosine)."""
    embeddings = trainer.model.get_input_embeddings().weight  # (V, H)

    def change(guess: LookAhead, input_ids: Tensor, layout: RowLayout, settings: StepSettings) -> LookAhead:
        targets = layout.at_trained(input_ids).to(guess.top1.device)
        wrong = guess.top1 != targets
        like = torch.cosine_similarity(embeddings[guess.top1], embeddings[targets], dim=-1)  # (N,)
        close = wrong & (like >= like[wrong].median()) if wrong.any() else wrong
        return replace(guess, ids=torch.where(close, guess.top1, targets)[:, None])

    trainer.change_guess = change


def two_guesses_deep(trainer: Any) -> None:
    """The guess that the model makes after the mix of its first guesses, so that errors can follow errors."""

    def change(guess: LookAhead, input_ids: Tensor, layout: RowLayout, settings: StepSettings) -> LookAhead:
        model = unwrapped(trainer.model)
        inputs = {"input_ids": input_ids, "attention_mask": layout.attended.long(), "use_cache": False}
        with torch.no_grad(), evaluating(model):
            states, _ = FullRows(model, inputs, layout, router_logits=False).mixed_states(
                guess, settings.residual_lambda
            )
            return look_ahead(states, head_of(model), layout.at_trained(input_ids), settings)

    trainer.change_guess = change


def noise_of_equal_norm(trainer: Any) -> None:
    """NEFTune's noise in place of the guess: where the look-ahead is wrong, and as long as the mix's own shift.

    The guess p moves the input of a token x by lambda |E(p) - E(x)|. Here E(p) becomes E(x) + u |E(p) - E(x)|, where u
    is a draw from U(-1, 1)^H divided by its length, another for each seed and step: the input moves as far, in a random
    direction. The noise has no gradient. Needs `lookahead_prefix` "full": one call embeds a batch and its guesses.
    """
    waiting: list[
        tuple[Tensor, torch.Generator]
    ] = []  # for the mixed pass: trained positions, source of noise

    def change(guess: LookAhead, input_ids: Tensor, layout: RowLayout, settings: StepSettings) -> LookAhead:
        generator = torch.Generator().manual_seed(1_000_003 * settings.seed + settings.step)
        places = torch.arange(input_ids.numel()).view(input_ids.shape)
        waiting.append((layout.at_trained(places), generator))
        return guess

    def replace_guesses(module: Any, args: Any, output: Tensor) -> Tensor | None:
        if not waiting:  # another pass
            return None
        places, generator = waiting.pop()
        rows, guesses = output[0].tensor_split([output.shape[1] - len(places)])  # (B T, H), (N, H)
        noise = torch.rand(guesses.shape, generator=generator).to(output) * 2 - 1
        targets = rows[places.to(rows.device)]
        length = (guesses - targets).detach().norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
        return torch.cat([rows, targets + noise * length])[None]

    trainer.change_guess = change
    unwrapped(trainer.model).get_input_embeddings().register_forward_hook(replace_guesses)


def clean_and_mixed(trainer: Any) -> None:
    """The mean of the loss under the mixed input and that under the clean input (5/3 of SFT's FLOPs)."""
    mixed_loss, mixed_lambda = trainer.compute_loss, trainer._residual_lambda

    def compute_loss(model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        clean_inputs = dict(inputs)
        mixed = mixed_loss(model, inputs, *args, **kwargs)
        if not trainer.model.training:
            return mixed
        trainer._residual_lambda = lambda mode: 0.0
        clean = mixed_loss(model, clean_inputs, *args, **kwargs)
        trainer._residual_lambda = mixed_lambda
        return (mixed + clean) / 2

    trainer.compute_loss = compute_loss


# --- The propagation ------------------------------------------------------------------------------------------------


def gamma_by_length(trainer: Any) -> None:
    """Gamma 1 - 1/n for an answer of n tokens: the same reach relative to the answer, long or short."""

    def weights(losses: Tensor, layout: RowLayout) -> Tensor:
        ones = layout.trained.to(losses.dtype)
        lengths = layout.per_document(ones).long()  # (B, T)
        found = ones
        for length in lengths.unique().tolist():
            if length > 1:
                part = propagation_weights(losses, layout, gamma=1 - 1 / length)
                found = torch.where(lengths == length, part, found)
        return found

    trainer.token_weights = weights


def batch_mean(trainer: Any) -> None:
    """Bellman's sums divided by their mean over the batch, without gradient, not over the row: hard rows count more."""

    def weights(losses: Tensor, layout: RowLayout) -> Tensor:
        ones = layout.trained.to(losses.dtype)
        raw = suffix_sums(losses * ones, GAMMA, layout.documents)
        return raw / ((raw * ones).sum() / ones.sum().clamp(min=1)).detach().clamp(min=1e-8)

    trainer.token_weights = weights


def released_but_the_end(trainer: Any) -> None:
    """The released gradient, but for the last token of each answer."""
    trainer.token_weights = token_weights.released_but_the_end


CONTENDERS = {
    "sft": Contender("sft"),
    "ift": Contender("ift"),
    "ift as released": Contender("ift", {"propagation_detach": "none"}),
    "ift residual only": Contender("ift", {"propagation": "none"}),
    "random-residual": Contender("random-residual"),
    "neftune": Contender("neftune"),
    "sft-dropout": Contender("sft-dropout"),
    "label-smoothing": Contender("label-smoothing"),
    "flooding": Contender("flooding", {"flooding_level": 0.1, "flooding_over": "token"}),
    "sft 4/3 of the steps": Contender("sft", more_steps=4 / 3),
}
VARIANTS = {
    "ift propagation only": Contender("ift", {"residual_lambda": 0.0}),
    "position-weights only": Contender("position-weights", {"residual_lambda": 0.0}),
    "sft 1.5 times the rate": Contender("sft", faster=1.5),
    "sft 2 times the rate": Contender("sft", faster=2.0),
    "ift sure": Contender("ift", {"lookahead": "expected", "lookahead_top_k": 16}, mixed_where_sure),
    "ift close": Contender("ift", change=mixed_where_close),
    "ift falling lambda": Contender(
        "ift", {"residual_lambda": 0.0, "residual_lambda_start": 0.4, "residual_warmup_ratio": 1.0}
    ),
    "ift clean and mixed": Contender("ift", change=clean_and_mixed),
    "sft 5/3 of the steps": Contender("sft", more_steps=5 / 3),
    "ift gamma by length": Contender("ift", change=gamma_by_length),
    "ift batch mean": Contender("ift", change=batch_mean),
    "ift released but the end": Contender("ift", change=released_but_the_end),
    "ift two deep": Contender("ift", change=two_guesses_deep),
    "ift noise of its norm": Contender("ift", {"lookahead_prefix": "full"}, noise_of_equal_norm),
    "ift noise of its norm only": Contender(
        "ift", {"lookahead_prefix": "full", "propagation": "none"}, noise_of_equal_norm
    ),
    "sft early stopping": Contender("sft", best_step=True),
    "ift early stopping": Contender("ift", best_step=True),
}

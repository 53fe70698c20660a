"""The experiments' controls: IFT with one part of its idea taken out. They are no methods to train a model with.

* random-residual: does the look-ahead help, or any noise? As many tokens of an answer are mixed as the look-ahead gets
  wrong, at random positions, with random tokens (`random_tokens`).
* position-weights: does the dependence on the losses help, or that early tokens count more? The weights that bellman
  gives when all losses of the row are equal, without gradient (`position_weights`).

`IFTConfig` offers neither of them: the step takes a function that changes the guess, and one that gives the weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ift.step.equations import propagation_weights
from ift.step.lookahead import LookAhead
from ift.step.lookahead_variants import look_ahead_uniforms
from ift.step.rows import RowLayout
from ift.step.settings import StepSettings
from ift.training.config import IFTConfig
from ift.training.trainer import IFTTrainer


@dataclass
class ControlSettings(IFTConfig):
    """`IFTConfig` with the look-ahead "random" and the propagation "position" besides its own."""

    lookahead: str = field(
        default="greedy",
        metadata={"help": "See IFTConfig.", "choices": ["greedy", "sample", "expected", "random"]},
    )
    propagation: str = field(
        default="bellman",
        metadata={"help": "See IFTConfig.", "choices": ["bellman", "cumsum", "none", "position"]},
    )

    def step_settings(self, **changes: Any) -> StepSettings:
        """The settings of a step, with those of its own that a control changes or does without."""
        if self.lookahead == "random":
            changes = {"lookahead": "greedy", **changes}
        if self.propagation == "position":
            changes = {"propagation": "none", **changes}
        return super().step_settings(**changes)


class ControlTrainer(IFTTrainer):
    """`IFTTrainer` on `ControlSettings`; its card does not say IFT."""

    _tag_names = ["trl", "ift-control"]  # noqa: RUF012 (trl's own declaration)
    _name = "a control of IFT"
    _paper: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, model: Any, args: ControlSettings, **kwargs: Any) -> None:
        """Same arguments as `IFTTrainer`."""
        super().__init__(model, args, **kwargs)
        if args.lookahead == "random":
            vocabulary = self.model.config.get_text_config().vocab_size
            self.change_guess = partial(random_tokens, vocabulary=vocabulary)
        if args.propagation == "position":
            self.token_weights = partial(position_weights, gamma=args.propagation_gamma)


def position_weights(losses: Tensor, layout: RowLayout, gamma: float) -> Tensor:
    """Bellman's weights (B, T) for equal losses: they depend on the position alone, and carry no gradient."""
    return propagation_weights(torch.ones_like(losses), layout, "bellman", gamma)


def random_tokens(
    guess: LookAhead, input_ids: Tensor, layout: RowLayout, settings: StepSettings, vocabulary: int
) -> LookAhead:
    """The guess of "random": in each document as many tokens differ as the look-ahead gets wrong, all at random.

    Args:
        guess: the greedy look-ahead.
        input_ids: (B, T) int64.
        layout: of the batch.
        settings: for the seed and the step of the noise.
        vocabulary: V.
    """
    device, seeds = (
        guess.top1.device,
        (settings.seed, settings.seed + 7_919),
    )  # of the positions and of the tokens
    noise = [layout.at_trained(look_ahead_uniforms(input_ids, layout, seed, settings.step)) for seed in seeds]
    targets, documents = (layout.at_trained(values).to(device) for values in (input_ids, layout.documents))
    return random_guess(guess, targets, documents, torch.stack(noise).to(device), vocabulary)


def random_guess(
    guess: LookAhead, targets: Tensor, documents: Tensor, uniforms: Tensor, vocabulary: int
) -> LookAhead:
    """As many guesses as before differ from their targets in each document, but other ones and at other positions.

    The positions are drawn among the document's N trained ones, and the tokens uniformly from the vocabulary without
    the target; elsewhere the guess is the target. `top1` and `nll` stay the model's own.

    Args:
        guess: the greedy look-ahead; it has the number of guesses of a document that differ.
        targets: (N,) int64.
        documents: (N,) int64.
        uniforms: (2, N) float32 in (0, 1), the noise of the positions and of the tokens.
        vocabulary: V.
    """
    wrong = torch.bincount(documents, (guess.top1 != targets).double())  # (documents,)
    sizes = torch.bincount(documents)
    order = uniforms[0].argsort()
    order = order[documents[order].argsort(stable=True)]  # by document, at random inside it
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[documents[order]]
    drawn = (uniforms[1].double() * (vocabulary - 1)).long()
    drawn = drawn + (drawn >= targets)  # any token but the target
    ids = torch.where(rank < wrong[documents], drawn, targets)
    return LookAhead(ids[:, None], torch.ones_like(guess.nll)[:, None], guess.top1, guess.nll)

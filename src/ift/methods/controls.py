"""Control experiments: IFT with one part of its idea replaced. They are not methods for training a model.

* random-residual: is it the look-ahead that helps, or any noise? As many tokens of an answer are mixed as the
  look-ahead gets wrong, but at random positions and with random tokens (`random_tokens`).
* position-weights: is it the dependence on the losses that helps, or that early tokens count more? The weights are
  those that bellman gives if all losses of a row are equal, without gradient (`position_weights`).

`IFTConfig` offers neither: the step takes a function that changes the guess, and one that gives the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ift.step.equations import propagation_weights
from ift.step.lookahead import LookAhead
from ift.step.lookahead_variants import look_ahead_uniforms
from ift.step.rows import RowLayout
from ift.step.settings import StepSettings
from ift.training.config import IFTConfig, field_with_help
from ift.training.trainer import IFTTrainer


@dataclass
class ControlSettings(IFTConfig):
    """`IFTConfig` with the further choices lookahead "random" and propagation "position"."""

    lookahead: str = field_with_help(
        "greedy", "See IFTConfig.", choices=["greedy", "sample", "expected", "random"]
    )
    propagation: str = field_with_help(
        "bellman", "See IFTConfig.", choices=["bellman", "cumsum", "none", "position"]
    )

    def step_settings(self, **changes: Any) -> StepSettings:
        """The settings of a step, in which the parts that a control replaces have a regular value."""
        if self.lookahead == "random":
            changes = {"lookahead": "greedy", **changes}
        if self.propagation == "position":
            changes = {"propagation": "none", **changes}
        return super().step_settings(**changes)


class ControlTrainer(IFTTrainer):
    """`IFTTrainer` for `ControlSettings`; its model card does not say IFT."""

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
    """Bellman's weights (B, T) for equal losses: they depend on the position only and have no gradient."""
    return propagation_weights(torch.ones_like(losses), layout, "bellman", gamma)


def random_tokens(
    guess: LookAhead, input_ids: Tensor, layout: RowLayout, settings: StepSettings, vocabulary: int
) -> LookAhead:
    """Replaces the guess of the look-ahead, see `random_guess`.

    Args:
        guess: The greedy look-ahead.
        input_ids: (B, T) int64.
        layout: Of the batch.
        settings: Give the seed and the step of the noise.
        vocabulary: V.
    """
    device = guess.top1.device
    seeds = (settings.seed, settings.seed + 7_919)  # of the positions and of the tokens
    noise = [layout.at_trained(look_ahead_uniforms(input_ids, layout, seed, settings.step)) for seed in seeds]
    targets, documents = (layout.at_trained(values).to(device) for values in (input_ids, layout.documents))
    return random_guess(guess, targets, documents, torch.stack(noise).to(device), vocabulary)


def random_guess(
    guess: LookAhead, targets: Tensor, documents: Tensor, uniforms: Tensor, vocabulary: int
) -> LookAhead:
    """Changes which guesses differ from their targets: in each document the same number, at random, with random tokens.

    The positions are drawn from the document's trained positions, the tokens uniformly from the vocabulary without the
    target; all other guesses equal their target. `top1` and `nll` are unchanged.

    Args:
        guess: The greedy look-ahead.
        targets: (N,) int64.
        documents: (N,) int64.
        uniforms: (2, N) float32 in (0, 1), the noise for the positions and for the tokens.
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

"""Switches of the experiments, not products: what is left of IFT without its idea.

* random-residual: is it the look-ahead or only noise? As many tokens of an answer are mixed as the look-ahead gets
  wrong, at random places, with random tokens (`lookahead.random_guess`).
* position-weights: is it the loss-dependence or only "early tokens count more"? The weights that bellman gives when
  all losses of the row are equal, without gradient (`equations.propagation_weights`, kind "position").

`IFTConfig` offers neither of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

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


class ControlTrainer(IFTTrainer):
    """`IFTTrainer` on `ControlSettings`; its card does not say IFT."""

    _tag_names = ["trl", "ift-control"]  # noqa: RUF012 (trl's own declaration)
    _name = "a control of IFT"
    _paper: dict[str, str] = {}  # noqa: RUF012

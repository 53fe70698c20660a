"""Control experiments (ablations): IFT with one part replaced, and SFT with a common regulariser.

They answer questions about IFT, and are not meant for training models.

* random-residual: does the look-ahead help, or would any noise? As many tokens of an answer are mixed as the look-ahead
  predicts wrongly, but at random positions and with random tokens (`random_tokens`).
* position-weights: does it matter that the weights depend on the losses, or only that early tokens count more? The
  weights are those that bellman gives if all losses of a row are equal, without gradient (`position_weights`).
* sft-dropout, label-smoothing, flooding: would any regulariser of SFT have the same effect as IFT?

`IFTConfig` has no such options. The controls replace the guess, the weights or the token losses by functions that
`ift_loss` accepts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from ift.step.equations import propagation_weights
from ift.step.head import Head
from ift.step.lookahead import LookAhead
from ift.step.lookahead_variants import look_ahead_uniforms
from ift.step.model import unwrapped
from ift.step.rows import RowLayout
from ift.step.scored_log_probs import scored_log_probs
from ift.step.settings import StepSettings
from ift.training.compile import decoder_layers
from ift.training.config import IFTConfig, field_with_help, raise_conflicts
from ift.training.trainer import IFTTrainer


@dataclass
class ControlSettings(IFTConfig):
    """`IFTConfig` with lookahead "random", propagation "position", and the regularisers of SFT.

    Raises:
        ValueError: A value out of range.
    """

    lookahead: str = field_with_help(
        "greedy", "See IFTConfig.", choices=["greedy", "sample", "expected", "random"]
    )
    propagation: str = field_with_help(
        "bellman", "See IFTConfig.", choices=["bellman", "cumsum", "none", "position"]
    )
    dropout: float = field_with_help(
        0.0, "Dropout, in [0, 1), on the output of each layer's attention and MLP, before it is added."
    )
    target_smoothing: float = field_with_help(
        0.0, "Share, in [0, 1), of the uniform distribution over the vocabulary in the target."
    )
    flooding_level: float = field_with_help(
        0.0, "Level b >= 0 of flooding, in nats; the loss is |L - b| + b."
    )
    flooding_over: str = field_with_help(
        "batch",
        "What is flooded: the loss of the global batch, or of each token.",
        choices=["batch", "token"],
    )

    def __post_init__(self) -> None:
        """Checks the controls' own fields."""
        raise_conflicts(
            {
                f"dropout is {self.dropout}; give a value in [0, 1).": not 0 <= self.dropout < 1,
                f"target_smoothing is {self.target_smoothing}; give a value in [0, 1).": (
                    not 0 <= self.target_smoothing < 1
                ),
                f"flooding_level is {self.flooding_level}; give 0 (off) or more.": not self.flooding_level
                >= 0,
                f"flooding_over is {self.flooding_over!r}; choose batch or token.": (
                    self.flooding_over not in ("batch", "token")
                ),
            }
        )
        super().__post_init__()

    def step_settings(self, **changes: Any) -> StepSettings:
        """The settings of a step; the parts that a control replaces have an ordinary value."""
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
        """Same arguments as `IFTTrainer`.

        Raises:
            ValueError: Flooding of batches under DeepSpeed, or label smoothing of a head with soft-capping.
        """
        super().__init__(model, args, **kwargs)
        if args.lookahead == "random":
            vocabulary = self.model.config.get_text_config().vocab_size
            self.change_guess = partial(random_tokens, vocabulary=vocabulary)
        if args.propagation == "position":
            self.token_weights = partial(position_weights, gamma=args.propagation_gamma)
        if args.dropout:
            add_dropout(self.model, args.dropout)
        if args.target_smoothing:
            self.score_tokens = partial(smoothed_log_probs, smoothing=args.target_smoothing)
        if args.flooding_level and args.flooding_over == "token":
            self.token_weights = partial(flooding_weights, level=args.flooding_level)
        elif args.flooding_level:
            if self.is_deepspeed_enabled:
                raise ValueError(
                    "flooding of batches negates gradients before the optimiser step, and DeepSpeed hides them. "
                    "Use DDP or FSDP2, or flooding_over='token'."
                )
            self.batch_loss = torch.zeros((), device=args.device)
            self.add_callback(FloodsBatches(self))

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """The loss of `IFTTrainer`; also adds up the loss of the global batch if batches are flooded."""
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        if self.model.training and hasattr(self, "batch_loss"):
            self.batch_loss = self.batch_loss + loss.detach()
        return loss


class FloodsBatches(TrainerCallback):
    """Flooding of batches: the gradient of |L - b| + b is that of L, negated if L is below b.

    Source: Ishida et al., arXiv:2002.08709. L is the loss of the global batch, over accumulation steps and processes.
    """

    def __init__(self, trainer: ControlTrainer) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Negates the gradients if the loss is below the level, and resets the sum."""
        trainer = self.trainer
        if trainer.accelerator.gather(trainer.batch_loss).mean() < args.flooding_level:
            for parameter in trainer.model.parameters():
                if parameter.grad is not None:
                    parameter.grad.neg_()
        trainer.batch_loss = torch.zeros_like(trainer.batch_loss)


def flooding_weights(losses: Tensor, layout: RowLayout, level: float) -> Tensor:
    """Weights (B, T) with which each token has the gradient of |l - b| + b: 1 above the level, -1 below."""
    return torch.where(losses.detach() < level, -1.0, 1.0)


flooding_weights.may_be_negative = True  # type: ignore[attr-defined]


def smoothed_log_probs(
    hidden: Tensor, head: Head, targets: Tensor, smoothing: float
) -> tuple[Tensor, Tensor, Tensor]:
    """`scored_log_probs` with (1 - e) log p(y) + e mean_v log p(v) instead of log p(y) if gradients are enabled.

    This equals log p(y) - e (z_y - mean_v z_v), so the head's mean row suffices and no logits are built.

    Raises:
        ValueError: The head has soft-capping, under which logits are not linear in the head.
    """
    log_probs, entropy, top1 = scored_log_probs(hidden, head, targets)
    if not torch.is_grad_enabled():
        return log_probs, entropy, top1
    if head.softcap is not None:
        raise ValueError(
            "label smoothing of a head with soft-capping is not supported. Train another method."
        )
    rows = head.weight[targets].float() - head.weight.float().mean(0)  # (N, H)
    above = (hidden.float() * rows).sum(-1)  # z_y - mean_v z_v, (N,)
    if head.bias is not None:
        above = above + head.bias[targets].float() - head.bias.float().mean()
    return log_probs - smoothing * head.scale * above, entropy, top1


def add_dropout(model: Any, share: float) -> None:
    """Adds dropout to the output of each decoder layer's sublayers: its children that have a weight matrix."""

    def drop(module: nn.Module, inputs: Any, output: Any) -> Any:
        states, *others = output if isinstance(output, tuple) else (output,)
        states = nn.functional.dropout(states, share, module.training)
        return (states, *others) if isinstance(output, tuple) else states

    for layer in decoder_layers(unwrapped(model)):
        for child in layer.children():
            if any(parameter.ndim > 1 for parameter in child.parameters()):
                child.register_forward_hook(drop)


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
        layout: The batch's layout.
        settings: For the seed and the step of the noise.
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
    """Replaces the wrong guesses of each document by the same number of random tokens at random positions.

    The positions are drawn from the document's trained positions, the tokens uniformly from the vocabulary without the
    target. All other guesses equal their target. `top1` and `nll` are unchanged.

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

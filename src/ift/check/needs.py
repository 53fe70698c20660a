"""The memory of a training step in bytes: before an engine divides it, and on one device."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

from ift.check.engines import Engine, Held, divide
from ift.check.fake_step import Peak

PARTS = ("weights", "reference", "gradients", "optimizer", "activations")


@dataclass(frozen=True)
class MemoryEstimate:
    """Peak memory of a step on one device in bytes; the engine divides weights, gradients and optimiser states.

    Attributes:
        parameters: Number of all parameters.
        trained: Number of trained parameters.
        vocabulary: Number of rows of the input embedding.
        positions: The longest row that the model has learned positions for; None: its positions are computed.
        weights: The model; in shards, with what is gathered at once.
        reference: The frozen reference model of some methods.
        gradients: Gradients of the trained weights at that moment: none at the end of the forward pass, all at the end
            of the backward pass.
        optimizer: Optimiser states.
        activations: Everything else at that moment: activations, logits, autocast's copies, temporary tensors.
    """

    parameters: int
    trained: int
    vocabulary: int
    positions: int | None
    weights: int
    reference: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """The sum."""
        return sum(getattr(self, name) for name in PARTS)

    def summary(self) -> str:
        """The sum and its parts, in GiB or MiB."""
        unit, name = (2**30, "GiB") if self.total >= 2**30 else (2**20, "MiB")
        sizes = {part: getattr(self, part) for part in PARTS}
        shown = ", ".join(f"{part} {size / unit:.2f}" for part, size in sizes.items() if size)
        return f"about {self.total / unit:.1f} {name} ({shown})"


@dataclass(frozen=True)
class StepNeeds:
    """What a step needs before an engine divides it.

    Attributes:
        parameters: See `MemoryEstimate`, and so for the next three.
        trained: Number.
        vocabulary: Number.
        positions: Number or None.
        held: What is divided.
        copies: Copies of the trained weights that the optimiser makes in its step.
        run: Counts `peak`, which takes a second or so.
        flops: FLOPs of one sequence of so many tokens and trained tokens, see `passes_flops`.
    """

    parameters: int
    trained: int
    vocabulary: int
    positions: int | None
    held: Held
    copies: int
    run: Callable[[], Peak] = field(repr=False, compare=False)
    flops: Callable[[int, int], int] = field(repr=False, compare=False)

    @functools.cached_property
    def peak(self) -> Peak:
        """Of the forward and backward pass."""
        return self.run()

    def least(self, engine: Engine) -> int:
        """Bytes that one device holds between the passes and the optimiser's step: never more than the estimate."""
        return sum(divide(self.held, engine).values())

    def divided(self, engine: Engine) -> MemoryEstimate:
        """The estimate for one device: of the passes or of the optimiser's step, whichever needs more."""
        parts = divide(self.held, engine)
        shares = 1 if engine.name == "ddp" else engine.processes
        stepping = self.copies * -(-self.held.optimised(engine) // shares)
        moments = [{**parts, "activations": self.peak.activations}, {**parts, "activations": stepping}]
        if engine.name == "ddp":  # elsewhere the gradients' share is small, and counts as a whole
            moments[0]["gradients"] += self.peak.gradients - self.held.gradients
        facts = (self.parameters, self.trained, self.vocabulary, self.positions)
        return max((MemoryEstimate(*facts, **moment) for moment in moments), key=lambda one: one.total)

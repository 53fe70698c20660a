"""The settings of one IFT step, in one place: `ift_loss`, `IFTConfig` and the equations all take them from here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict, get_args, get_type_hints

LookAheadKind = Literal["greedy", "sample", "expected"]
LookAheadPrefix = Literal["auto", "shared", "full"]
Propagation = Literal["bellman", "cumsum", "none"]
Detach = Literal["scale", "none", "weights"]
Reduction = Literal["sequence", "token"]


@dataclass(frozen=True)
class StepSettings:
    """How one step looks ahead, mixes, weighs and reduces; the defaults are the paper's (App. B.1, arXiv:2405.11870v3).

    Attributes:
        residual_lambda: share lambda of the guess in the mixed input (Eq. 17), in [0, 1]; 0 skips the look-ahead pass.
        lookahead: the guess: "greedy" (the argmax), "sample" (one draw from softmax(z / temperature)) or "expected"
            (the top-k candidates, weighted with their renormalised probabilities).
        lookahead_temperature: of "sample" and "expected", above 0.
        lookahead_top_k: candidates of "expected", 1 or more; cut to the vocabulary.
        lookahead_prefix: "shared" computes the tokens before the first trained one once for both passes, where that is
            exact; "full" computes it twice; "auto" shares where that saves time
            (`shared_prefix.work`). Loss and gradient are the same.
        propagation: the weights of the token losses: "bellman" (Algorithm 1), "cumsum" (Eq. 21 read literally) or
            "none" (all 1).
        propagation_gamma: decay of the propagation, in (0, 1].
        propagation_detach: the part of the bellman weights that carries no gradient: their "scale" (Algorithm 1 as
            printed), "none" (the released code), or the "weights" as a whole.
        loss_reduction: "sequence" (the mean over documents of each document's mean, as in the paper) or "token" (the
            mean over trained tokens, as in trl).
        seed: of the sampled look-ahead's noise.
        step: the optimiser step, for the same noise.

    Raises:
        ValueError: a value out of range, or two conflicting values; the message says what to set instead.
    """

    residual_lambda: float = 0.2
    lookahead: LookAheadKind = "greedy"
    lookahead_temperature: float = 1.0
    lookahead_top_k: int = 64
    lookahead_prefix: LookAheadPrefix = "auto"
    propagation: Propagation = "bellman"
    propagation_gamma: float = 0.95
    propagation_detach: Detach = "scale"
    loss_reduction: Reduction = "sequence"
    seed: int = 0
    step: int = 0

    def __post_init__(self) -> None:
        """Check every value."""
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(allowed)}.")
        ranges = (
            ("residual_lambda", 0 <= self.residual_lambda <= 1, "give a value in [0, 1], such as 0.2."),
            ("propagation_gamma", 0 < self.propagation_gamma <= 1,
             "give a value in (0, 1], such as 0.95. For weights that do not look ahead at all set propagation='none'."),
            ("lookahead_temperature", 0 < self.lookahead_temperature < float("inf"),
             "give more than 0, such as 1, or lookahead='greedy'."),
            ("lookahead_top_k", self.lookahead_top_k >= 1, "give 1 or more, such as 64."),
        )  # fmt: skip
        for name, holds, remedy in ranges:
            if not holds:
                raise ValueError(f"{name} is {getattr(self, name)}; {remedy}")
        if self.propagation_detach == "weights" and self.propagation != "bellman":
            raise ValueError(
                "propagation_detach='weights' applies to the bellman weights only. Set propagation='bellman', or leave "
                "propagation_detach out."
            )


# the allowed values of every setting that is a choice
CHOICES: dict[str, tuple[str, ...]] = {
    name: get_args(kind) for name, kind in get_type_hints(StepSettings).items() if get_args(kind)
}


class SettingOverrides(TypedDict, total=False):
    """The fields of `StepSettings` as keyword arguments, for type checkers and editors; a test compares the two."""

    residual_lambda: float
    lookahead: LookAheadKind
    lookahead_temperature: float
    lookahead_top_k: int
    lookahead_prefix: LookAheadPrefix
    propagation: Propagation
    propagation_gamma: float
    propagation_detach: Detach
    loss_reduction: Reduction
    seed: int
    step: int

"""IFTConfig: the method's fields on top of trl's SFTConfig, paper's defaults (App. B.1, arXiv:2405.11870v3)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from trl import SFTConfig

METHOD_FIELDS = (
    "residual_lambda",
    "lookahead",
    "lookahead_temperature",
    "lookahead_top_k",
    "lookahead_prefix",
    "propagation",
    "propagation_gamma",
    "propagation_detach",
    "loss_reduction",
)
LAMBDA_FIELDS = ("residual_lambda_start", "residual_warmup_ratio", "residual_noise_std")


def _described(default: Any, text: str, choices: list[str] | None = None) -> Any:
    return field(default=default, metadata={"help": text, **({"choices": choices} if choices else {})})


@dataclass
class IFTConfig(SFTConfig):
    """Arguments of `IFTTrainer`: every field of `trl.SFTConfig`, and the method's own, described in their metadata.

    `docs/configuration.md` explains each of them once, with its equation.

    Raises:
        ValueError: a value out of range or two options that exclude each other; the message names the remedy.
    """

    residual_lambda: float = _described(
        0.2,
        "Share lambda of the model's own guess in the input embeddings, in [0, 1]. 0 skips the look-ahead.",
    )
    residual_lambda_start: float | None = _described(
        None, "Lambda at step 0 of a linear warm-up, in [0, 1]; needs residual_warmup_ratio. None means 0."
    )
    residual_warmup_ratio: float = _described(
        0.0,
        "Share of all steps, in [0, 1], over which lambda goes linearly from its start value to residual_lambda.",
    )
    residual_noise_std: float = _described(
        0.0,
        "Sigma >= 0 of noisy lambda: lambda * (1 + sigma n) per optimiser step, clamped to [0, 1]. The paper: 0.5.",
    )
    lookahead: str = _described(
        "greedy",
        "The guess: the argmax, a sampled token, or the expected embedding.",
        ["greedy", "sample", "expected"],
    )
    lookahead_temperature: float = _described(
        1.0, "Temperature > 0 of the sampled and the expected look-ahead."
    )
    lookahead_top_k: int = _described(64, "Candidates, >= 1, of the expected look-ahead.")
    lookahead_prefix: str = _described(
        "auto",
        "Run what precedes the first trained token once for both passes, where that is exact, or twice; auto: once on "
        "a CPU.",
        ["auto", "shared", "full"],
    )
    propagation: str = _described(
        "bellman",
        "Weights of the token losses: discounted sum of the later losses (Algorithm 1), Eq. 21 read literally, or 1.",
        ["bellman", "cumsum", "none"],
    )
    propagation_gamma: float = _described(0.95, "Decay gamma of the propagation, in (0, 1].")
    propagation_detach: str = _described(
        "scale",
        "What of the bellman weights carries no gradient: their scale (Algorithm 1 as printed), nothing (the released "
        "code: confident tokens at a row's end are pushed up), or the weights as a whole.",
        ["scale", "none", "weights"],
    )
    loss_reduction: str = _described(
        "sequence",
        "Mean over rows of each row's mean (the paper), or over all trained tokens (trl).",
        ["sequence", "token"],
    )

    def __post_init__(self) -> None:
        """Check ranges and conflicts before and after trl's own checks."""
        self._set_defaults()
        self._check_ranges()
        self._check_conflicts()
        super().__post_init__()

    def loss_arguments(self) -> dict[str, Any]:
        """The method's fields as keyword arguments of `ift_loss`; lambda is its target value, without a schedule."""
        return {name: getattr(self, name) for name in METHOD_FIELDS}

    def _set_defaults(self: Any) -> None:
        if self.metric_for_best_model is None:
            self.metric_for_best_model = "eval_nll"  # the loss depends on lambda
        if self.greater_is_better is None and self.metric_for_best_model.endswith("nll"):
            self.greater_is_better = False
        self.assistant_only_loss = (
            False  # always so: our own masks need no generation markers in the template
        )
        if not torch.accelerator.is_available():
            self.use_cpu = True  # trl would raise
            self.bf16 = False if self.bf16 is None else self.bf16

    def _check_ranges(self) -> None:
        within = {
            "residual_lambda": 0 <= self.residual_lambda <= 1,
            "residual_lambda_start": self.residual_lambda_start is None
            or 0 <= self.residual_lambda_start <= 1,
            "residual_warmup_ratio": 0 <= self.residual_warmup_ratio <= 1,
        }
        for name, fine in within.items():
            if not fine:
                raise ValueError(f"{name} is {getattr(self, name)}; give a value in [0, 1].")
        if not 0 < self.propagation_gamma <= 1:
            raise ValueError(
                f"propagation_gamma is {self.propagation_gamma}; give a value in (0, 1]. For weights that do not look "
                "ahead at all set propagation='none'."
            )
        if not self.residual_noise_std >= 0:
            raise ValueError(f"residual_noise_std is {self.residual_noise_std}; give 0 (off) or more.")
        if not self.lookahead_temperature > 0:
            raise ValueError(
                f"lookahead_temperature is {self.lookahead_temperature}; give more than 0, or lookahead='greedy'."
            )
        if self.lookahead_top_k < 1:
            raise ValueError(f"lookahead_top_k is {self.lookahead_top_k}; give 1 or more.")
        for name in ("lookahead", "lookahead_prefix", "propagation", "propagation_detach", "loss_reduction"):
            choices = self.__dataclass_fields__[name].metadata["choices"]
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(choices)}.")

    def _check_conflicts(self) -> None:
        conflicts = {
            "residual_lambda_start without a warm-up has no effect. Set residual_warmup_ratio above 0, or leave the "
            "start out.": self.residual_lambda_start is not None and self.residual_warmup_ratio == 0,
            "residual_noise_std needs a lambda to disturb. Set residual_lambda above 0, or the noise to 0.": (
                self.residual_noise_std > 0 and self.residual_lambda == 0
            ),
            "propagation_detach='weights' speaks of the bellman weights only. Set propagation='bellman', or leave "
            "propagation_detach out.": self.propagation_detach == "weights" and self.propagation != "bellman",
            "IFT has its own loss. Leave loss_type at 'nll'; trl's SFTTrainer trains 'dft'.": self.loss_type
            == "dft",
            "label_smoothing_factor needs the full logits, which IFT never builds. Set it to 0.": (
                self.label_smoothing_factor > 0
            ),
            "NEFTune's noise would be added to the guesses as well. Set neftune_noise_alpha to None, or "
            "residual_lambda to 0.": bool(self.neftune_noise_alpha) and self.residual_lambda > 0,
            f"packing_strategy={self.packing_strategy!r} cuts documents, whose pieces would weigh as whole answers. "
            "Set packing_strategy='bfd', or packing=False.": (
                (self.packing or bool(self.eval_packing)) and self.packing_strategy != "bfd"
            ),
            "IFT's loss is a mean over the global batch. Leave average_tokens_across_devices at True.": (
                not self.average_tokens_across_devices
            ),
            "truncation_mode='keep_end' cuts prompts. Use 'keep_start', or raise max_length.": (
                self.truncation_mode != "keep_start"
            ),
        }
        for message, found in conflicts.items():
            if found:
                raise ValueError(message)

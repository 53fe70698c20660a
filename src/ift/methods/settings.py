"""Settings of the methods: trl's configurations, made to work without an accelerator, with additional options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trl import DPOConfig, SFTConfig
from trl.experimental.cpo import CPOConfig
from trl.experimental.orpo import ORPOConfig

from ift.training.config import (
    answers_only_field,
    decide_trained_tokens,
    field_with_help,
    raise_conflicts,
    take_new_names,
    train_without_accelerator,
)


class _OnAnyDevice:
    """Runs without an accelerator, where trl raises for bf16, and refuses options without effect.

    Raises:
        ValueError: An option of trl's data preparation that does not apply to prepared data.
    """

    def __post_init__(self: Any) -> None:
        conflicts = {
            "truncation_mode='keep_end' truncates prompts. Use 'keep_start', or raise max_length.": (
                getattr(self, "truncation_mode", "keep_start") != "keep_start"
            ),
            "generate_during_eval needs data prepared by trl. Set it to false.": (
                getattr(self, "generate_during_eval", False)
            ),
        }
        raise_conflicts(conflicts)
        train_without_accelerator(self)
        take_new_names(self)
        super().__post_init__()  # type: ignore[misc]


@dataclass
class DFTSettings(_OnAnyDevice, SFTConfig):
    """`trl.SFTConfig`; the table sets `loss_type="dft"`.

    Raises:
        ValueError: `assistant_only_loss` is False, as in `IFTConfig`.
    """

    assistant_only_loss: bool = answers_only_field()

    def __post_init__(self) -> None:
        """Refuses `assistant_only_loss` False."""
        decide_trained_tokens(self)
        super().__post_init__()


@dataclass
class DPOSettings(_OnAnyDevice, DPOConfig):
    """`trl.DPOConfig`."""


@dataclass
class TDPOSettings(_OnAnyDevice, DPOConfig):
    """`trl.DPOConfig` with the options of TDPO (arXiv:2404.11999); the table sets the version.

    Raises:
        ValueError: A version or an option that TDPO does not have.
    """

    tdpo_version: int = field_with_help(
        2, "1 keeps the gradient of both answers' KL, 2 detaches that of the chosen answer."
    )
    tdpo_alpha: float = field_with_help(0.5, "Weight alpha >= 0 of TDPO2's difference of KL divergences.")

    def __post_init__(self) -> None:
        """Refuses options that the loss does not have."""
        conflicts = {
            f"tdpo_version is {self.tdpo_version}; give 1 or 2.": self.tdpo_version not in (1, 2),
            f"tdpo_alpha is {self.tdpo_alpha}; give 0 or more.": not self.tdpo_alpha >= 0,
            "TDPO1 has no alpha. Leave tdpo_alpha out, or train tdpo2.": self.tdpo_version == 1
            and self.tdpo_alpha != 0.5,
            "TDPO needs the reference's whole distribution. Set precompute_ref_log_probs to false.": bool(
                self.precompute_ref_log_probs
            ),
            "TDPO is defined with the reverse KL, without label smoothing, ld_alpha and weighting. Leave "
            "f_divergence_type, label_smoothing, ld_alpha and use_weighting at their defaults.": (
                self.f_divergence_type != "reverse_kl"
                or self.label_smoothing > 0
                or self.ld_alpha is not None
                or self.use_weighting
            ),
        }
        raise_conflicts(conflicts)
        super().__post_init__()


@dataclass
class ORPOSettings(_OnAnyDevice, ORPOConfig):
    """trl's ORPOConfig with a choice of the likelihood term.

    Raises:
        ValueError: An unknown choice.
    """

    orpo_likelihood: str = field_with_help(
        "response",
        "Likelihood term: mean over rows of the response's mean (the paper, Eq. 2), or the token mean over prompt and "
        "response (trl).",
        choices=["response", "all"],
    )

    def __post_init__(self) -> None:
        """Refuses an unknown choice."""
        if self.orpo_likelihood not in ("response", "all"):
            raise ValueError(f"orpo_likelihood is {self.orpo_likelihood!r}; choose response or all.")
        super().__post_init__()


@dataclass
class SimPOSettings(_OnAnyDevice, CPOConfig):
    """trl's CPOConfig; the table sets the options that make it SimPO."""

"""THE TABLE of methods, with their trainers, settings and requirements. Imports nothing heavy.

`defaults` are the settings of the papers, which users may change; `fixed` are those that define the method. In a
sequence, written `sft+dpo`, the second method starts from the weights of the first. docs/baselines.md has the formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ift.text import did_you_mean


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        name: Name on the command line.
        description: One line.
        load: Imports and returns (trainer class, class of its settings).
        defaults: Settings of the paper.
        fixed: Settings that cannot be changed.
        needs_pairs: Whether rows must have a chosen and a rejected answer; otherwise target answers suffice.
        needs_reference: Whether the model is compared with a frozen copy of its start.
        help_fields: Settings that `--help` shows as the method's; empty for all that trl's configuration adds to
            transformers'.
    """

    name: str
    description: str
    load: Callable[[], tuple[Any, Any]]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    needs_pairs: bool = False
    needs_reference: bool = False
    help_fields: tuple[str, ...] = ()

    @property
    def models_held(self) -> int:
        """Models in memory without adapters; with LoRA the reference is the base with disabled adapters."""
        return 2 if self.needs_reference else 1

    @property
    def settings(self) -> dict[str, Any]:
        """Default and fixed settings."""
        return {**self.defaults, **self.fixed}

    def check(self, config: Any) -> None:
        """Raises ValueError if a fixed setting has another value in `config`."""
        for name, value in self.fixed.items():
            if (found := getattr(config, name)) != value:
                raise ValueError(
                    f"{name} is {found!r}; method {self.name} fixes it at {value!r}. Leave it out, or train another "
                    "method."
                )


def _ift() -> tuple[Any, Any]:
    from ift.training.config import IFTConfig
    from ift.training.trainer import IFTTrainer

    return IFTTrainer, IFTConfig


def _sft() -> tuple[Any, Any]:
    from ift.methods.sft import PlainSFTTrainer
    from ift.training.config import IFTConfig

    return PlainSFTTrainer, IFTConfig


def _neftune() -> tuple[Any, Any]:
    from ift.methods.sft import NEFTuneTrainer
    from ift.training.config import IFTConfig

    return NEFTuneTrainer, IFTConfig


def _dft() -> tuple[Any, Any]:
    from ift.methods.settings import DFTSettings
    from ift.methods.sft import DFTTrainer

    return DFTTrainer, DFTSettings


def _dpo() -> tuple[Any, Any]:
    from ift.methods.preference import PreparedDPOTrainer
    from ift.methods.settings import DPOSettings

    return PreparedDPOTrainer, DPOSettings


def _orpo() -> tuple[Any, Any]:
    from ift.methods.preference import PreparedORPOTrainer
    from ift.methods.settings import ORPOSettings

    return PreparedORPOTrainer, ORPOSettings


def _simpo() -> tuple[Any, Any]:
    from ift.methods.preference import PreparedSimPOTrainer
    from ift.methods.settings import SimPOSettings

    return PreparedSimPOTrainer, SimPOSettings


def _tdpo() -> tuple[Any, Any]:
    from ift.methods.settings import TDPOSettings
    from ift.methods.tdpo import TDPOTrainer

    return TDPOTrainer, TDPOSettings


def _control() -> tuple[Any, Any]:
    from ift.methods.controls import ControlSettings, ControlTrainer

    return ControlTrainer, ControlSettings


_PLAIN = {"residual_lambda": 0.0, "residual_noise_std": 0.0, "propagation": "none"}
_TDPO = {"loss_type": ["sigmoid"], "precompute_ref_log_probs": False}
_SIMPO = {"loss_type": "simpo", "cpo_alpha": 0.0, "alpha": 0.0}

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        method.name: method
        for method in (
            Method("ift", "Intuitive Fine-Tuning, from target answers", _ift),
            Method("sft", "supervised fine-tuning, from target answers", _sft, fixed=_PLAIN, help_fields=("loss_reduction",)),
            Method("neftune", "SFT with noise on the embeddings, from target answers", _neftune,
                   {"neftune_noise_alpha": 5.0}, _PLAIN, help_fields=("neftune_noise_alpha", "loss_reduction")),
            Method("dft", "SFT with each token's loss times its probability, from target answers", _dft,
                   fixed={"loss_type": "dft"}, help_fields=("loss_type",)),
            Method("dpo", "direct preference optimisation, from pairs, with a reference model", _dpo,
                   {"beta": 0.1}, {"loss_type": ["sigmoid"]}, True, True),
            Method("orpo", "odds-ratio preference optimisation, from pairs", _orpo, {"beta": 0.25}, needs_pairs=True),
            Method("simpo", "simple preference optimisation, from pairs", _simpo,
                   {"beta": 2.0, "simpo_gamma": 1.6}, _SIMPO, True),
            Method("tdpo1", "token-level DPO, version 1, from pairs, with a reference model", _tdpo,
                   {"beta": 0.1}, {**_TDPO, "tdpo_version": 1}, True, True),
            Method("tdpo2", "token-level DPO, version 2, from pairs, with a reference model", _tdpo,
                   {"beta": 0.1, "tdpo_alpha": 0.5}, {**_TDPO, "tdpo_version": 2}, True, True),
        )
    }
)  # fmt: skip

CONTROLS: Mapping[str, Method] = MappingProxyType(
    {
        method.name: method
        for method in (
            Method("random-residual", "control: IFT with random tokens in place of the look-ahead's", _control,
                   fixed={"lookahead": "random"}),
            Method("position-weights", "control: IFT with weights from position alone", _control,
                   fixed={"propagation": "position"}),
        )
    }
)  # fmt: skip


def fields_left_to_other_stages(methods: Sequence[Method], number: int) -> set[str]:
    """Settings that stage `number` (from 1) fixes but another stage can change; a common value is for the others."""
    help_fields = methods[number - 1]
    free = {
        name
        for other in methods
        for name in help_fields.fixed
        if _has(other, name) and name not in other.fixed
    }
    return free if len(methods) > 1 else set()


def _has(method: Method, name: str) -> bool:
    return name in method.load()[1].__dataclass_fields__


ALIASES: Mapping[str, str] = MappingProxyType({"tdpo": "tdpo2"})


def parse_methods(text: str) -> tuple[Method, ...]:
    """The methods in a name or sequence such as `sft+dpo`; "tdpo" is tdpo2.

    Raises:
        ValueError: An unknown name; the message has a suggestion.
    """
    known = {**METHODS, **CONTROLS}
    found = []
    for word in text.split("+"):
        name = word.strip().lower()
        name = ALIASES.get(name, name)
        if name not in known:
            hint = did_you_mean(name, known) or "."
            raise ValueError(
                f"unknown method {word!r}{hint} There are {', '.join(METHODS)}, and sequences such as sft+dpo."
            )
        found.append(known[name])
    return tuple(found)

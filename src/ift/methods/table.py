"""THE TABLE of methods, with their trainers, settings and requirements. Imports nothing heavy.

`defaults` are the settings of the papers, which users may change; `fixed` are those that define the method. In a
sequence, written `sft+dpo`, the second method starts from the weights of the first. docs/baselines.md has the formulas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from types import MappingProxyType
from typing import Any

from ift.text import did_you_mean


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        name: Name on the command line.
        description: One line.
        trainer: Module and name of the trainer class, below `ift`.
        config: The same of the class of its settings.
        defaults: Settings of the paper.
        fixed: Settings that cannot be changed.
        needs_pairs: Whether rows must have a chosen and a rejected answer; otherwise target answers suffice.
        needs_reference: Whether the model is compared with a frozen copy of its start.
        help_fields: Settings that `--help` lists for the method; if empty, all fields of its configuration that are not
            in transformers' TrainingArguments.
    """

    name: str
    description: str
    trainer: str
    config: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    needs_pairs: bool = False
    needs_reference: bool = False
    help_fields: tuple[str, ...] = ()

    def load(self) -> tuple[Any, Any]:
        """Imports and returns (trainer class, class of its settings)."""
        return _imported(self.trainer), self.load_config()

    def load_config(self) -> Any:
        """Imports and returns the class of its settings alone, which takes less time."""
        return _imported(self.config)

    @property
    def models_held(self) -> int:
        """Number of models in memory.

        With LoRA it is 1: the reference is the base with disabled adapters or, if the training of an adapter is
        continued, the base with a frozen copy of it.
        """
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


def _imported(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(f"ift.{module}"), name)


_OWN_WEIGHTS = {"token_weights": None}  # of IFT alone: what is compared with it stays what its name says
_LAMBDA_0 = {"residual_lambda": 0.0, "residual_lambda_start": None, "residual_warmup_ratio": 0.0}
_PLAIN = {**_LAMBDA_0, "residual_noise_std": 0.0, "propagation": "none", **_OWN_WEIGHTS}
_TDPO = {"loss_type": ["sigmoid"], "precompute_ref_log_probs": False}
_SIMPO = {"loss_type": "simpo", "cpo_alpha": 0.0, "alpha": 0.0}

_IFT = "training.config.IFTConfig"
_SETTINGS = "methods.settings"
_PREFERENCE = "methods.preference"
_CONTROL = ("methods.controls.ControlTrainer", "methods.controls.ControlSettings")


def _by_name(*methods: Method) -> Mapping[str, Method]:
    return MappingProxyType({method.name: method for method in methods})


METHODS = _by_name(
    Method("ift", "Intuitive Fine-Tuning, from target answers", "training.trainer.IFTTrainer", _IFT),
    Method("sft", "supervised fine-tuning, from target answers", "methods.sft.PlainSFTTrainer", _IFT,
           fixed=_PLAIN, help_fields=("loss_reduction",)),
    Method("neftune", "SFT with noise on the embeddings, from target answers", "methods.sft.NEFTuneTrainer", _IFT,
           {"neftune_noise_alpha": 5.0}, _PLAIN, help_fields=("neftune_noise_alpha", "loss_reduction")),
    Method("dft", "SFT with each token's loss times its probability, from target answers", "methods.sft.DFTTrainer",
           f"{_SETTINGS}.DFTSettings", fixed={"loss_type": "dft"}, help_fields=("loss_type",)),
    Method("dpo", "direct preference optimisation, from pairs, with a reference model",
           f"{_PREFERENCE}.PreparedDPOTrainer", f"{_SETTINGS}.DPOSettings", {"beta": 0.1}, {"loss_type": ["sigmoid"]},
           needs_pairs=True, needs_reference=True),
    Method("orpo", "odds-ratio preference optimisation, from pairs", f"{_PREFERENCE}.PreparedORPOTrainer",
           f"{_SETTINGS}.ORPOSettings", {"beta": 0.25}, needs_pairs=True),
    Method("simpo", "simple preference optimisation, from pairs", f"{_PREFERENCE}.PreparedSimPOTrainer",
           f"{_SETTINGS}.SimPOSettings", {"beta": 2.0, "simpo_gamma": 1.6}, _SIMPO, needs_pairs=True),
    Method("tdpo1", "token-level DPO, version 1, from pairs, with a reference model", "methods.tdpo.TDPOTrainer",
           f"{_SETTINGS}.TDPOSettings", {"beta": 0.1}, {**_TDPO, "tdpo_version": 1},
           needs_pairs=True, needs_reference=True),
    Method("tdpo2", "token-level DPO, version 2, from pairs, with a reference model", "methods.tdpo.TDPOTrainer",
           f"{_SETTINGS}.TDPOSettings", {"beta": 0.1, "tdpo_alpha": 0.5}, {**_TDPO, "tdpo_version": 2},
           needs_pairs=True, needs_reference=True),
)  # fmt: skip

CONTROLS = _by_name(
    Method("random-residual", "control: IFT with random tokens instead of the look-ahead's", *_CONTROL,
           fixed={"lookahead": "random", **_OWN_WEIGHTS}),
    Method("position-weights", "control: IFT with weights that depend on the position only", *_CONTROL,
           fixed={"propagation": "position", **_OWN_WEIGHTS}),
    Method("sft-dropout", "control: SFT with dropout on the output of attention and MLP", *_CONTROL,
           {"dropout": 0.1}, _PLAIN, help_fields=("dropout", "loss_reduction")),
    Method("label-smoothing", "control: SFT on targets mixed with the uniform distribution", *_CONTROL,
           {"target_smoothing": 0.1}, _PLAIN, help_fields=("target_smoothing", "loss_reduction")),
    Method("flooding", "control: SFT with flooding, which raises the loss again below a level", *_CONTROL,
           {"flooding_level": 0.1}, _PLAIN, help_fields=("flooding_level", "flooding_over", "loss_reduction")),
)  # fmt: skip

ALIASES: Mapping[str, str] = MappingProxyType({"tdpo": "tdpo2"})


def fields_left_to_other_stages(methods: Sequence[Method], number: int) -> set[str]:
    """Settings that stage `number` (from 1) fixes and another can change; it ignores values given for all stages."""
    fixed = methods[number - 1].fixed
    free = {
        name
        for other in methods
        for name in fixed.keys() & other.load_config().__dataclass_fields__.keys()
        if name not in other.fixed
    }
    return free if len(methods) > 1 else set()


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
            hint = did_you_mean(name, [*known, *ALIASES]) or "."
            raise ValueError(
                f"unknown method {word!r}{hint} There are {', '.join(METHODS)}, and sequences such as sft+dpo."
            )
        found.append(known[name])
    return tuple(found)

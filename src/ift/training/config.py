"""IFTConfig: trl's SFTConfig with the method's fields; defaults from App. B.1 of arXiv:2405.11870v3."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from trl import SFTConfig
from trl.trainer.utils import get_config_model_id

from ift.data import DataError
from ift.step.settings import CHOICES, StepSettings
from ift.training.unknown_settings import RefusesUnknownNames

METHOD_FIELDS = tuple(field.name for field in fields(StepSettings) if field.name not in ("seed", "step"))
LAMBDA_FIELDS = ("residual_lambda_start", "residual_warmup_ratio", "residual_noise_std")


def field_with_help(default: Any, text: str, **metadata: Any) -> Any:
    """A dataclass field whose help text the command line shows."""
    return field(default=default, metadata={"help": text, **metadata})


def _step_field(name: str, text: str) -> Any:
    """A field of `StepSettings`, which defines its default and choices."""
    choices = {"choices": list(CHOICES[name])} if name in CHOICES else {}
    return field_with_help(getattr(StepSettings, name), text, **choices)


def train_without_accelerator(config: Any) -> None:
    """Without an accelerator, selects the CPU and turns off trl's default bf16, with which trl would raise an error."""
    if not torch.accelerator.is_available():
        config.use_cpu = True
        config.bf16 = False if config.bf16 is None else config.bf16


def take_new_names(config: Any) -> None:
    """Gives transformers `gradient_checkpointing` under its new name; it warns about the old one, which is trl's."""
    for part in ("checkpointing", "checkpointing_kwargs"):
        if getattr(config, f"activation_{part}", False) is None:  # older versions have no such field
            setattr(config, f"activation_{part}", getattr(config, f"gradient_{part}"))


def answers_only_field() -> Any:
    """The field `assistant_only_loss`, which is False by default in trl: None here, so that a given False is seen.

    Its type stays bool, with which the command line accepts the flag also without a value.
    """
    return field_with_help(
        None,
        "None and true: the answers alone are trained. false, with which trl trains every token of rows with messages, "
        "is refused without completion_only_loss: false, which trains every token here.",
    )


def decide_trained_tokens(config: Any) -> None:
    """Leaves it to `completion_only_loss` which tokens are trained, with `assistant_only_loss` None from here on.

    trl itself must not see True: `ift.data` makes the masks, and needs no other chat template for them.

    Raises:
        ValueError: `assistant_only_loss` is False, and `completion_only_loss` does not say what is trained.
    """
    if config.assistant_only_loss is False and config.completion_only_loss is None:
        raise ValueError(
            "assistant_only_loss is false, and ift trains the answers alone, where trl trains every token of rows with "
            "messages. Set completion_only_loss: false to train every token, or leave assistant_only_loss out."
        )
    config.assistant_only_loss = None


def raise_conflicts(conflicts: Mapping[str, bool]) -> None:
    """Raises ValueError with all messages whose condition holds, one a line."""
    if found := [message for message, holds in conflicts.items() if holds]:
        raise ValueError("\n".join(found))


@dataclass
class IFTConfig(RefusesUnknownNames, SFTConfig):
    """Arguments of `IFTTrainer`: all fields of `trl.SFTConfig`, and those of the method.

    docs/configuration.md explains each field with its equation.

    Raises:
        TypeError: An unknown name; the message has the right one, also for names of other tools.
        ValueError: A value out of range, or two conflicting options; the message suggests a fix.
    """

    residual_lambda: float = _step_field(
        "residual_lambda",
        "Share lambda of the model's guess in the input embeddings, in [0, 1]. 0 disables the look-ahead.",
    )
    residual_lambda_start: float | None = field_with_help(
        None, "Lambda at step 0 of a linear warm-up, in [0, 1]; needs residual_warmup_ratio. None means 0."
    )
    residual_warmup_ratio: float = field_with_help(
        0.0,
        "Share of all steps, in [0, 1], over which lambda goes linearly from its start value to residual_lambda.",
    )
    residual_noise_std: float = field_with_help(
        0.0,
        "Sigma >= 0 of noisy lambda: lambda * (1 + sigma n) per optimiser step, clamped to [0, 1]. The paper: 0.5.",
    )
    lookahead: str = _step_field(
        "lookahead", "The guess: the argmax, a sampled token, or the expected embedding."
    )
    lookahead_temperature: float = _step_field(
        "lookahead_temperature", "Temperature > 0 of the sampled and the expected look-ahead."
    )
    lookahead_top_k: int = _step_field("lookahead_top_k", "Candidates, >= 1, of the expected look-ahead.")
    lookahead_prefix: str = _step_field(
        "lookahead_prefix",
        "Compute the tokens before the first trained one once for both passes (where that is exact), or twice; auto: "
        "once where that saves time, on a CPU with large enough batches.",
    )
    propagation: str = _step_field(
        "propagation",
        "Weights of the token losses: discounted sum of the later losses (Algorithm 1), Eq. 21 read literally, or 1.",
    )
    propagation_gamma: float = _step_field("propagation_gamma", "Decay gamma of the propagation, in (0, 1].")
    propagation_detach: str = _step_field(
        "propagation_detach",
        "Which part of the bellman weights is detached: their scale (Algorithm 1 as printed), none (the released code, "
        "which raises the loss of confident tokens at the end of a row), or the whole weights.",
    )
    loss_reduction: str = _step_field(
        "loss_reduction", "Mean over rows of each row's mean (the paper), or over all trained tokens (trl)."
    )

    token_weights: str | None = field_with_help(
        None,
        "A function of your own, FILE.py:function, that gives the weights of the token losses in place of the "
        "propagation; the file is imported (docs/method.md).",
    )
    assistant_only_loss: bool = answers_only_field()

    def __post_init__(self) -> None:
        """Checks ranges and conflicts before trl's own checks."""
        self._set_defaults()
        self.step_settings()  # checks the method's own fields
        self._check_lambda_schedule()
        self._check_conflicts()
        super().__post_init__()

    def step_settings(self, **changes: Any) -> StepSettings:
        """The settings of one step; `changes` are those that vary by step (the scheduled lambda, `step`)."""
        settings = {name: getattr(self, name) for name in METHOD_FIELDS}
        return StepSettings(**{**settings, "seed": self.seed, **changes})

    @property
    def has_lambda(self) -> bool:
        """Whether lambda is above 0 at any step; without it a run is one without look-ahead."""
        return self.residual_lambda > 0 or (self.residual_lambda_start or 0.0) > 0

    def _set_defaults(self: Any) -> None:
        if self.metric_for_best_model is None:
            self.metric_for_best_model = "eval_nll"  # the loss depends on lambda
        if self.greater_is_better is None and self.metric_for_best_model.endswith("nll"):
            self.greater_is_better = False
        decide_trained_tokens(self)
        train_without_accelerator(self)
        take_new_names(self)

    def _check_lambda_schedule(self) -> None:
        start = self.residual_lambda_start
        ranges = {
            "residual_lambda_start": (start is None or 0 <= start <= 1, "a value in [0, 1], such as 0.4"),
            "residual_warmup_ratio": (0 <= self.residual_warmup_ratio <= 1, "a value in [0, 1], such as 0.5"),
            "residual_noise_std": (0 <= self.residual_noise_std < math.inf, "0 (off) or more, such as 0.5"),
        }
        raise_conflicts(
            {
                f"{name} is {getattr(self, name)}; give {words}.": not holds
                for name, (holds, words) in ranges.items()
            }
        )

    def _check_conflicts(self) -> None:
        conflicts = {
            f"residual_lambda_start {self.residual_lambda_start} without a warm-up has no effect. Set "
            "residual_warmup_ratio above 0, such as 0.5 (half of the steps), or leave the start out.": (
                self.residual_lambda_start is not None and self.residual_warmup_ratio == 0
            ),
            "residual_noise_std has no effect at lambda 0. Set residual_lambda above 0, such as 0.2, or leave the "
            "noise out.": (self.residual_noise_std > 0 and not self.has_lambda),
            "IFT has its own loss. Leave loss_type at 'nll'; trl's SFTTrainer trains 'dft'.": self.loss_type
            == "dft",
            "label_smoothing_factor needs the full logits, which IFT never builds. Set it to 0.": (
                self.label_smoothing_factor != 0
            ),
            f"token_weights {self.token_weights} takes the place of the propagation. Leave propagation, "
            "propagation_gamma and propagation_detach at their defaults.": (
                self.token_weights is not None and self.propagation != "none" and self._changed_propagation()
            ),
            "neftune_noise_alpha adds NEFTune's noise to the input embeddings, which IFT mixes with its own guesses: "
            "the two cannot be used together. Leave neftune_noise_alpha out, or train SFT with this noise: --method "
            "neftune (or lambda 0 at every step).": bool(self.neftune_noise_alpha) and self.has_lambda,
            f"packing_strategy={self.packing_strategy!r} splits documents, and each part would count as an answer. "
            "Set packing_strategy='bfd', or packing=False.": (
                (self.packing or bool(self.eval_packing)) and self.packing_strategy != "bfd"
            ),
            "IFT's loss is a mean over the global batch. Leave average_tokens_across_devices at True.": (
                not self.average_tokens_across_devices
            ),
            "truncation_mode='keep_end' truncates prompts. Use 'keep_start', or raise max_length.": (
                self.truncation_mode != "keep_start"
            ),
        }
        raise_conflicts(conflicts)

    def _changed_propagation(self) -> bool:
        names = [name for name in METHOD_FIELDS if name.startswith("propagation")]
        return any(getattr(self, name) != getattr(StepSettings, name) for name in names)


def config_for(model: Any, args: Any) -> IFTConfig:
    """The settings of a trainer: `args`, or by default those whose output folder is named after the model.

    Raises:
        ValueError: They are not an `IFTConfig`.
    """
    if args is None:
        name = model if isinstance(model, str) else get_config_model_id(model.config)
        return IFTConfig(output_dir=f"{str(name).rstrip('/').split('/')[-1]}-IFT")
    if not isinstance(args, IFTConfig):
        raise ValueError(
            f"args is a {type(args).__name__}; give an IFTConfig (it takes every SFTConfig field)."
        )
    return args


def preparation(args: Any) -> dict[str, Any]:
    """The options of `prepare_dataset` in a config.

    Raises:
        DataError: `dataset_kwargs` is set, which would skip the preparation.
    """
    if getattr(args, "dataset_kwargs", None):
        raise DataError(
            f"dataset_kwargs {args.dataset_kwargs}: not supported, because ift prepares every row. Fix: leave it out; "
            "rows with input_ids and labels are used unchanged"
        )
    return {
        "max_length": args.max_length,
        "train_on": "all" if args.completion_only_loss is False else "completions",
        "num_proc": args.dataset_num_proc,
        "text_field": getattr(args, "dataset_text_field", "text"),
    }

"""Defaults of other tools that differ from ift's: what their files leave unsaid, and what no setting can say.

Sources: the published documentation and configuration schemas of Axolotl and LLaMA-Factory, read in November 2026.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ift.methods.table import METHODS
from ift.runs.converted_engines import few_bits

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Default:
    """A default of another tool.

    Attributes:
        name: The setting here.
        value: Its value there, or a function of (the file's settings, the converted settings).
        here: What ift does without it, for the report.
        holds: Whether the default applies, from the same two.
    """

    name: str
    value: Any
    here: str
    holds: Callable[[Settings, Settings], bool] = lambda written, ours: True


def _lora(written: Settings, ours: Settings) -> bool:
    return bool(ours.get("use_peft"))


def _in_bits(written: Settings, ours: Settings) -> bool:
    return few_bits(written) and not ours.get("load_in_8bit")


def _saves(written: Settings, ours: Settings) -> bool:
    return ours.get("save_strategy") != "no"


def _method(*names: str) -> Callable[[Settings, Settings], bool]:
    return lambda written, ours: ours.get("method") in names


def _axolotl_bf16(written: Settings, ours: Settings) -> bool:
    return bool(written.get("bf16", "auto")) and not written.get("fp16") and not written.get("float32")


def _llama_factory_dtype(written: Settings, ours: Settings) -> str:
    """The dtype of the base beside LoRA: that of autocast, else that of the files."""
    return next(
        (dtype for name, dtype in (("bf16", "bfloat16"), ("fp16", "float16")) if written.get(name)), "auto"
    )


_PAIRS = (
    Default("beta", 0.1, "0.25 or 2", _method("orpo", "simpo")),
    Default("simpo_gamma", 0.5, "1.6", _method("simpo")),
    Default("loss_reduction", "token", "the mean over answers", _method("sft")),
)
DEFAULTS: Mapping[str, tuple[Default, ...]] = {
    "Axolotl": (
        Default("dtype", "bfloat16", "float32", _axolotl_bf16),
        Default("use_bnb_nested_quant", True, "false", _in_bits),
        Default("lora_dropout", 0.0, "0.05", _lora),
        Default("num_train_epochs", 1.0, "3", lambda written, ours: "max_steps" not in ours),
        Default("per_device_train_batch_size", 1, "8"),
        Default("per_device_eval_batch_size", lambda written, ours: ours["per_device_train_batch_size"], "8"),
        Default("max_length", 512, "1024"),
        Default("lr_scheduler_type", "cosine", "linear"),
        Default("warmup_steps", 0.03, "0; Axolotl's is 3 % of the steps, at most 100"),
        Default("save_strategy", "epoch", "steps", lambda written, ours: "save_steps" not in ours),
        Default("save_total_limit", 4, "all checkpoints are kept", _saves),
        *_PAIRS,
    ),
    "LLaMA-Factory": (
        Default("dtype", _llama_factory_dtype, "float32", _lora),
        Default("use_bnb_nested_quant", True, "false", _in_bits),
        Default("lora_r", 8, "16", _lora),
        Default("lora_alpha", lambda written, ours: 2 * ours["lora_r"], "32", _lora),
        Default("lora_dropout", 0.0, "0.05", _lora),
        Default("lora_target_modules", "all-linear", "peft's choice for the architecture", _lora),
        Default("max_length", 2048, "1024"),
        Default("learning_rate", 5e-5, "2e-5, or 1e-6 to 8e-7 on pairs"),
        *_PAIRS,
    ),
    "trl": _PAIRS,
    "unsloth": _PAIRS[-1:],
}
_TOKENS = (
    "loss: the other tool's is the mean over all trained tokens of a batch; ift's is the mean over answers of each "
    "answer's mean, so short answers count more. loss_reduction: token gives the other tool's (--method sft writes it)"
)
_LONG = (
    "rows longer than max_length: Axolotl drops them; ift truncates them at their end, and refuses a run if these are "
    "more than 20 % of the rows; ift check counts them"
)
_MICRO_BATCHES = (
    "gradient accumulation and several GPUs: Axolotl 0.19 averages the means of the micro-batches and of the GPUs; ift "
    "divides by all trained tokens or answers of the step, however it is divided"
)
_ADAPTER = (
    "the adapter beside a base in 4 or 8 bits: the other tool's matrices are float32, as peft makes them; ift's are "
    "bfloat16, as trl makes them, and ift check warns of a learning rate that is too small for this"
)
_OVERWRITTEN = (
    "overwrite_output_dir: the other tool keeps the files of an earlier run until it overwrites them; ift train "
    "deletes its own earlier run in the folder, model included, when the new run begins to train, and replaces files "
    "of the same name that another tool left there; to keep such a model, give another output_dir"
)
_BEST = (
    "metric_for_best_model: with IFT, eval_loss is the weighted loss under mixed inputs; the mean loss of the targets, "
    "which the other tool's eval_loss is, is eval_nll, the default here"
)
_APART = (
    "packing: LLaMA-Factory without neat_packing lets a row attend to the earlier rows of its sequence; ift keeps them "
    "apart"
)
_ALL_TURNS = (
    "trained tokens of conversations: trl trains every token, the user's too, unless assistant_only_loss is set; ift "
    "trains only the answers; completion_only_loss: false trains every token"
)


def implied(tool: str, written: Settings, ours: Settings) -> dict[str, tuple[Any, str]]:
    """Settings that a file of `tool` leaves unsaid and whose default there is another than here.

    Args:
        tool: A key of `DEFAULTS`.
        written: The settings of the file.
        ours: The settings that they became.

    Returns:
        Name here -> (value, what ift does without it).
    """
    found: dict[str, tuple[Any, str]] = {}
    for one in DEFAULTS[tool]:
        if one.name not in ours and one.holds(written, ours):
            so_far = {**ours, **{name: value for name, (value, _) in found.items()}}
            value = one.value(written, so_far) if callable(one.value) else one.value
            found[one.name] = value, one.here
    return found


def differences(tool: str, written: Settings, ours: Settings) -> list[str]:
    """Sentences about defaults of `tool` that a converted file does not take over, where they change results."""
    on_answers = not METHODS[ours["method"]].needs_pairs if ours.get("method") in METHODS else True
    notes = [_TOKENS] if on_answers and "loss_reduction" not in ours else []
    notes += [_LONG] if tool == "Axolotl" and not written.get("excess_length_strategy") else []
    joined = tool == "LLaMA-Factory" and ours.get("packing") and written.get("neat_packing") is None
    notes += [_APART] if joined else []
    divided = int(ours.get("gradient_accumulation_steps") or 1) > 1 or "accelerate_config" in ours
    notes += [_MICRO_BATCHES] if tool == "Axolotl" and divided and on_answers else []
    notes += [_ADAPTER] if tool in ("Axolotl", "LLaMA-Factory") and few_bits(written) else []
    notes += [_OVERWRITTEN] if ours.get("overwrite_output_dir") else []
    by_loss = ours.get("metric_for_best_model") in ("loss", "eval_loss")
    notes += [_BEST] if by_loss and ours.get("method", "ift") == "ift" else []
    chosen = ("assistant_only_loss", "completion_only_loss")
    return notes + (
        [_ALL_TURNS] if tool == "trl" and on_answers and not any(one in ours for one in chosen) else []
    )

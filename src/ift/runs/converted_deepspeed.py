"""DeepSpeed's configuration, a mapping or the JSON file that another tool's file names: its keys as settings here."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ift.runs.converted_names import KeysInside, said_elsewhere
from ift.runs.harmless_names import Same
from ift.text import quoted

OWN = "an accelerate configuration of your own can set it: --accelerate_config FILE (docs/many_gpus.md)"
UNKNOWN_STAGE = "ZERO2_OR_ZERO3"
# files that come with Axolotl and LLaMA-Factory, which leave the optimiser, the schedule and the clipping to the run
SHIPPED = re.compile(
    r"zero[123](_bf16)?(_cpuoffload_(all|params))?(_torch_compile)?|ds_z[023](_offload)?(_fp8|_autotp)?_config"
)
SCHEDULES = {"WarmupLR": "constant_with_warmup", "WarmupDecayLR": "linear", "WarmupCosineLR": "cosine"}
OF_THE_RUN = {
    "gradient_clipping": "max_grad_norm",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "train_micro_batch_size_per_gpu": "per_device_train_batch_size",
}
OF_OPTIMIZER = {"lr": "learning_rate", "eps": "adam_epsilon", "weight_decay": "weight_decay"}
OF_SCHEDULER = {"warmup_num_steps": "warmup_steps", "warmup_max_lr": "learning_rate"}
# speed, memory, logs
SAME_TRAINING = (
    "steps_per_print", "wall_clock_breakdown", "dump_state", "memory_breakdown", "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer", "activation_checkpointing", "aio", "flops_profiler", "tensorboard", "wandb",
    "csv_monitor", "comms_logger", "compile", "checkpoint", "prescale_gradients", "gradient_predivide_factor",
    "dataloader_drop_last", "disable_allgather", "checkpoint_tag_validation", "elasticity", "name",
)  # fmt: skip
QUANTISED = ("zero_quantized_weights", "zero_quantized_gradients", "zero_quantized_nontrainable_weights")


class Unread(str):
    """The name of a configuration that could not be read; `reason` says why."""

    __slots__ = ("reason",)
    reason: str

    def __new__(cls, name: str, reason: str) -> Unread:
        """The name, with the reason."""
        found = super().__new__(cls, name)
        found.reason = reason
        return found

    @property
    def stage(self) -> str:
        """The stage of ZeRO that the name tells, or ""."""
        match = re.search(r"(?:zero|z)[-_]?([0123])(?!\d)", Path(self).stem.lower())
        return match.group(1) if match else ""


def read_named(value: Any, file: Path) -> Any:
    """A value of `deepspeed` or `dist_config` with the JSON file that it names in its place.

    Args:
        value: A mapping, or the name of a file, as seen from the current folder or from that of `file`.
        file: The configuration that has the value.

    Returns:
        A mapping; an `Unread` for a file that is not there or is no JSON object; other values as they are.
    """
    if isinstance(value, Mapping):
        named = value.get("config_file")
        if not named or value.get("name") != "deepspeed":
            return value
        rest = {key: one for key, one in value.items() if key != "config_file"}
        read = read_named(str(named), file)
        return {**rest, **read} if isinstance(read, Mapping) else read
    if not isinstance(value, str) or value in ("", "ddp"):
        return value
    places = dict.fromkeys([Path(value).expanduser(), file.parent / Path(value).expanduser()])
    for place in places:
        try:
            found = json.loads(place.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            return Unread(value, f"{place} cannot be read ({quoted(error)})")
        return found if isinstance(found, dict) else Unread(value, f"{place} is no JSON object")
    return Unread(value, f"found no file {' or '.join(map(str, places))}")


def stage_of(value: Any) -> str:
    """The stage of ZeRO in a value of `read_named`; "" if it is not known."""
    if isinstance(value, Unread):
        return value.stage
    zero = value.get("zero_optimization") if isinstance(value, Mapping) else None
    return str(zero.get("stage", 0)) if isinstance(zero, Mapping) else "0"


def keys_of_deepspeed(value: Any, written: Mapping[str, Any]) -> KeysInside:
    """What becomes of each key of a value of `read_named`, but for the stage.

    Args:
        value: The value.
        written: The settings of the file around it.
    """
    found = KeysInside(written)
    if isinstance(value, Unread):
        if SHIPPED.fullmatch(Path(value).stem):
            found.lost[""] = Same(
                f"{value.reason}; its name is that of a file that comes with Axolotl or LLaMA-Factory, so its stage is "
                "known, and it sets no optimizer, scheduler or clipping"
            )
        else:
            found.lost[".*"] = (
                f"{value.reason}, so what it sets (such as optimizer, scheduler, gradient_clipping) is not known. Fix: "
                "convert where the file is"
            )
        if "offload" in value.lower():
            found.lost[".offload"] = _offloaded()
        return found
    for key, one in value.items():
        if key in OF_THE_RUN:
            found.take(f".{key}", OF_THE_RUN[key], one)
        elif key in SECTIONS and isinstance(one, Mapping):
            SECTIONS[key](one, found)
        elif key == "train_batch_size":
            _batch(one, found)
        elif key in SAME_TRAINING:
            found.lost[f".{key}"] = Same("it concerns speed, memory or logs")
        elif one in (False, None):
            found.lost[f".{key}"] = Same("it is off")
        else:
            found.lost[f".{key}"] = f"the engines of ift do not set it; {OWN}"
    found.lost.pop(".name", None)
    return found


def _offloaded() -> Same:
    return Same(f"weights and states stay on the GPUs; {OWN}")


def _batch(value: Any, found: KeysInside) -> None:
    """train_batch_size, the rows of a step on all devices."""
    whole = "per_device_train_batch_size times gradient_accumulation_steps times the number of processes"
    if value == "auto" or said_elsewhere(found.written, "per_device_train_batch_size") is not None:
        found.lost[".train_batch_size"] = Same(f"here too it is {whole}")
    else:
        found.lost[".train_batch_size"] = f"the rows of a step are {whole}: choose them so that it is {value}"


def _optimizer(value: Mapping[str, Any], found: KeysInside) -> None:
    """DeepSpeed's own optimiser, which takes the place of the run's in the other tool."""
    kind, optim = str(value.get("type", "")), said_elsewhere(found.written, "optim")
    ours = f"optim: {optim}" if optim else "its default, AdamW"
    if kind.lower() not in ("adam", "adamw"):
        found.lost[".optimizer.type"] = f"ift trains with {ours}, not with DeepSpeed's {kind}: set optim"
    elif optim is None or str(optim).startswith("adamw_torch"):
        found.lost[".optimizer.type"] = Same(f"{kind}: ift also trains with AdamW")
    else:
        found.lost[".optimizer.type"] = f"ift trains with {ours}, where DeepSpeed's {kind} would replace it"
    for key, one in (value.get("params") or {}).items():
        name = f".optimizer.params.{key}"
        if key in OF_OPTIMIZER:
            found.take(name, OF_OPTIMIZER[key], one)
        elif key == "betas" and isinstance(one, list) and len(one) == 2:
            for beta, which in zip(one, ("adam_beta1", "adam_beta2"), strict=True):
                found.take(name, which, beta)
        elif one == "auto":
            found.lost[name] = Same("auto: the run's own applies here too")
        elif key == "torch_adam" or (key, one) == ("adam_w_mode", True):
            found.lost[name] = Same("ift also trains with torch's AdamW")
        else:
            found.lost[name] = "no setting of ift has it"


def _scheduler(value: Mapping[str, Any], found: KeysInside) -> None:
    """DeepSpeed's own schedule, which takes the place of the run's in the other tool."""
    kind, params = str(value.get("type", "")), value.get("params") or {}
    if kind in SCHEDULES:
        found.take(".scheduler.type", "lr_scheduler_type", SCHEDULES[kind])
    else:
        found.lost[".scheduler.type"] = f"{kind} has no counterpart: choose lr_scheduler_type"
    for key, one in params.items():
        name = f".scheduler.params.{key}"
        if key in OF_SCHEDULER:
            found.take(name, OF_SCHEDULER[key], one)
        elif one == "auto" or (key, one) in (("warmup_min_lr", 0), ("warmup_type", "linear")):
            found.lost[name] = Same("ift does the same")
        elif key == "total_num_steps":
            found.lost[name] = "the schedule ends with the run: max_steps sets its number of steps"
        elif key != "warmup_type":
            found.lost[name] = "ift's schedules have no such value"
    if kind in SCHEDULES and params.get("warmup_type") != "linear":
        found.lost[".scheduler.params.warmup_type"] = (
            "ift's warm-up raises the learning rate linearly, DeepSpeed's by default with the logarithm of the step"
        )


def _zero(value: Mapping[str, Any], found: KeysInside) -> None:
    """`zero_optimization`: what divides the same computation, but for the offloading and quantised communication."""
    for key, one in value.items():
        name = f".zero_optimization.{key}"
        if "offload" in key:
            device = one.get("device", "none") if isinstance(one, Mapping) else one
            found.lost[name] = Same("it is off") if device in ("none", None, False) else _offloaded()
        elif key in QUANTISED and one:
            found.lost[name] = f"ift's engines send weights and gradients as they are; {OWN}"
        elif key != "stage":
            found.lost[name] = Same("it divides or orders the same computation: speed and memory alone")


def _precision(section: str) -> Any:
    def precision(value: Mapping[str, Any], found: KeysInside) -> None:
        for key, one in value.items():
            name = f".{section}.{key}"
            if key == "enabled" and one is False and said_elsewhere(found.written, section) in (None, "auto"):
                found.lost[name] = Same("it is off")
            elif key == "enabled":
                found.take(name, section, one)
            elif key == "loss_scale" and one not in (0, "auto"):
                found.lost[name] = f"ift scales the loss dynamically, not by {one}; {OWN}"
            else:
                found.lost[name] = Same(
                    "ift also scales the loss dynamically, with the defaults of its engine"
                )

    return precision


SECTIONS = {
    "bf16": _precision("bf16"),
    "fp16": _precision("fp16"),
    "optimizer": _optimizer,
    "scheduler": _scheduler,
    "zero_optimization": _zero,
}

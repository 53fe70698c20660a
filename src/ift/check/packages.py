"""Finds all optional packages that the settings of a run need and that are not installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

# beginning of an optimiser's name -> package to install, module; the first that fits counts
_OPTIMISERS = (
    ("adamw_torch_4bit", "torchao", "torchao"), ("adamw_torch_8bit", "torchao", "torchao"),
    ("galore", "galore-torch", "galore_torch"), ("apollo", "apollo-torch", "apollo_torch"),
    ("lomo", "lomo-optim", "lomo_optim"), ("adalomo", "lomo-optim", "lomo_optim"),
    ("grokadamw", "grokadamw", "grokadamw"), ("schedule_free", "schedulefree", "schedulefree"),
    ("stable_adamw", "torch-optimi", "optimi"), ("ademamix", "bitsandbytes", "bitsandbytes"),
    ("adamw_8bit", "bitsandbytes", "bitsandbytes"), ("adamw_bnb", "bitsandbytes", "bitsandbytes"),
    ("lion", "bitsandbytes", "bitsandbytes"), ("paged", "bitsandbytes", "bitsandbytes"),
    ("rmsprop_bnb", "bitsandbytes", "bitsandbytes"),
)  # fmt: skip
# name in report_to -> package to install, module
_TRACKERS = {
    "clearml": ("clearml", "clearml"), "codecarbon": ("codecarbon", "codecarbon"), "comet_ml": ("comet-ml", "comet_ml"),
    "dvclive": ("dvclive", "dvclive"), "mlflow": ("mlflow", "mlflow"), "neptune": ("neptune", "neptune"),
    "swanlab": ("swanlab", "swanlab"), "tensorboard": ("tensorboard", "tensorboard"),
    "trackio": ("trackio", "trackio"), "wandb": ("wandb", "wandb"),
}  # fmt: skip
_SCORES = {"bleu": ("sacrebleu", "sacrebleu"), "chrf": ("sacrebleu", "sacrebleu"),
           "rouge": ("rouge-score", "rouge_score")}  # fmt: skip


_EXTRAS = {"bitsandbytes": "quant", "rouge-score": "scores", "sacrebleu": "scores"}  # package -> extra of ift


def wanted_packages(stages: Iterable[Any], engine: str = "ddp") -> dict[str, list[str]]:
    """The packages that stages need and that are not installed -> the settings that need them.

    `engine` is the name of the run's.
    """
    wanted: dict[str, list[str]] = {}
    if engine.startswith("zero") and not _is_installed("deepspeed"):
        wanted["deepspeed"] = [engine]
    for stage in stages:
        for setting, package, modules in _needed(stage):
            if not any(map(_is_installed, modules)) and setting not in wanted.get(package, []):
                wanted.setdefault(package, []).append(setting)
    return wanted


def missing_packages(stages: Iterable[Any], engine: str = "ddp") -> str:
    """Lists the `wanted_packages` with one command that installs all; "" for none."""
    wanted = wanted_packages(stages, engine)
    if not wanted:
        return ""
    listed = ", ".join(f"{package} (for {', '.join(settings)})" for package, settings in wanted.items())
    extras = sorted({_EXTRAS[package] for package in wanted if package in _EXTRAS})
    others = [package for package in wanted if package not in _EXTRAS]
    return f"not installed: {listed}. Fix: {install_command(*extras, packages=others)}, or leave these settings out"


def install_command(*extras: str, packages: Sequence[str] = ()) -> str:
    """The command that installs the packages of ift's extras and other packages, wherever ift was installed from."""
    ours = [f"'intuitive-fine-tuning[{','.join(extras)}]'"] if extras else []
    return " ".join(["pip install", *ours, *packages])


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _needed(stage: Any) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Of each setting that needs a package: the setting, the package, and the modules of which one suffices."""
    config, model = stage.config, stage.model
    for name in ("load_in_4bit", "load_in_8bit"):
        if getattr(model, name):
            yield name, "bitsandbytes", ("bitsandbytes",)
    if config.use_liger_kernel:
        yield "use_liger_kernel", "liger-kernel", ("liger_kernel",)
    optimiser = str(getattr(config.optim, "value", config.optim))
    for start, package, module in _OPTIMISERS:
        if optimiser.startswith(start):
            yield f"optim {optimiser}", package, (module,)
            break
    for tracker in config.report_to if isinstance(config.report_to, list) else [config.report_to]:
        if tracker in _TRACKERS:
            package, module = _TRACKERS[tracker]
            yield (
                f"report_to {tracker}",
                package,
                (module, "tensorboardX") if tracker == "tensorboard" else (module,),
            )
    if model.attn_implementation == "flash_attention_2":  # transformers takes it from `kernels` too
        yield "attn_implementation flash_attention_2", "flash-attn", ("flash_attn", "kernels")
    for score in (getattr(getattr(stage, "answers", None), "eval_score", None) or "").split(","):
        if score.strip() in _SCORES:
            package, module = _SCORES[score.strip()]
            yield f"eval_score {score.strip()}", package, (module,)

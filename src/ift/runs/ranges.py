"""Checks the ranges of trl's and transformers' settings before anything is loaded (IFT's: training/config.py)."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import fields
from typing import Any

from ift.runs.argv import UsageError

ABOVE_0 = math.nextafter(0, 1)
BELOW_1 = math.nextafter(1, 0)
MOST = math.nextafter(math.inf, 0)
RANGES = {  # name -> (least, most, words)
    "adam_beta1": (0, BELOW_1, "a value in [0, 1)"),
    "adam_beta2": (0, BELOW_1, "a value in [0, 1)"),
    "dataloader_num_workers": (0, MOST, "0 or more"),
    "dataset_num_proc": (1, MOST, "1 or more"),
    "eval_steps": (ABOVE_0, MOST, "more than 0"),
    "gradient_accumulation_steps": (1, MOST, "1 or more"),
    "learning_rate": (0, MOST, "a number, 0 or more"),
    "logging_steps": (ABOVE_0, MOST, "more than 0"),
    "lora_alpha": (ABOVE_0, MOST, "more than 0"),
    "lora_dropout": (0, BELOW_1, "a value in [0, 1)"),
    "lora_r": (1, MOST, "1 or more"),
    "max_grad_norm": (0, MOST, "0 or more"),
    "max_length": (2, MOST, "2 or more: the first token of a row is never trained"),
    "num_train_epochs": (ABOVE_0, MOST, "more than 0"),
    "per_device_eval_batch_size": (1, MOST, "1 or more"),
    "per_device_train_batch_size": (1, MOST, "1 or more"),
    "save_steps": (ABOVE_0, MOST, "more than 0"),
    "save_total_limit": (1, MOST, "1 or more"),
    "test_split_size": (ABOVE_0, MOST, "a share below 1 or a number of rows, more than 0"),
    "seed": (0, 2**32 - 1, "a whole number from 0 to 4294967295"),
    "weight_decay": (0, MOST, "0 or more"),
}


def check_ranges(*parts: Any) -> None:
    """Checks the settings in dataclasses such as `IFTConfig` and `ModelConfig`; None is always valid.

    Raises:
        UsageError: Values are out of range; the message names each such setting and its range, one a line.
    """
    found = []
    for part in parts:
        for name, (least, most, words) in RANGES.items():
            value = getattr(part, name, None)
            if isinstance(value, int | float) and not least <= value <= most:
                found.append(f"{name} is {value}; give {words}.")
        held_out = getattr(part, "test_split_size", None)
        if held_out is not None and held_out > 1 and held_out != int(held_out):
            found.append(f"test_split_size is {held_out:g}; give a share below 1 or a whole number of rows.")
        steps = getattr(part, "max_steps", -1)
        if steps == 0 or steps < -1:
            found.append(f"max_steps is {steps}; give 1 or more, or -1 for num_train_epochs.")
        wrong = [
            one for one in (getattr(part, "optim_args", None) or "").split(",") if one and "=" not in one
        ]
        if wrong:
            found.append(f"optim_args has {wrong[0]!r}; give NAME=VALUE, with commas between several.")
        if not str(getattr(part, "output_dir", "somewhere")).strip():
            found.append("output_dir is empty; name a folder.")
    if found:
        raise UsageError("\n".join(found))


STRATEGIES = ("eval_strategy", "save_strategy", "logging_strategy")
BITS = ("bnb_4bit_quant_type", "use_bnb_nested_quant", "bnb_4bit_quant_storage")


def _of_lora(model: Any) -> list[str]:
    return [one.name for one in fields(model) if one.name.startswith("lora_")] + ["use_rslora", "use_dora"]


def switched_off(flags: Collection[str], in_file: Collection[str], model: Any) -> dict[str, str]:
    """Settings of the YAML file that a flag on the command line leaves without effect -> that flag.

    They belong to what `--use_peft false` or `--load_in_4bit false` switches off, and are not flags themselves.
    """
    groups = (("use_peft", _of_lora(model)), ("load_in_4bit", BITS))
    return {
        name: f"--{switch} false"
        for switch, names in groups
        if switch in flags and not getattr(model, switch)
        for name in names
        if name in in_file and name not in flags
    }


def check_used(named: Collection[str], script: Any, model: Any, mixture: Any, config: Any) -> None:
    """Refuses trl's settings that have no effect in combination with the others; `named` are those that were given.

    Raises:
        UsageError: Such settings were given and are not off; the message says what they need, one group a line.
    """
    groups = (
        (model, _of_lora(model), model.use_peft, "without use_peft: true"),
        (model, BITS, model.load_in_4bit, "without load_in_4bit: true"),
        (mixture, ["streaming"], mixture.datasets, "without datasets:"),
        (
            script,
            [one.name for one in fields(script) if one.name.startswith("dataset_")],
            not mixture.datasets,
            "with datasets:, whose entries name the data",
        ),
        (
            script,
            ["dataset_test_split"],
            mixture.test_split_size is None,
            "with test_split_size, which holds out training rows for evaluation",
        ),
        (script, ["ignore_bias_buffers"], False, "here"),
        (
            config,
            ["dataloader_persistent_workers"],
            config.dataloader_num_workers > 0,
            "without dataloader_num_workers: 1 or more",
        ),
        (config, ["eval_on_start"], config.eval_strategy != "no", "without eval_strategy: steps or epoch"),
    )
    problems = []
    for part, names, used, why in groups:
        found = [name for name in names if name in named and getattr(part, name) not in (None, False)]
        if found and not used:
            problems.append(f"{', '.join(found)}: no effect {why}. Change that, or leave {found[0]} out.")
    if problems:
        raise UsageError("\n".join(problems))


def without_effect(named: Collection[str], config: Any) -> dict[str, list[str]]:
    """What makes settings of transformers useless that were given and are not off -> their names."""
    never = {name: str(getattr(getattr(config, name), "value", None)) == "no" for name in STRATEGIES}
    groups = {
        "eval_strategy is no": (
            never["eval_strategy"],
            ("eval_steps", "eval_delay", "eval_packing", "metric_for_best_model", "greater_is_better"),
        ),
        "save_strategy is no": (
            never["save_strategy"],
            ("save_steps", "save_total_limit", "save_only_model"),
        ),
        "logging_strategy is no": (never["logging_strategy"], ("logging_steps", "logging_first_step")),
        "push_to_hub is false": (
            not config.push_to_hub,
            ("hub_model_id", "hub_strategy", "hub_private_repo", "hub_always_push", "hub_revision"),
        ),
    }
    found = {
        why: [name for name in names if name in named and getattr(config, name, None) not in (None, False)]
        for why, (holds, names) in groups.items()
        if holds
    }
    return {why: names for why, names in found.items() if names}


def raise_together(*checks: Callable[[], object]) -> None:
    """Runs checks that do not depend on each other.

    Raises:
        UsageError: Some of them raised a ValueError or UsageError; the message has all of theirs, one a line.
    """
    problems = []
    for check in checks:
        try:
            check()
        except (ValueError, UsageError) as error:
            problems.append(str(error))
    if problems:
        raise UsageError("\n".join(problems))

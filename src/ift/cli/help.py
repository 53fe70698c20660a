"""`ift train --help` (the flags that most runs need) and `--help-all` (every flag)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, fields

from rich.console import Console
from rich.table import Table
from transformers import TrainingArguments
from trl import ModelConfig, ScriptArguments, SFTConfig

from ift.generation.during_training import AnswerArguments
from ift.methods.table import CONTROLS, METHODS, Method
from ift.runs.arguments import ColumnArguments, RunArguments, make_parser
from ift.training.config import LAMBDA_FIELDS, METHOD_FIELDS

COMMON = (
    "model_name_or_path", "dataset_name", "dataset_train_split", "dataset_columns", "output_dir",
    "learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size",
    "gradient_accumulation_steps", "max_length", "packing", "eval_strategy", "eval_generate", "dtype",
    "use_peft", "lora_r", "load_in_4bit", "seed", "resume", "overwrite_output_dir", "force",
)  # fmt: skip
METHOD = (*METHOD_FIELDS, *LAMBDA_FIELDS, "token_weights")


def print_help(everything: bool, methods: Sequence[Method] = (METHODS["ift"],)) -> None:
    """Prints the short help of each method, or argparse's help with every flag."""
    console = Console(highlight=False)
    for method in methods:
        if everything:
            make_parser(method).print_help()
        else:
            for paragraph in _introduction(method):
                console.print(paragraph, markup=False)
                console.print()
            _print_tables(console, method)
    if not everything:
        console.print(
            f"Methods (--method): {', '.join(METHODS)}. sft+dpo trains one after the other.\n"
            "--debug shows the traceback of an error.",
            markup=False,
        )


def _introduction(method: Method) -> list[str]:
    """The usage, and what users of trl must know."""
    command = "ift train" if method.name == "ift" else f"ift train --method {method.name}"
    paragraphs = [
        f"Usage: {command} --model_name_or_path MODEL --dataset_name DATA ...\n"
        f"       {command} --config FILE.yaml ...",
        f"Every flag of {_same_flags(method)} works, and so do the launch flags of accelerate, such as "
        "--num_processes 2 or --accelerate_config fsdp2. A flat YAML file holds the same names; flags override it. "
        f"`{command} --help-all` prints every flag.",
    ]
    if method.name != "ift":
        paragraphs.append(f"{method.name}: {method.description}.")
    if fixed := [f"{name} {value}" for name, value in method.fixed.items() if value is not None]:
        paragraphs.append(f"Fixed: {', '.join(fixed)}.")
    return paragraphs


def _print_tables(console: Console, method: Method) -> None:
    _, config = method.load()
    kinds = (config, ModelConfig, ScriptArguments, ColumnArguments, RunArguments, AnswerArguments)
    known = {f.name: f for kind in kinds for f in fields(kind)}
    for title, names in (("Settings of the method", own_fields(method)), ("Common flags", COMMON)):
        table = Table(title=title, title_justify="left", box=None, show_header=False, padding=(0, 1))
        for name in (name for name in names if name in known):
            default = method.settings.get(name, known[name].default)
            shown = "" if default is MISSING or default is None else f"[default: {default}]"
            text = str(known[name].metadata.get("help", "")).replace("%%", "%")
            table.add_row(f"--{name}", f"{text} {shown}".replace("[", r"\["))
        console.print(table)


def own_fields(method: Method) -> tuple[str, ...]:
    """The method's settings, without those that it fixes and those of every trainer."""
    if method.name == "ift":
        return METHOD
    _, config = method.load()
    of_all = {f.name for f in fields(TrainingArguments)} | set(COMMON)
    names = method.help_fields or tuple(f.name for f in fields(config) if f.name not in of_all)
    if method.name in CONTROLS:
        names = method.help_fields or METHOD
    return tuple(name for name in names if name not in method.fixed)


def _same_flags(method: Method) -> str:
    """The trl command or configuration whose flags the method accepts."""
    _, config = method.load()
    return "`trl sft`" if issubclass(config, SFTConfig) else f"trl's {config.__mro__[2].__name__}"

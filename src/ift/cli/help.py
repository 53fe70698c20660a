"""`ift train --help`: the flags most runs need; `--help-all`: every flag."""

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
    "model_name_or_path",
    "dataset_name",
    "dataset_train_split",
    "dataset_columns",
    "output_dir",
    "learning_rate",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_length",
    "packing",
    "eval_strategy",
    "eval_generate",
    "dtype",
    "use_peft",
    "lora_r",
    "load_in_4bit",
    "seed",
    "resume",
    "overwrite_output_dir",
    "force",
)
METHOD = (*METHOD_FIELDS, *LAMBDA_FIELDS)


def print_help(everything: bool, methods: Sequence[Method] = (METHODS["ift"],)) -> None:
    """Print the short help of the methods, or argparse's own with every flag of each."""
    console = Console(highlight=False)
    for method in methods:
        if everything:
            make_parser(method).print_help()
            continue
        given = "" if method.name == "ift" else f"--method {method.name} "
        console.print(
            f"Usage: ift train {given}--model_name_or_path MODEL --dataset_name DATA [--config FILE.yaml] "
            "[--flag value ...]\n\n"
            f"Takes every flag of {_equal(method)}, a flat YAML file with the same names (flags win), and "
            "accelerate's launch flags\n(--num_processes 2, --accelerate_config fsdp2). `ift train "
            f"{given}--help-all` prints them all.\n",
            markup=False,
        )
        if method.name != "ift":
            console.print(f"{method.name}: {method.description}.\n", markup=False)
            if method.fixed:
                fixed = ", ".join(f"{name} {value}" for name, value in method.fixed.items())
                console.print(f"Fixed: {fixed}.\n", markup=False)
        _print_tables(console, method)
    if not everything:
        console.print(
            f"Methods (--method): {', '.join(METHODS)}; sft+dpo trains one after the other.\n"
            "--debug shows the traceback of what goes wrong.",
            markup=False,
        )


def _print_tables(console: Console, method: Method) -> None:
    _, config = method.load()
    kinds = (config, ModelConfig, ScriptArguments, ColumnArguments, RunArguments, AnswerArguments)
    known = {f.name: f for kind in kinds for f in fields(kind)}
    for title, names in (("The method", own_fields(method)), ("Most used", COMMON)):
        table = Table(title=title, title_justify="left", box=None, show_header=False, padding=(0, 1))
        for name in (name for name in names if name in known):
            default = method.settings.get(name, known[name].default)
            shown = "" if default is MISSING or default is None else f"[default: {default}]"
            text = str(known[name].metadata.get("help", "")).replace("%%", "%")
            table.add_row(f"--{name}", f"{text} {shown}".replace("[", r"\["))
        console.print(table)


def own_fields(method: Method) -> tuple[str, ...]:
    """The settings to show as the method's own: not those fixed, nor those that every trainer has."""
    if method.name == "ift":
        return METHOD
    _, config = method.load()
    of_all = {f.name for f in fields(TrainingArguments)} | set(COMMON)
    names = method.own or tuple(f.name for f in fields(config) if f.name not in of_all)
    if method.name in CONTROLS:
        names = METHOD
    return tuple(name for name in names if name not in method.fixed)


def _equal(method: Method) -> str:
    """What a user of trl knows the flags from."""
    _, config = method.load()
    return "`trl sft`" if issubclass(config, SFTConfig) else f"trl's {config.__mro__[2].__name__}"

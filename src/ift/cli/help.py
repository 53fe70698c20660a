"""`ift train --help`: the flags most runs need; `--help-all`: every flag."""

from __future__ import annotations

from dataclasses import MISSING, fields

from rich.console import Console
from rich.table import Table
from trl import ModelConfig, ScriptArguments

from ift.cli.arguments import ColumnArguments, make_parser
from ift.config import METHOD_FIELDS, IFTConfig

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
    "dtype",
    "use_peft",
    "lora_r",
    "load_in_4bit",
    "seed",
)
METHOD = (*METHOD_FIELDS, "residual_lambda_start", "residual_warmup_ratio", "residual_noise_std")


def print_help(everything: bool) -> None:
    """Print the short help, or argparse's own with every flag."""
    if everything:
        make_parser().print_help()
        return
    console = Console(highlight=False)
    console.print(
        "Usage: ift train --model_name_or_path MODEL --dataset_name DATA [--config FILE.yaml] [--flag value ...]\n\n"
        "Takes every flag of `trl sft`, a flat YAML file with the same names (flags win), and accelerate's launch "
        "flags\n(--num_processes 2, --accelerate_config fsdp2). `ift train --help-all` prints them all.\n",
        markup=False,
    )
    known = {
        f.name: f for kind in (IFTConfig, ModelConfig, ScriptArguments, ColumnArguments) for f in fields(kind)
    }
    for title, names in (("The method", METHOD), ("Most used", COMMON)):
        table = Table(title=title, title_justify="left", box=None, show_header=False, padding=(0, 1))
        for name in names:
            default = known[name].default
            shown = "" if default is MISSING or default is None else f"[default: {default}]"
            text = str(known[name].metadata.get("help", "")).replace("%%", "%")
            table.add_row(f"--{name}", f"{text} {shown}".replace("[", r"\["))
        console.print(table)

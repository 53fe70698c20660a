"""`ift precompute-lookahead`: the guesses of all rows before a run, for `--lookahead_cache_path`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ift.cli.arguments import TrainArguments, parse_stages
from ift.cli.endings import INTERRUPTED
from ift.cli.train import check_model
from ift.cli.words import UsageError, UsageParser, split_equals
from ift.lookahead_cache import FILE


def make_parser() -> argparse.ArgumentParser:
    """The verb's own flags; those of `ift train` pass through."""
    parser = UsageParser(
        "ift precompute-lookahead",
        usage="ift precompute-lookahead [--output FILE] [any flag of ift train, --config FILE.yaml too]",
        description="Make the model's greedy guess at every token that a run would train, without training. A run "
        "with --lookahead_cache epoch --lookahead_cache_path FILE then looks ahead not even in its first epoch. "
        "Several runs can begin with one file. Ctrl-C loses nothing: the same command goes on.",
        allow_abbrev=False,
    )
    parser.add_argument("--output", default=FILE, help=f"The file to write, or to complete [{FILE}].")
    return parser


def main(arguments: list[str]) -> int:
    """Run `ift precompute-lookahead`; returns the exit code. `ift.cli.endings` answers what it raises."""
    own, words = make_parser().parse_known_args(split_equals(arguments))
    stages = parse_stages(words)
    told = stages[0]
    if len(stages) > 1 or told.method.name != "ift":
        raise UsageError("only ift looks ahead: leave --method out")
    if told.launch:
        raise UsageError(
            f"{told.launch[0]}: start several processes with accelerate launch -m ift.cli.main ..."
        )
    check_model(told)
    file = Path(own.output)
    try:
        found = _run(told, file)
    except KeyboardInterrupt:
        print(f"ift precompute-lookahead: stopped. The same command goes on from {file}", file=sys.stderr)
        return INTERRUPTED
    share = f"; {found['hits'] / found['new']:.1%} of the new ones are the target" if found["new"] else ""
    print(f"{found['tokens']:,} guesses for {found['rows']:,} rows ({found['new']:,} new{share})")
    print(
        f"{file}\nnext: ift train with the same arguments and --lookahead_cache epoch --lookahead_cache_path {file}"
    )
    return 0


def _run(told: TrainArguments, file: Path) -> dict[str, int]:
    from ift.baselines.stage import build_trainer, prepare_stage
    from ift.cli.check import refuse_or_warn
    from ift.data import load_train_and_eval
    from ift.precompute import precompute_look_aheads

    data = load_train_and_eval(told.script, told.mixture, told.config, columns=told.columns)
    prepared = prepare_stage(told, data)
    prepared.sets.pop("eval", None)
    refuse_or_warn(told, prepared)  # what ift train would say of the same arguments
    config = told.config
    config.packing = config.gradient_checkpointing = False  # neither changes a guess
    config.train_sampling_strategy, config.dataloader_drop_last = "group_by_length", False
    config.eval_strategy = "no"
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with tempfile.TemporaryDirectory() as nothing:
        config.output_dir = nothing
        trainer = build_trainer(told, prepared)
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("looking ahead", total=len(trainer.train_dataset))
            return precompute_look_aheads(trainer, file, lambda rows: progress.advance(task, rows))

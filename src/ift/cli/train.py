"""`ift train`: from a model and a file of good answers, or of pairs, to an aligned model."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from ift.cli.endings import INTERRUPTED
from ift.data import split_names
from ift.data.loading import is_local
from ift.runs.arguments import parse_stages, wanted_methods
from ift.runs.check_run import check_model
from ift.runs.launch import check_world_size, is_launched, launch
from ift.runs.output_folder import (
    Finished,
    agree_on_folders,
    open_folders,
)
from ift.runs.train_run import run_stages
from ift.training.checkpoints import Stopped


def main(arguments: list[str]) -> int:
    """Run `ift train`; returns the exit code, 0, or 130 and 143 for a signal. `ift.cli.endings` answers what it raises.

    Raises:
        UsageError: a command line or YAML file that cannot be read.
        DataError, ValueError, OSError, ImportError, RuntimeError: see `run_training`.
    """
    from ift.cli.help import print_help

    if not arguments or "--help" in arguments or "-h" in arguments or "--help-all" in arguments:
        methods = wanted_methods([part for word in arguments for part in word.split("=", 1)])
        print_help("--help-all" in arguments, methods)
        return 0
    stages = parse_stages(arguments)
    first = stages[0]
    check_model(first)  # before any process starts that would say it again
    for name in dict.fromkeys(stage.script.dataset_name for stage in stages):
        if name and is_local(name):
            split_names(name)
    try:
        if first.launch and not is_launched():
            open_folders(
                stages
            )  # refuses before any process starts; the first process decides again, for all
            return launch(first.launch, first.words, use_cpu=first.config.use_cpu)
        check_world_size()
        print("".join(f"{line}\n" for line in agree_on_folders(stages)), end="")
        run_stages(stages)
    except Finished as done:
        _say(str(done), sys.stdout)
    except Stopped as stop:
        _say(f"{stop}. next: the same command with --resume auto", sys.stderr)
        return stop.code
    except KeyboardInterrupt:
        _say("stopped. Checkpoints, if any, lie in the output folder.", sys.stderr)
        return INTERRUPTED
    return 0


def _say(text: str, stream: TextIO) -> None:
    """Once on each machine: what ends a run ends it in every process."""
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        print(f"ift train: {text}", file=stream)

"""`ift train`: fine-tunes a model on target answers or preference pairs."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, TextIO

import typer

from ift.cli.exit_codes import INTERRUPTED
from ift.runs.known_flags import refuse_unknown_names, wanted_methods

if TYPE_CHECKING:
    from ift.runs.arguments import TrainArguments

HELP = ("--help", "-h", "--help-all")


def command(context: typer.Context) -> int:
    """Fine-tune a model with IFT or another --method (flags of `trl sft`; see `ift train --help`)."""
    return main(context.args)


def main(arguments: list[str]) -> int:
    """Runs `ift train`; returns the exit code: 0, or 130 or 143 if a signal stopped the run.

    Raises:
        UsageError: The command line or YAML file cannot be parsed.
        DataError, ValueError, OSError, ImportError, RuntimeError: See `ift.runs.train_run.train_run`.
    """
    began = time.perf_counter()
    if not arguments or any(flag in arguments for flag in HELP):
        return _help(arguments)
    refuse_unknown_names(arguments)  # before imports that take seconds
    from ift.runs.arguments import parse_stages
    from ift.runs.launch import is_launched
    from ift.runs.output_folder import AlreadyFinished
    from ift.training.checkpoints import Stopped

    stages = parse_stages(arguments)
    _load_scores(stages)
    _check_names(stages)
    try:
        if stages[0].launch and not is_launched():
            return _launch(stages, arguments)
        _train(stages, began)
    except AlreadyFinished as done:
        _print_once(str(done), sys.stdout)
    except Stopped as stop:
        _print_once(f"{stop}. To resume, repeat the command with --resume auto", sys.stderr)
        return stop.code
    except KeyboardInterrupt:
        _print_once("stopped. Checkpoints that were saved are in the output folder.", sys.stderr)
        return INTERRUPTED
    return 0


def _load_scores(stages: list[TrainArguments]) -> None:
    """Hands the scores of --eval_score to the stages; packages that a run lacks are named before, all of them."""
    from ift.check.packages import missing_packages
    from ift.runs.extras import MissingExtra
    from ift.runs.launch import engine_here

    if not stages[0].run.force and (missing := missing_packages(stages, engine_here(stages[0].launch))):
        raise MissingExtra(missing)
    for answers in (stage.answers for stage in stages):
        if answers.eval_score:
            from ift.lab.scores.during_training import answer_scorer

            answers.scorer = answer_scorer(answers.eval_score, answers.eval_score_db)


def _train(stages: list[TrainArguments], began: float) -> None:
    """Trains the stages in this process and reports the result, with the time since `began`, by `perf_counter`."""
    from accelerate import PartialState

    from ift.runs.launch import check_world_size, is_first_process, is_launched
    from ift.runs.output_folder import prepare_folders_on_first_process
    from ift.runs.parent_process import stop_with_parent
    from ift.runs.progress import SILENT, TerminalReporter
    from ift.runs.same_versions import check_versions
    from ift.runs.train_run import train_sequence

    if is_launched():
        stop_with_parent()
    check_world_size()
    check_versions()
    reporter = TerminalReporter() if is_first_process() else SILENT
    for line in prepare_folders_on_first_process(stages):
        reporter.message(line)
    results = train_sequence(stages, reporter, supervised=True)
    reporter.summary(results[-1], time.perf_counter() - began)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        PartialState().wait_for_everyone()  # a process that leaves early can end with an error of gloo's
        PartialState().destroy_process_group()


def _launch(stages: list[TrainArguments], arguments: list[str]) -> int:
    """Starts the processes that the flags request; each runs this command without those flags."""
    from ift.runs.launch import launch
    from ift.runs.lost_process import explain_lost_process
    from ift.runs.output_folder import prepare_output_folders

    first = stages[0]
    prepare_output_folders(
        stages
    )  # refuses before any process starts; the first process decides again, for all
    code = launch(first.launch, f"{__package__}.main", ["train", *first.words], use_cpu=first.config.use_cpu)
    if lost := explain_lost_process(code, stages, arguments):
        _print_once(lost, sys.stderr)
    return code


def _check_names(stages: list[TrainArguments]) -> None:
    """Refuses a missing model, function or data set before rows are read or several processes repeat the message."""
    from ift.data import split_names
    from ift.data.loading import is_local
    from ift.runs.check_run import check_model, check_token_weights

    check_model(stages[0])
    for stage in stages:
        check_token_weights(stage)
    for name in dict.fromkeys(stage.script.dataset_name for stage in stages):
        if name and is_local(name):
            split_names(name)


def _help(arguments: list[str]) -> int:
    from ift.cli.help import print_help
    from ift.runs.argv import split_equals

    print_help("--help-all" in arguments, wanted_methods(split_equals(arguments)))
    return 0


def _print_once(text: str, stream: TextIO) -> None:
    """Prints once on each machine; all processes of a run stop for the same reason."""
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        print(f"ift train: {text}", file=stream)

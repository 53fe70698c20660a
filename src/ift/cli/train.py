"""`ift train`: from a model and a file of good answers, or of pairs, to an aligned model."""

from __future__ import annotations

import gc
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from accelerate import PartialState

from ift.cli.arguments import TrainArguments, UsageError, parse_stages, wanted_methods
from ift.cli.endings import INTERRUPTED
from ift.cli.folder import (
    Finished,
    agree_on_folders,
    begin,
    check_unchanged,
    facts,
    nothing_left,
    open_folders,
    write_run,
)
from ift.cli.launch import check_world_size, is_launched, launch
from ift.data import DataError, end_of_turn_ids, split_names
from ift.data.loading import is_local
from ift.generation.during_training import AnswersAtEvaluation
from ift.generation.final_answers import write_final_answers
from ift.models.model_folder import check_model_path
from ift.training.checkpoints import SealedCheckpoints, Stopped
from ift.training.end_watch import EndWatch


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


def run_stages(stages: list[TrainArguments]) -> Any:
    """Train the stages in order, each from the weights of the one before; returns the last one's trainer."""
    from ift.data import load_train_and_eval
    from ift.methods.stage import check_data
    from ift.runs.train_stage import start_of_next

    if len(stages) > 1:
        for told in stages:
            data = load_train_and_eval(told.script, told.mixture, told.config, columns=told.columns)
            check_data(told, data)
    for number, told in enumerate(stages, start=1):
        last = number == len(stages)
        if len(stages) > 1 and int(os.environ.get("RANK", 0)) == 0:
            print(f"stage {number} of {len(stages)}: {told.method.name}")
        trainer = None if told.finished else run_training(told, closing=last, end=last)
        if not last:
            folder = Path(told.config.output_dir)
            if PartialState().is_main_process:
                start_of_next(folder)
            PartialState().wait_for_everyone()
            merged = folder / "merged"
            stages[number].model.model_name_or_path = str(merged if merged.exists() else folder)
            del trainer
            gc.collect()
    return trainer


def run_training(told: TrainArguments, closing: bool = True, end: bool = True) -> Any:
    """Load, show the plan, train, save and, if `closing`, say what to do next. Returns the trainer.

    `end` closes the process group where there are several processes.

    Raises:
        DataError: rows that cannot be read or trained, or a run that goes on and is not the same.
        ValueError: a model or an option that is refused.
        OSError: a model or file that cannot be found; a saved model that cannot be read back.
        NonFiniteError, OutOfMemory: the run stopped; the message says what to try.
        Stopped: a signal came, and the run has saved.
    """
    from ift.cli.check import refuse_or_warn
    from ift.cli.display import Display
    from ift.data import load_train_and_eval
    from ift.methods.stage import prepare_stage
    from ift.runs.train_stage import train_stage

    began, first = time.perf_counter(), int(os.environ.get("RANK", 0)) == 0
    _check_template(told)
    data = load_train_and_eval(told.script, told.mixture, told.config, columns=told.columns)
    prepared = prepare_stage(told, data)
    if told.answers.eval_generate and "eval" not in prepared.sets:
        raise DataError(
            "eval_generate: there are no evaluation rows. Fix: give a test split, or leave it out"
        )
    checkpoints = SealedCheckpoints({})
    if first:
        found = refuse_or_warn(told, prepared)
        checkpoints.facts = facts(told, found.data_sha256)
        if told.config.resume_from_checkpoint:
            print("".join(f"{line}\n" for line in check_unchanged(told, checkpoints.facts)), end="")
    display = Display(told, data.notes)

    def start(trainer: Any) -> None:
        if first:
            begin(told)
        display.attach(trainer)
        display.watch = EndWatch(
            trainer,
            prepared.sets["train"].dataset,
            end_of_turn_ids(prepared.tokenizer),
            display.write,
            lambda: checkpoints.stopped is not None,
        )
        trainer.add_callback(display.watch)
        if told.answers.eval_generate:
            rows = prepared.sets["eval"].dataset
            trainer.add_callback(AnswersAtEvaluation(trainer, rows, told.answers))

    try:
        with nothing_left(Path(told.config.output_dir)):
            trainer = train_stage(told, data, start, prepared, checkpoints)
    finally:
        display.close()
    if trainer.is_world_process_zero():
        write_run(Path(told.config.output_dir), finished=True)
        if closing and told.answers.final_answers:
            name = "eval" if "eval" in prepared.sets else "train"
            rows = prepared.sets[name].dataset
            display.answers = write_final_answers(trainer, rows, name, told.answers.final_answers)
    if closing:
        display.finish(time.perf_counter() - began)
    if end and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        trainer.end()
    return trainer


def check_model(told: TrainArguments) -> None:
    """Refuse a model folder that cannot be loaded, and say it where code of the model will run.

    Raises:
        DataError: see `check_model_path`.
    """
    name = told.model.model_name_or_path
    check_model_path(name, allow_pickle=told.run.allow_pickle_weights)
    if told.config.trust_remote_code and not is_launched():
        print(
            f"trust_remote_code is on: Python code that comes with {name} runs here, with your rights",
            file=sys.stderr,
        )


def _check_template(told: TrainArguments) -> None:
    template = getattr(told.config, "chat_template_path", None)
    if template and not os.path.isfile(template) and len(told.mixture.datasets) > 1:
        raise UsageError(
            "chat_template_path must be a Jinja file with a mixture: the parts are prepared before the model."
        )

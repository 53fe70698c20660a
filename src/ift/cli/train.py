"""`ift train`: from a model and a file of good answers, or of pairs, to an aligned model."""

from __future__ import annotations

import gc
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from accelerate import PartialState

from ift.checkpoints import SealedCheckpoints, Stopped
from ift.cli.arguments import TrainArguments, UsageError, parse_stages, wanted_methods
from ift.cli.folder import Finished, agree_on_folders, begin, check_unchanged, facts, open_folders, write_run
from ift.cli.launch import check_world_size, is_launched, launch
from ift.data import DataError, split_names
from ift.data.loading import is_local
from ift.evaluation.during_training import AnswersAtEvaluation


def main(arguments: list[str]) -> int:
    """Run `ift train`; returns the exit code (0 done, 1 refused, 2 usage)."""
    from ift.cli.help import print_help

    if not arguments or "--help" in arguments or "-h" in arguments or "--help-all" in arguments:
        try:
            methods = wanted_methods([part for word in arguments for part in word.split("=", 1)])
        except UsageError as error:
            print(f"ift train: {error}", file=sys.stderr)
            return 2
        print_help("--help-all" in arguments, methods)
        return 0
    try:
        stages = parse_stages(arguments)
        first = stages[0]
        check_model_path(first.model.model_name_or_path)  # before any process starts that would say it again
        for name in dict.fromkeys(stage.script.dataset_name for stage in stages):
            if name and is_local(name):
                split_names(name)
        if first.launch and not is_launched():
            open_folders(
                stages
            )  # refuses before any process starts; the first process decides again, for all
            return launch(first.launch, first.words, use_cpu=first.config.use_cpu)
        check_world_size()
        print("".join(f"{line}\n" for line in agree_on_folders(stages)), end="")
        run_stages(stages)
    except UsageError as error:
        _say(str(error))
        return 2
    except Finished as done:
        _say(str(done), sys.stdout)
        return 0
    except Stopped as stop:
        _say(f"{stop}. next: the same command with --resume auto")
        return stop.code
    except KeyboardInterrupt:
        _say("stopped. Checkpoints, if any, lie in the output folder.")
        return 130
    except (DataError, ValueError, OSError, ImportError, RuntimeError) as error:
        if os.environ.get("IFT_DEBUG"):
            raise
        _say(f"{error}\n(IFT_DEBUG=1 shows where this was raised.)")
        return 1
    return 0


def _say(text: str, stream: TextIO | None = None) -> None:
    """Once on each machine: what ends a run ends it in every process."""
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        print(f"ift train: {text}", file=stream or sys.stderr)


def run_stages(stages: list[TrainArguments]) -> Any:
    """Train the stages in order, each from the weights of the one before; returns the last one's trainer."""
    from ift.baselines.stage import check_data, start_of_next
    from ift.data import load_train_and_eval

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
    from ift.baselines.stage import prepare_stage, train_stage
    from ift.cli.check import refuse_or_warn
    from ift.cli.display import Display
    from ift.data import load_train_and_eval

    began = time.perf_counter()
    _check_template(told)
    data = load_train_and_eval(told.script, told.mixture, told.config, columns=told.columns)
    prepared = prepare_stage(told, data)
    checkpoints = SealedCheckpoints({})
    if int(os.environ.get("RANK", 0)) == 0:
        found = refuse_or_warn(told, prepared)
        checkpoints.facts = facts(told, found.data_sha256)
        if told.config.resume_from_checkpoint:
            print("".join(f"{line}\n" for line in check_unchanged(told, checkpoints.facts)), end="")
        begin(told)
    display = Display(told, data.notes)

    def attach(trainer: Any) -> None:
        display.attach(trainer)
        if told.answers.eval_generate:
            if "eval" not in prepared.sets:
                raise DataError(
                    "eval_generate: there are no evaluation rows. Fix: give a test split, or leave it out"
                )
            rows = prepared.sets["eval"].dataset
            trainer.add_callback(AnswersAtEvaluation(trainer, rows, told.answers))

    try:
        trainer = train_stage(told, data, attach, prepared, checkpoints)
    finally:
        display.close()
    if trainer.is_world_process_zero():
        write_run(Path(told.config.output_dir), finished=True)
    if closing:
        display.finish(time.perf_counter() - began)
    if end and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        trainer.end()
    return trainer


def check_model_path(name: str) -> None:
    """Raise DataError for what can only be a local folder and is none: transformers would look for it on the Hub."""
    local = name.startswith((".", "/", "~")) or name.count("/") > 1
    if os.path.isfile(name) or (local and not os.path.isdir(name)):
        raise DataError(
            f"{name}: no such model folder. Fix: give a folder that holds a config.json, or a Hub id (owner/name)"
        )
    known = ("config.json", "adapter_config.json")
    if os.path.isdir(name) and not any(os.path.exists(os.path.join(name, file)) for file in known):
        raise DataError(
            f"{name}: no config.json in this folder. Fix: give the folder that the model was saved to"
        )


def _check_template(told: TrainArguments) -> None:
    template = getattr(told.config, "chat_template_path", None)
    if template and not os.path.isfile(template) and len(told.mixture.datasets) > 1:
        raise UsageError(
            "chat_template_path must be a Jinja file with a mixture: the parts are prepared before the model."
        )

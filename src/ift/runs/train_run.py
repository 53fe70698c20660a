"""A run as `ift train` makes it: stage after stage, checked, shown, saved, and gone on from."""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState

from ift.data import DataError, end_of_turn_ids
from ift.generation.during_training import AnswersAtEvaluation
from ift.generation.final_answers import FinalAnswers, write_final_answers
from ift.runs.arguments import TrainArguments
from ift.runs.argv import UsageError
from ift.runs.check_run import refuse_or_warn
from ift.runs.out_of_room import is_out_of_memory
from ift.runs.output_folder import begin, check_unchanged, facts, nothing_left, write_run
from ift.training.checkpoints import SealedCheckpoints
from ift.training.end_watch import EndWatch

if TYPE_CHECKING:
    from ift.methods.stage import PreparedRows
    from ift.runs.progress import Display


def run_stages(stages: list[TrainArguments]) -> Any:
    """Train the stages in order, each from the weights of the one before; returns the last one's trainer."""
    from ift.data import load_train_and_eval
    from ift.methods.stage import check_data
    from ift.runs.train_stage import start_of_next

    loaded = []
    if len(stages) > 1:
        for told in stages:
            loaded.append(load_train_and_eval(told.script, told.mixture, told.config, columns=told.columns))
            check_data(told, loaded[-1])
    for number, told in enumerate(stages, start=1):
        last = number == len(stages)
        if len(stages) > 1 and int(os.environ.get("RANK", 0)) == 0:
            print(f"stage {number} of {len(stages)}: {told.method.name}")
        trainer = None if told.finished else run_training(told, closing=last, end=last)
        if not last:
            folder = Path(told.config.output_dir)
            if PartialState().is_main_process:
                start_of_next(told, loaded[number - 1])
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
    from ift.data import load_train_and_eval
    from ift.methods.stage import prepare_stage
    from ift.runs.progress import Display
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
        display.watch = _watch(trainer, prepared, display, checkpoints)
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
            display.answers = _final_answers(trainer, prepared, told.answers.final_answers)
    if closing:
        display.finish(time.perf_counter() - began)
    if end and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        trainer.end()
    return trainer


def _watch(
    trainer: Any, prepared: PreparedRows, display: Display, checkpoints: SealedCheckpoints
) -> EndWatch:
    """The watch over the end of the answers, on rows that are trained."""
    rows, ends = prepared.sets["train"].dataset, end_of_turn_ids(prepared.tokenizer)
    return EndWatch(trainer, rows, ends, display.write, lambda: checkpoints.stopped is not None)


def _final_answers(trainer: Any, prepared: PreparedRows, count: int) -> FinalAnswers:
    """Answers to evaluation rows, or else to training rows; the model is saved, so too little memory fails nothing."""
    name = "eval" if "eval" in prepared.sets else "train"
    try:
        return write_final_answers(trainer, prepared.sets[name].dataset, name, count)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return FinalAnswers(note="memory ran out; ift generate answers with the saved model")


def _check_template(told: TrainArguments) -> None:
    template = getattr(told.config, "chat_template_path", None)
    if template and not os.path.isfile(template) and len(told.mixture.datasets) > 1:
        raise UsageError(
            "chat_template_path must be a Jinja file with a mixture: the parts are prepared before the model."
        )

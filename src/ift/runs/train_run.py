"""The main function, `train_run`: from the settings of a run to a saved and verified model.

docs/architecture.md lists the steps from `ift train` to the first optimiser step.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ift.data import LoadedData
from ift.methods.stage import Stage, build_trainer, load_data, prepare_stage
from ift.runs.output_folder import remove_empty_folder_on_error, write_run
from ift.runs.progress import SILENT, Reporter
from ift.runs.results import StageResult
from ift.runs.run_facts import finished_record
from ift.runs.supervision import NOT_SUPERVISED, check_before_training, final_answers, supervise
from ift.runs.train_stage import explain_resource_errors, model_for_next_stage, publish, save, train, verify
from ift.training.best_step import best_step


def train_run(
    stage: Stage,
    reporter: Reporter = SILENT,
    *,
    data: LoadedData | None = None,
    supervised: bool = False,
    attach: Callable[[Any], None] | None = None,
) -> StageResult:
    """Trains one stage: loads and checks the rows, builds the trainer, trains, saves the model and verifies it.

    Args:
        stage: Settings of the stage; `TrainArguments` if the run is supervised.
        reporter: Receives the plan, the progress and the warnings.
        data: Rows that are already loaded; by default those that the settings name.
        supervised: Whether the run is checked before it starts, can be resumed, and has its end tokens monitored.
        attach: Called with the trainer before its first step, for instance to add a callback.

    Raises:
        DataError: Rows that cannot be read or trained, or a resumed run whose settings have changed.
        ValueError: A model or an option that is refused.
        OSError: A model or file that cannot be found; a saved model that fails the verification.
        NonFiniteError: A loss or gradient is not finite.
        OutOfMemory, DiskFull: A step or a checkpoint did not fit; the message suggests fixes.
        Stopped: A signal stopped the run after it had saved a checkpoint.
    """
    started, folder = time.perf_counter(), Path(stage.config.output_dir)
    rows = prepare_stage(stage, load_data(stage) if data is None else data)
    facts = check_before_training(stage, rows, reporter) if supervised else {}
    with remove_empty_folder_on_error(folder):
        trainer = build_trainer(stage, rows)
        supervision = supervise(trainer, stage, rows, facts, reporter) if supervised else NOT_SUPERVISED
        with reporter.training(trainer, stage, rows), explain_resource_errors(stage, rows):
            for callback in supervision.callbacks:
                trainer.add_callback(callback)
            if attach is not None:
                attach(trainer)
            train(trainer, supervision.checkpoints)
            of_best = f" of {best}," if (best := best_step(trainer)) else ""
            reporter.message(f"saving the model{of_best} in {folder} and reading it back")
            save(trainer, folder)
            verified = verify(trainer, rows, folder)
        publish(trainer, stage)
    if supervised and trainer.is_world_process_zero():
        write_run(folder, finished=True, **finished_record(stage, facts, best))
    answers = final_answers(trainer, stage, rows, reporter) if supervised else None
    return StageResult(
        method=stage.method.name,
        folder=folder,
        start=stage.model.model_name_or_path,
        seconds=time.perf_counter() - started,
        steps=trainer.state.global_step,
        best=best,
        report=trainer.data_reports.get("train"),
        history=tuple(trainer.state.log_history),
        read_back=verified,
        answers=answers,
        warnings=supervision.warnings(answers),
        resumed_at=supervision.resumed_at,
        training_seconds=supervision.training_seconds,
    )


def train_sequence(
    stages: Sequence[Stage],
    reporter: Reporter = SILENT,
    *,
    data: Sequence[LoadedData] | None = None,
    supervised: bool = False,
    attach: Callable[[Any], None] | None = None,
) -> list[StageResult]:
    """Trains stages in order, each from the weights of the previous one; arguments and errors as in `train_run`.

    The rows of all stages are loaded first, so that rows which a later stage refuses are found before any training.

    Returns:
        A result for each trained stage; a resumed sequence skips finished stages.
    """
    data = [load_data(stage) for stage in stages] if data is None else data
    results = []
    for number, (stage, rows) in enumerate(zip(stages, data, strict=True), start=1):
        if len(stages) > 1:
            reporter.message(f"stage {number} of {len(stages)}: {stage.method.name}")
        if not getattr(stage, "finished", False):
            results.append(train_run(stage, reporter, data=rows, supervised=supervised, attach=attach))
            gc.collect()  # frees the trainer's model before the next stage loads its own
        if number < len(stages):
            stages[number].model.model_name_or_path = model_for_next_stage(stage, rows)
    return results

"""One stage of a run, from rows to a saved model. `ift train` and `train_method` both end here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from ift.check.memory import Remedy, available_memory, remedies
from ift.data import DataError, LoadedData
from ift.methods.stage import PreparedRows, Stage, build_trainer, longest_row, prepare_stage
from ift.methods.start import start_options
from ift.models.loading import LoadOptions
from ift.models.merging import save_merged
from ift.models.outputs import some_rows
from ift.models.record import write_record
from ift.runs.out_of_room import disk_full, is_disk_full, is_out_of_memory, out_of_memory
from ift.runs.read_back import read_back
from ift.training.checkpoints import SealedCheckpoints, Stopped

FIRST_ROWS = 16  # of which a few are taken to compare a merged model with its adapter


def train_stage(
    stage: Stage,
    data: LoadedData,
    attach: Callable[[Any], None] | None = None,
    prepared: PreparedRows | None = None,
    checkpoints: SealedCheckpoints | None = None,
) -> Any:
    """Prepare, train, save to `stage.config.output_dir`, write the card; returns the trainer.

    `attach` is called with the trainer before the first step; `prepared` is what `prepare_stage` gave, if it was called
    already; `checkpoints` seals what is saved on the way. The trainer has `data_reports` (name -> DataReport) and
    `read_back` (what `ift.runs.read_back.read_back` says of the saved model; empty on all processes but the first).

    Raises:
        DataError: rows that cannot be read or trained.
        ValueError: a model or an option that is refused.
        OSError: a model or file that cannot be found; a saved model that cannot be read back.
        NonFiniteError: a loss or gradient is not finite.
        OutOfMemory: a step did not fit; the message names settings that need less.
        DiskFull: what was to be saved did not fit.
        Stopped: a signal came; `checkpoints` has saved, and the model is not.
    """
    config = stage.config
    prepared = prepare_stage(stage, data) if prepared is None else prepared
    trainer = build_trainer(stage, prepared)
    if checkpoints is not None:
        trainer.add_callback(checkpoints)  # before what may take a while at the start: a signal must find it
    if attach is not None:
        attach(trainer)
    with explain_resource_errors(stage, prepared):
        try:
            trainer.train(resume_from_checkpoint=config.resume_from_checkpoint)
        finally:
            if checkpoints is not None:
                checkpoints.release()
        unfinished = (
            trainer.state.global_step < trainer.state.max_steps
        )  # a signal may come behind the last step
        if checkpoints is not None and checkpoints.stopped is not None and unfinished:
            last = Path(config.output_dir) / f"checkpoint-{trainer.state.global_step}"
            raise Stopped(checkpoints.stopped, last)
        _save(stage, trainer, prepared)
    return trainer


def _save(stage: Stage, trainer: Any, prepared: PreparedRows) -> None:
    """The model, read back, and its card; to the Hub too, if asked for."""
    config = stage.config
    trainer.save_model(config.output_dir)
    trainer.read_back = ""
    if trainer.is_world_process_zero():
        write_record(Path(config.output_dir), trainer.record)
        mixed = config.bf16 or config.fp16
        trainer.read_back = read_back(
            Path(config.output_dir),
            trainer.accelerator.unwrap_model(trainer.model),
            some_rows(prepared.sets["train"].dataset),
            trust_remote_code=config.trust_remote_code,
            precision=trainer.accelerator.autocast if mixed else nullcontext,
        )
    name = stage.script.dataset_name
    card = os.path.basename(
        os.path.abspath(config.output_dir)
    )  # else a local base model would be called None
    trainer.create_model_card(
        model_name=card, dataset_name=None if name is None or os.path.exists(name) else name
    )
    if config.push_to_hub:
        trainer.push_to_hub(dataset_name=name)


@contextmanager
def explain_resource_errors(stage: Stage, prepared: PreparedRows) -> Iterator[None]:
    """Re-raise out-of-memory and disk-full errors with suggested fixes."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise out_of_memory(error, _remedies(stage, prepared)) from error
        if is_disk_full(error):
            raise disk_full(error, Path(stage.config.output_dir)) from error
        raise


def _remedies(stage: Stage, prepared: PreparedRows) -> list[Remedy]:
    try:
        return remedies(stage, longest_row(prepared.sets["train"].report, stage.config), available_memory())
    except Exception:  # on the way out: no estimate is no reason to hide what happened
        return []


def start_of_next(stage: Stage, data: LoadedData) -> Path:
    """What the next stage starts from: the stage's folder, or, for an adapter, its base with it merged in.

    The merged model lies in `merged` below the folder; it is compared with the adapter on rows of the stage.

    Raises:
        DataError: The merged model gives other outputs than the adapter.
    """
    folder = Path(stage.config.output_dir)
    if not (folder / "adapter_config.json").exists():
        return folder
    options = LoadOptions(
        trust_remote_code=stage.config.trust_remote_code,
        allow_pickle_weights=start_options(stage).allow_pickle_weights,
    )
    save_merged(str(folder), folder / "merged", _first_rows(stage, data), options)
    return folder / "merged"


def _first_rows(stage: Stage, data: LoadedData) -> list[list[int]]:
    """Token ids of a few training rows, without preparing the others."""
    first = replace(data.train[0], rows=data.train[0].rows.take(FIRST_ROWS))
    try:
        prepared = prepare_stage(stage, replace(data, train=[first], evaluation=None))
    except DataError:  # none of them can be trained
        return []
    return some_rows(prepared.sets["train"].dataset)

"""One stage of a run, from rows to a saved model. `ift train` and `train_method` both end here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ift.check.findings import longest_row
from ift.check.memory import Remedy, available_memory, remedies
from ift.data import DataError, LoadedData
from ift.methods.stage import PreparedRows, Stage, build_trainer, prepare_stage
from ift.runs.out_of_room import disk_full, is_disk_full, is_out_of_memory, out_of_memory
from ift.runs.read_back import read_back
from ift.training.checkpoints import SealedCheckpoints, Stopped


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
    with _faults_said(stage, prepared):
        try:
            trainer.train(resume_from_checkpoint=config.resume_from_checkpoint)
        except DataError as error:  # a row of a stream
            raise DataError(_plain_message(error) + _save_before_bad_row(trainer)) from error
        finally:
            if checkpoints is not None:
                checkpoints.release()
        unfinished = (
            trainer.state.global_step < trainer.state.max_steps
        )  # a signal may come behind the last step
        if checkpoints is not None and checkpoints.stopped is not None and unfinished:
            last = Path(config.output_dir) / f"checkpoint-{trainer.state.global_step}"
            raise Stopped(checkpoints.stopped, last)
        _save(stage, trainer)
    return trainer


def _plain_message(error: DataError) -> str:
    """The message; a worker process of the data loader puts its traceback before it."""
    return str(error).rsplit("DataError: ", 1)[-1].strip()


def _save_before_bad_row(trainer: Any) -> str:
    """Saves a checkpoint of the steps before a row that cannot be read; returns the end of the message.

    Several processes would have to stop at the same step for that: there nothing is saved.
    """
    step = trainer.state.global_step
    if not step or trainer.args.world_size > 1:
        return ""
    trainer._save_checkpoint(trainer.model_wrapped, trial=None)
    trainer.callback_handler.on_save(trainer.args, trainer.state, trainer.control)
    return f" The {step} steps before it are saved in {trainer.args.output_dir}/checkpoint-{step}."


def _save(stage: Stage, trainer: Any) -> None:
    """The model, read back, and its card; to the Hub too, if asked for."""
    config = stage.config
    trainer.save_model(config.output_dir)
    trainer.read_back = ""
    if trainer.is_world_process_zero():
        trained = trainer.accelerator.unwrap_model(trainer.model)
        trainer.read_back = read_back(
            Path(config.output_dir), trained, trust_remote_code=config.trust_remote_code
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
def _faults_said(stage: Stage, prepared: PreparedRows) -> Iterator[None]:
    """Says of memory or disk space that ran out what to do."""
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


def start_of_next(folder: Path) -> Path:
    """What the next stage starts from: the folder, or, for an adapter, its base with it merged in (`folder`/merged)."""
    if not (folder / "adapter_config.json").exists():
        return folder
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    merged = folder / "merged"
    model = AutoPeftModelForCausalLM.from_pretrained(str(folder), dtype="auto")
    model.merge_and_unload().save_pretrained(merged)
    AutoTokenizer.from_pretrained(str(folder)).save_pretrained(merged)
    return merged

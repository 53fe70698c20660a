"""The steps of `train_run` that act on a trainer: training, saving, verifying, publishing."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ift.check.memory import available_memory
from ift.check.remedies import remedies
from ift.check.sizes import Remedy, Sizes
from ift.data import DataError, LoadedData
from ift.methods.stage import PreparedRows, Stage, longest_row, prepare_stage
from ift.methods.start import start_options
from ift.models.loading import LoadOptions
from ift.models.merging import save_merged
from ift.models.outputs import compute_logits, first_rows_ids
from ift.models.record import write_record
from ift.runs.launch import running_engine
from ift.runs.lost_process import is_lost_process, lost_process
from ift.runs.model_card import write_model_card
from ift.runs.output_folder import MERGED
from ift.runs.read_back import read_back
from ift.runs.resource_errors import disk_full, is_disk_full, is_out_of_memory, out_of_memory
from ift.text import counted
from ift.training.checkpoints import SealedCheckpoints, Stopped

FIRST_ROWS = 16  # prepared to compare a merged model with its adapter


def train(trainer: Any, checkpoints: SealedCheckpoints | None) -> None:
    """Trains, from a checkpoint if the trainer's settings name one.

    Raises:
        DataError: A row of a stream cannot be read, or the checkpoint's optimiser state cannot be loaded.
        Stopped: A signal came before the last step; `checkpoints` has saved a checkpoint.
    """
    trainer.create_model_card = lambda *args, **kwargs: (
        None
    )  # trl writes one at each checkpoint; ours is for the end
    try:
        with _without_comparison():
            trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
    except DataError as error:  # a row of a stream
        raise DataError(_plain_message(error) + _save_before_bad_row(trainer)) from error
    except AssertionError as error:
        if "Expected device to be set" not in str(
            error
        ):  # torch's message for an optimiser state without tensors
            raise
        raise DataError(
            f"{trainer.args.resume_from_checkpoint}: its optimiser has no state (plain SGD keeps none), which torch "
            "cannot load under FSDP2 with FULL_STATE_DICT. Fix: train from the start, or with --optim adamw_torch"
        ) from error
    finally:
        if checkpoints is not None:
            checkpoints.release()
    unfinished = trainer.state.global_step < trainer.state.max_steps  # a signal may follow the last step
    if checkpoints is not None and checkpoints.stopped is not None and unfinished:
        last = Path(trainer.args.output_dir) / f"checkpoint-{trainer.state.global_step}"
        raise Stopped(checkpoints.stopped, last)


@contextmanager
def _without_comparison() -> Iterator[None]:
    """Leaves out transformers' warning of changed settings, which takes a share of the steps for another number.

    A resumed run has been compared with its checkpoint before, with all settings.
    """
    logger = logging.getLogger("transformers.trainer_utils")

    def wanted(record: logging.LogRecord) -> bool:
        return "do not match the ones in the `trainer_state.json`" not in record.getMessage()

    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)


def _plain_message(error: DataError) -> str:
    """The message without the traceback that a data loader's worker process puts before it."""
    return str(error).rsplit("DataError: ", 1)[-1].strip()


def _save_before_bad_row(trainer: Any) -> str:
    """Saves a checkpoint of the steps before an unreadable row; returns the end of the message.

    On several processes nothing is saved, because all would have to stop at the same step.
    """
    step = trainer.state.global_step
    if not step or trainer.args.world_size > 1:
        return ""
    trainer._save_checkpoint(trainer.model_wrapped, trial=None)
    trainer.callback_handler.on_save(trainer.args, trainer.state, trainer.control)
    steps = counted(step, "step before it is", "steps before it are")
    return f" The {steps} saved in {trainer.args.output_dir}/checkpoint-{step}."


def save(trainer: Any, folder: Path) -> None:
    """Saves the model unsharded, as `from_pretrained` reads it."""
    if trainer.is_fsdp_enabled:
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model(str(folder))
    if trainer.is_world_process_zero():
        write_record(folder, trainer.record)


def verify(trainer: Any, rows: PreparedRows, folder: Path) -> str:
    """Reads the saved model back on the first process; returns how it was verified, in a few words ("" on the others).

    Every process computes the outputs of the trained model, so that sharded weights can be gathered.
    """
    compared = first_rows_ids(rows.sets["train"].dataset)
    precision = trainer.accelerator.autocast if trainer.args.bf16 or trainer.args.fp16 else nullcontext
    outputs = compute_logits(trainer.model_wrapped, compared, precision)
    if not trainer.is_world_process_zero():
        return ""
    return read_back(
        folder,
        trainer.accelerator.unwrap_model(trainer.model),
        compared,
        outputs,
        trust_remote_code=trainer.args.trust_remote_code,
        precision=precision,
    )


def publish(trainer: Any, stage: Stage) -> None:
    """Writes the model card and, if requested, pushes the model to the Hub."""
    write_model_card(trainer, stage)
    if stage.config.push_to_hub:
        # transformers and trl would replace the card
        trainer.create_model_card = lambda *args, **kwargs: write_model_card(trainer, stage)
        trainer.push_to_hub(dataset_name=stage.script.dataset_name)


@contextmanager
def explain_resource_errors(stage: Stage, rows: PreparedRows) -> Iterator[None]:
    """Re-raises out-of-memory and disk-full errors, and those of a lost process, with what to do."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise out_of_memory(error, _remedies(stage, rows)) from error
        if is_disk_full(error):
            raise disk_full(error, Path(stage.config.output_dir)) from error
        if is_lost_process(error):
            raise lost_process(error, Path(stage.config.output_dir)) from error
        raise


def _remedies(stage: Stage, rows: PreparedRows) -> list[Remedy]:
    try:
        report = rows.sets["train"].report
        longest, answer = longest_row(report, stage.config), report.answer_lengths[2] or None
        return remedies(Sizes(stage, longest, running_engine(), None, answer), available_memory())
    except Exception:  # the original error must be shown even if the estimate fails
        return []


def model_for_next_stage(stage: Stage, data: LoadedData) -> str:
    """Folder of the model that the next stage starts from; for an adapter, `merged` below the stage's folder.

    The first process merges an adapter into its base, and compares their outputs on rows of the stage; the others wait.

    Raises:
        DataError: The merged model gives other outputs than the adapter.
    """
    folder = Path(stage.config.output_dir)
    adapter = folder / "adapter_config.json"
    if PartialState().is_main_process and adapter.exists():
        options = LoadOptions(
            trust_remote_code=stage.config.trust_remote_code,
            allow_pickle_weights=start_options(stage).allow_pickle_weights,
        )
        try:
            rows = first_rows(stage, data)
        except DataError:  # none of these rows can be trained
            rows = []
        save_merged(str(folder), folder / MERGED, rows, options)
    PartialState().wait_for_everyone()
    return str(folder / MERGED if adapter.exists() else folder)


def first_rows(stage: Stage, data: LoadedData) -> list[list[int]]:
    """Token ids of a few training rows, prepared without the others.

    Raises:
        DataError: They cannot be read, or none of them can be trained.
    """
    first = replace(data.train[0], rows=data.train[0].rows.take(FIRST_ROWS))
    prepared = prepare_stage(stage, replace(data, train=[first], evaluation=None))
    return first_rows_ids(prepared.sets["train"].dataset)

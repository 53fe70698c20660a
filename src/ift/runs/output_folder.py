"""The output folder of `ift train`: nothing is overwritten unasked, and a run goes on from its own checkpoints."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from ift.data import DataError
from ift.files import write_atomically
from ift.methods.table import Method
from ift.runs.removed import OLD_DEFAULTS
from ift.training.checkpoints import (
    NOTHING_TO_RESUME,
    damage,
    differing,
    facts_of,
    made_by_us,
    newest_whole,
)

RUN = "run.json"  # written before the first step: this folder is a run of ours
OURS = (RUN, "metrics.jsonl", "answers.jsonl", "final_answers.jsonl")  # beside the checkpoints
ELSEWHERE = {  # what decides nothing of the weights
    "output_dir", "overwrite_output_dir", "resume_from_checkpoint", "run_name", "project", "trackio_space_id",
    "report_to", "disable_tqdm", "logging_dir", "logging_first_step", "logging_nan_inf_filter", "logging_steps",
    "logging_strategy", "log_level", "log_level_replica", "log_on_each_node", "save_steps", "save_strategy",
    "save_total_limit", "save_on_each_node", "eval_steps", "eval_strategy", "eval_delay", "eval_on_start",
    "per_device_eval_batch_size", "eval_accumulation_steps", "dataloader_num_workers", "dataloader_pin_memory",
    "dataloader_prefetch_factor", "dataloader_persistent_workers", "dataset_num_proc", "push_to_hub", "hub_model_id",
    "hub_strategy", "hub_token", "hub_private_repo", "hub_always_push", "hub_revision", "skip_memory_metrics",
    "prediction_loss_only", "include_tokens_per_second", "include_num_input_tokens_seen", "model_init_kwargs",
    "load_best_model_at_end", "metric_for_best_model", "greater_is_better", "ddp_timeout", "local_rank",
}  # fmt: skip


DEFAULTS_BEFORE: dict[str, Any] = {
    "propagation_detach": "none"
}  # what a setting's default was until it changed


class Finished(Exception):
    """`--resume auto` where there is nothing left to do; the message says where the model lies."""


def open_folder(told: Any) -> list[str]:
    """Decide what becomes of the output folder, before anything is loaded; sets `resume_from_checkpoint`.

    Args:
        told: The `TrainArguments` of a stage.

    Returns:
        Lines to show: where the run goes on, which checkpoints were passed over and why.

    Raises:
        DataError: The folder holds something, and nothing was said about it; or there is nothing to go on from.
        Finished: The run that is to go on has ended.
    """
    folder, run = Path(told.config.output_dir), told.run
    _check_writable(folder)
    held = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    source = run.resume if run.resume != "auto" else None
    source = source or told.config.resume_from_checkpoint
    inside = source is not None and Path(source).resolve().parent == folder.resolve()
    if run.resume != "auto":
        if held and not inside and not run.overwrite_output_dir:
            raise DataError(
                f"{folder}: the output folder is not empty ({', '.join(held[:3])}{', ...' if len(held) > 3 else ''}). "
                "Fix: give another --output_dir, --resume auto to go on with the run in it, or --overwrite_output_dir"
            )
        if run.resume is None and source is None:
            _check_inputs(told, folder)
        if run.resume is None and not (source and damage(Path(source)) == NOTHING_TO_RESUME):
            return keep_earlier_defaults(told)
        path = Path(str(source))
        reason = damage(path) if path.is_dir() else "there is no such folder"
        if reason:
            raise DataError(f"--resume {path}: {reason}. Fix: name a whole checkpoint, or say --resume auto")
        told.config.resume_from_checkpoint = str(path)
        return [f"goes on from {path}", *keep_earlier_defaults(told)]
    if held and not (folder / RUN).exists():
        raise DataError(
            f"--resume auto: {folder} holds files and no {RUN}: it is no run of ift train. "
            "Fix: give the run's own --output_dir"
        )
    if held and _finished(folder / RUN):
        raise Finished(f"this run is finished: the model lies in {folder}")
    found, skipped = newest_whole(folder)
    lines = [f"passed over {path}: {reason}" for path, reason in skipped]
    useless = [path for path, reason in skipped if reason == NOTHING_TO_RESUME]
    if found is None and useless:
        raise DataError(
            f"--resume auto: {useless[0]}: {NOTHING_TO_RESUME}. Fix: start a new run from its weights "
            f"(--model_name_or_path {useless[0]} and another --output_dir), or from scratch with --overwrite_output_dir"
        )
    if found is None:
        return [*lines, f"no whole checkpoint in {folder}: begins anew"]
    told.config.resume_from_checkpoint = str(found)
    return [*lines, f"goes on from {found}", *keep_earlier_defaults(told)]


def _left_by_a_run(folder: Path) -> list[Path]:
    """What an earlier run of ours left to be resumed or read from: a new run in the folder deletes it, and no more."""
    files = [folder / name for name in OURS] if (folder / RUN).is_file() else []
    return [*made_by_us(folder), *(path for path in files if path.is_file() and not path.is_symlink())]


def _check_inputs(told: Any, folder: Path) -> None:
    """Raise DataError where the run would replace or delete the model that it starts from, or its rows."""
    lost = {path.resolve() for path in _left_by_a_run(folder)}
    data = [told.script.dataset_name, *(one.path for one in told.mixture.datasets)]
    for name in (told.model.model_name_or_path, *data):
        path = Path(name or "").expanduser().resolve()
        if name and path.exists() and (path == folder.resolve() or lost & {path, *path.parents}):
            raise DataError(
                f"{name}: lies in the output folder {folder}, where this run would replace it. "
                "Fix: give another --output_dir"
            )


def keep_earlier_defaults(told: Any) -> list[str]:
    """A run that began with a default that has changed since goes on with it, unless the setting is named now.

    Returns:
        Lines to show, one for each setting of `DEFAULTS_BEFORE` that is kept; `told.config` has its value.
    """
    source = told.config.resume_from_checkpoint
    began = facts_of(Path(source)) if source and Path(source).is_dir() else None
    lines = []
    for name, before in DEFAULTS_BEFORE.items():
        now = getattr(told.config, name, before)
        if began is not None and began.get(name) == before != now and name not in told.named:
            setattr(told.config, name, before)
            if getattr(told.config, "propagation", None) == "bellman":  # elsewhere it changes nothing
                lines.append(
                    f"{name} stays {before!r}, as this run began: that was the default then. A new run has {now!r}; "
                    f"give --{name} to change it"
                )
    return lines


def _check_writable(folder: Path) -> None:
    """Raise DataError where a file stands in the way, or the folder cannot be written to, before hours are spent."""
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise DataError(f"{folder}: {nearest} is a file, expected a folder. Fix: give another --output_dir")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise DataError(
            f"{folder}: cannot be written to: {nearest} is not writable for this user. Fix: give another --output_dir"
        )


def _finished(file: Path) -> bool:
    try:
        return bool(json.loads(file.read_text()).get("finished"))
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(
            f'--resume auto: {file} cannot be read ({error}). Fix: write {{"finished": false}} into it to go on'
        ) from error


def open_folders(stages: Sequence[Any]) -> list[str]:
    """`open_folder` for every stage of a sequence: those that have ended are marked `finished`.

    Raises:
        DataError: See `open_folder`; or a stage was begun before the ones ahead of it have ended.
        Finished: All of them have ended.
    """
    lines: list[str] = []
    for number, told in enumerate(stages, start=1):
        held = Path(told.config.output_dir).is_dir() and any(Path(told.config.output_dir).iterdir())
        if number > 1 and held and told.run.resume == "auto" and not stages[number - 2].finished:
            raise DataError(
                f"--resume auto: {told.config.output_dir} holds files, and the stage before it has not ended. "
                "Fix: move them away"
            )
        try:
            lines += open_folder(told)
        except Finished as done:
            if number == len(stages):
                raise
            told.finished = True
            lines.append(f"stage {number}: {done}")
    return lines


def agree_on_folders(stages: Sequence[Any]) -> list[str]:
    """`open_folders` by the first of several processes, for all of them; the lines are there for the first alone."""
    if not torch.distributed.is_initialized():
        return open_folders(stages)
    said: list[Any] = [None]
    lines: list[str] = []
    if torch.distributed.get_rank() == 0:
        try:
            lines = open_folders(stages)
            said = [[(told.config.resume_from_checkpoint, told.finished) for told in stages]]
        except (DataError, Finished) as end:
            said = [end]
    torch.distributed.broadcast_object_list(said)
    if isinstance(said[0], Exception):
        raise said[0]
    for told, (checkpoint, finished) in zip(stages, said[0], strict=True):
        told.config.resume_from_checkpoint, told.finished = checkpoint, finished
        if torch.distributed.get_rank() > 0:
            keep_earlier_defaults(told)
    return lines


def begin(told: Any) -> None:
    """Mark the folder as a run that has begun; everything has been checked by now.

    A new run deletes what an earlier run of ours left to be resumed or read from: checkpoints with a manifest and,
    where there is a run.json, the files in `OURS`. Everything else stays until it is written over; links stay.
    """
    folder = Path(told.config.output_dir)
    if not told.config.resume_from_checkpoint:
        for path in _left_by_a_run(folder):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_run(folder, finished=False)


@contextmanager
def nothing_left(folder: Path) -> Iterator[None]:
    """While open, an exception takes the folder away again if it is new and empty: a trainer makes it early on."""
    new = not folder.exists()
    try:
        yield
    except BaseException:
        if new:
            with suppress(OSError):  # it is not there, or not empty
                folder.rmdir()
        raise


def facts(told: Any, data: str) -> dict[str, Any]:
    """Everything that decides what is trained, as JSON: settings, model, and the hash of the rows."""
    found: dict[str, Any] = {"method": told.method.name, "data": data}
    for part in (told.config, told.model):
        for name in (one.name for one in fields(part)):
            if name not in ELSEWHERE:
                found[name] = _plain(getattr(part, name))
    return found


def check_unchanged(told: Any, now: dict[str, Any]) -> list[str]:
    """Compare a run that goes on with what it was; returns lines to show.

    A removed setting that stood at its default decided nothing, and is left out of the comparison.

    Raises:
        DataError: Something has changed and was not let through by `--allow_changed`; every key is named.
    """
    before = facts_of(Path(told.config.resume_from_checkpoint))
    if before is None:
        return ["the checkpoint has no manifest: whether the settings are the same was not checked"]
    before = {k: v for k, v in before.items() if k not in OLD_DEFAULTS or v != OLD_DEFAULTS[k]}
    changed = [key for key in differing(before, now) if key not in told.run.allow_changed]
    if changed:
        shown = "; ".join(
            f"{key} was {before.get(key)!r}, "
            + ("and this setting was removed" if key in OLD_DEFAULTS else f"is {now.get(key)!r}")
            for key in changed
        )
        way = "start a new run" if OLD_DEFAULTS.keys() & changed else "set them back"
        raise DataError(
            f"{told.config.resume_from_checkpoint}: not the same run: {shown}. Fix: {way}, or let them through "
            f"with --allow_changed {' '.join(changed)}"
        )
    return [f"changed, and allowed: {key}" for key in differing(before, now)]


def write_run(folder: Path, finished: bool) -> None:
    """Mark the folder as a run of ours, begun or finished."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / RUN, json.dumps({"finished": finished}) + "\n")


def _plain(value: Any) -> Any:
    """A JSON value: enumerations and other objects as text."""
    if isinstance(value, bool | int | float | str) or value is None:
        return getattr(value, "value", value)
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    return str(value)


def stage_folder(output_dir: str | Path, methods: Sequence[Method], number: int) -> Path:
    """Where stage `number` (from 1) saves: `output_dir` itself, or `2-dpo` below it in a sequence."""
    folder = Path(output_dir)
    return folder if len(methods) == 1 else folder / f"{number}-{methods[number - 1].name}"

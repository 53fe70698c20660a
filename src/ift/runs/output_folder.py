"""The output folder of `ift train`: never overwritten without a flag; runs resume from its checkpoints."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from ift.data import DataError
from ift.files import write_atomically
from ift.methods.table import Method
from ift.models.adapters import base_named_in
from ift.models.model_folder import RUN
from ift.models.record import FILE as MODEL_RECORD
from ift.runs.run_facts import changes_of_finished
from ift.training.checkpoints import (
    NOTHING_TO_RESUME,
    checkpoints_with_manifest,
    has_manifest,
    newest_complete,
    why_not_resumable,
)

# what a run writes in addition to the checkpoints: records, model or adapter, tokenizer, model card
RUN_FILES = (
    RUN, "metrics.jsonl", "answers.jsonl", "final_answers.jsonl", "non_finite.jsonl", "training_args.bin",
    "model*.safetensors", "model.safetensors.index.json", "config.json", "generation_config.json",
    "adapter_model.safetensors", "adapter_config.json", MODEL_RECORD, "README.md",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model",
)  # fmt: skip
METRICS = "metrics.jsonl"
MERGED = "merged"  # below the folder of a stage that trained an adapter: what the next stage starts from


class AlreadyFinished(Exception):
    """`--resume auto` for a finished run; the message names its model."""


def prepare_output_folder(run_args: Any, *, later_stage: bool = False) -> list[str]:
    """Checks a stage's output folder before anything is loaded, and sets `resume_from_checkpoint`.

    A later stage of a sequence starts from the model of the previous stage, not from --model_name_or_path.

    Returns:
        Lines to show: the checkpoint to resume from, and the skipped ones with the reason.

    Raises:
        DataError: The folder is not empty and no flag allows that, there is no checkpoint to resume from, or the run to
            resume is finished with other settings.
        AlreadyFinished: The run to resume is finished.
    """
    folder, run = Path(run_args.config.output_dir), run_args.run
    _check_writable(folder)
    existing = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    if run.resume == "auto":
        return _resume_newest(run_args, folder, existing, {"model_name_or_path"} if later_stage else set())
    named = run_args.config.resume_from_checkpoint if run.resume is None else run.resume
    source = None if named is None else Path(named)
    inside = source is not None and source.resolve().parent == folder.resolve()
    if existing and not inside and not run.overwrite_output_dir:
        more = ", ..." if len(existing) > 3 else ""
        raise DataError(
            f"{folder}: the output folder is not empty ({', '.join(existing[:3])}{more}). "
            "Fix: give another --output_dir, --resume auto to resume the run in it, or --overwrite_output_dir"
        )
    if source is None:
        _check_inputs(run_args, folder)
        return []
    reason = why_not_resumable(source) if source.is_dir() else "there is no such folder"
    if run.resume is None and reason != NOTHING_TO_RESUME:  # trl's flag: the checkpoint needs no manifest
        return []
    if reason:
        raise DataError(f"--resume {source}: {reason}. Fix: name a complete checkpoint, or use --resume auto")
    run_args.config.resume_from_checkpoint = str(source)
    return [f"resumes from {source}"]


def _resume_newest(run_args: Any, folder: Path, existing: list[str], decided: set[str]) -> list[str]:
    """`prepare_output_folder` for --resume auto; `decided` are settings that the sequence decides."""
    if existing and not (folder / RUN).exists():
        raise DataError(
            f"--resume auto: {folder} is not empty and has no {RUN}: it is not a run of ift train. "
            "Fix: give the run's own --output_dir"
        )
    if existing and (record := _read_run(folder / RUN)).get("finished"):
        if changed := changes_of_finished(run_args, record, decided):
            raise DataError(
                f"{folder}: this run is finished, with other settings: {'; '.join(changed)}. Fix: set them back, give "
                "another --output_dir, or train anew with --overwrite_output_dir instead of --resume"
            )
        raise AlreadyFinished(f"this run is finished: the model is in {folder}")
    found, skipped = newest_complete(folder)
    lines = [f"skipped {path}: {reason}" for path, reason in skipped]
    if found is not None:
        run_args.config.resume_from_checkpoint = str(found)
        return [*lines, f"resumes from {found}"]
    if sealed := {path: reason for path, reason in skipped if has_manifest(path)}:
        raise DataError(_would_delete(folder, sealed))
    _check_inputs(run_args, folder)
    return [*lines, f"no complete checkpoint in {folder}: starts from scratch"]


def _would_delete(folder: Path, sealed: dict[Path, str]) -> str:
    """Why --resume auto does not start from scratch; `sealed`: checkpoints that this would delete, with their reasons.

    Checkpoints without a manifest are not among them: they were never complete, and a new run does not delete them.
    """
    newest = next(iter(sealed))
    found = "; ".join(f"{path.name}: {reason}" for path, reason in sealed.items())
    return (
        f"--resume auto: {folder} has no checkpoint to resume from ({found}), and a start from scratch would delete "
        f"{'it' if len(sealed) == 1 else 'them'}. Fix: restore what is missing or damaged; start a new run from the "
        f"weights, if they are intact (--model_name_or_path {newest} and another --output_dir); or start from scratch "
        "with --overwrite_output_dir instead of --resume"
    )


def _deleted(run_args: Any) -> list[Path]:
    """What a new run deletes; of a sequence also in the folders of later stages, which are trained from this one."""
    folder, later = Path(run_args.config.output_dir), [Path(one) for one in run_args.later_folders]
    merged = [folder / MERGED] if later and (folder / MERGED / MODEL_RECORD).is_file() else []
    return [*merged, *(path for one in (folder, *later) for path in _files_of_earlier_run(one))]


def _files_of_earlier_run(folder: Path) -> list[Path]:
    """The files of an earlier run that a new run deletes: checkpoints with a manifest, and `RUN_FILES`."""
    files = [path for name in RUN_FILES for path in folder.glob(name)] if (folder / RUN).is_file() else []
    return [
        *checkpoints_with_manifest(folder),
        *(path for path in files if path.is_file() and not path.is_symlink()),
    ]


def _check_inputs(run_args: Any, folder: Path) -> None:
    """Raises DataError if the run would replace or delete its own start model or rows."""
    deleted = {path.resolve() for path in _deleted(run_args)}
    start = run_args.model.model_name_or_path
    adapter = Path(start or "").expanduser()
    base = base_named_in(adapter) if (adapter / "adapter_config.json").is_file() else None
    data = [run_args.script.dataset_name, *(one.path for one in run_args.mixture.datasets)]
    template = getattr(run_args.config, "chat_template_path", None)
    for name in (start, base, template, *data):
        path = Path(name or "").expanduser().resolve()
        if name and path.exists() and (path == folder.resolve() or deleted & {path, *path.parents}):
            raise DataError(
                f"{name}: is in the output folder {folder}, and this run would replace it. "
                "Fix: give another --output_dir"
            )


def _check_writable(folder: Path) -> None:
    """Raises DataError if the path is a file or not writable, before time is spent on training."""
    nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise DataError(f"{folder}: {nearest} is a file, expected a folder. Fix: give another --output_dir")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise DataError(
            f"{folder}: cannot be written to: {nearest} is not writable for this user. Fix: give another --output_dir"
        )


def _read_run(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f'--resume auto: {file} cannot be read ({error}). Fix: write {{"finished": false}} into it to resume'
        ) from error


def prepare_output_folders(stages: Sequence[Any]) -> list[str]:
    """Calls `prepare_output_folder` for every stage of a sequence; sets `later_folders`, and `finished` if it is.

    Raises:
        DataError: See `prepare_output_folder`; or a stage has files although the previous one is not finished.
        AlreadyFinished: All stages are finished.
    """
    lines: list[str] = []
    for number, run_args in enumerate(stages, start=1):
        run_args.later_folders = [later.config.output_dir for later in stages[number:]]
        held = Path(run_args.config.output_dir).is_dir() and any(Path(run_args.config.output_dir).iterdir())
        if number > 1 and held and run_args.run.resume == "auto" and not stages[number - 2].finished:
            raise DataError(
                f"--resume auto: {run_args.config.output_dir} is not empty, but the stage before it is not finished. "
                "Fix: move its files away"
            )
        try:
            lines += prepare_output_folder(run_args, later_stage=number > 1)
        except AlreadyFinished as done:
            if number == len(stages):
                raise
            run_args.finished = True
            lines.append(f"stage {number}: {done}")
    return lines


def prepare_folders_on_first_process(stages: Sequence[Any]) -> list[str]:
    """Calls `prepare_output_folders` on the first of several processes for all of them; only it returns lines."""
    if not torch.distributed.is_initialized():
        return prepare_output_folders(stages)
    decided: list[Any] = [None]
    lines: list[str] = []
    if torch.distributed.get_rank() == 0:
        try:
            lines = prepare_output_folders(stages)
            decided = [[(run_args.config.resume_from_checkpoint, run_args.finished) for run_args in stages]]
        except (DataError, AlreadyFinished) as end:
            decided = [end]
    torch.distributed.broadcast_object_list(decided)
    if isinstance(decided[0], Exception):
        raise decided[0]
    for run_args, (checkpoint, finished) in zip(stages, decided[0], strict=True):
        run_args.config.resume_from_checkpoint, run_args.finished = checkpoint, finished
    return lines


def mark_run_started(run_args: Any) -> None:
    """Marks the output folder as a started run, after all checks; a new run deletes the files of an earlier one."""
    folder = Path(run_args.config.output_dir)
    if not run_args.config.resume_from_checkpoint:
        for path in _deleted(run_args):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_run(folder, finished=False)


@contextmanager
def remove_empty_folder_on_error(folder: Path) -> Iterator[None]:
    """On an exception, removes the folder if it is new and nothing was trained, so that the command can be repeated.

    It may then hold what a run writes before its first step: the mark of a started run, and measurements of step 0. A
    folder with anything else is kept. Of several processes the first one does this.
    """
    new = not folder.exists() and os.environ.get("RANK", "0") == "0"
    try:
        yield
    except BaseException:
        if new:
            with suppress(OSError, ValueError):  # it does not exist, or is not ours to remove
                _remove_untrained(folder)
        raise


def _remove_untrained(folder: Path) -> None:
    metrics = folder / METRICS
    if {path.name for path in folder.iterdir()} <= {RUN, METRICS} and not (
        metrics.exists() and any(json.loads(line).get("step") for line in metrics.read_text().splitlines())
    ):
        for name in (RUN, METRICS):
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()


def write_run(folder: Path, finished: bool, **record: Any) -> None:
    """Marks the folder as a started or finished run of `ift train`; `record` is that of `finished_record`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / RUN, json.dumps({"finished": finished, **record}) + "\n")


def stage_folder(output_dir: str | Path, methods: Sequence[Method], number: int) -> Path:
    """Folder of stage `number` (from 1): `output_dir`, or a folder such as `2-dpo` below it in a sequence."""
    folder = Path(output_dir)
    return folder if len(methods) == 1 else folder / f"{number}-{methods[number - 1].name}"

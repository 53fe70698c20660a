"""What a run was trained with, so that a resumed run can be compared with its checkpoint."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import Any

from ift.data import DataError, Prepared
from ift.runs.removed import OLD_DEFAULTS
from ift.text import counted
from ift.training.checkpoints import changed_keys, read_facts
from ift.user_code import file_sha256

HASH = "_sha256"  # end of the name of a file's hash
DATA = "data"  # hash of the training rows, as they are trained
FILES = "files"  # name and hash of each file that they are from: which of them a change of the rows is in
PROCESSES = "processes"  # of the run: their number decides the rows of a step, and which row comes when
FILES_AFFECTING_WEIGHTS = ("token_weights", "deepspeed")  # settings that name a file
FIELDS_NOT_AFFECTING_WEIGHTS = {
    "output_dir", "overwrite_output_dir", "resume_from_checkpoint", "run_name", "project", "trackio_space_id",
    "report_to", "disable_tqdm", "logging_dir", "logging_first_step", "logging_nan_inf_filter", "logging_steps",
    "logging_strategy", "log_level", "log_level_replica", "log_on_each_node", "save_steps", "save_strategy",
    "save_total_limit", "save_on_each_node", "eval_steps", "eval_strategy", "eval_delay", "eval_on_start",
    "per_device_eval_batch_size", "eval_accumulation_steps", "dataloader_num_workers", "dataloader_pin_memory",
    "dataloader_prefetch_factor", "dataloader_persistent_workers", "dataset_num_proc", "push_to_hub", "hub_model_id",
    "hub_strategy", "hub_token", "hub_private_repo", "hub_always_push", "hub_revision", "skip_memory_metrics",
    "prediction_loss_only", "include_tokens_per_second", "include_num_input_tokens_seen", "model_init_kwargs",
    "load_best_model_at_end", "metric_for_best_model", "greater_is_better", "ddp_timeout", "local_rank",
    "assistant_only_loss",  # completion_only_loss decides
}  # fmt: skip


def run_facts(run_args: Any, data: str, files: list[list[str]] | None = None) -> dict[str, Any]:
    """What must not change when a run resumes: settings that affect weights, processes, hashes of rows and files.

    `files` are those of `hashes_of_data`.
    """
    processes = int(os.environ.get("WORLD_SIZE", 1))
    found: dict[str, Any] = {"method": run_args.method.name, DATA: data, PROCESSES: processes}
    if files is not None:
        found[FILES] = files
    for part in (run_args.config, run_args.model):
        for name in (one.name for one in fields(part)):
            if name not in FIELDS_NOT_AFFECTING_WEIGHTS:
                found[name] = _json_value(getattr(part, name))
    return found | file_hashes(run_args.config)


def check_unchanged(run_args: Any, now: dict[str, Any]) -> list[str]:
    """Compares a resumed run with its checkpoint; returns lines to show.

    A removed setting with its default value had no effect and is not compared.

    Raises:
        DataError: Settings have changed and `--allow_changed` does not allow it; the message names them.
    """
    before = read_facts(Path(run_args.config.resume_from_checkpoint))
    if before is None:
        return ["the checkpoint has no manifest, so its settings were not compared with these"]
    files = before.pop(FILES, None), now.get(FILES) or []
    before = {k: v for k, v in before.items() if k not in OLD_DEFAULTS or v != OLD_DEFAULTS[k]}
    # an earlier version compared more fields
    before = {k: v for k, v in before.items() if k not in FIELDS_NOT_AFFECTING_WEIGHTS}
    # older runs have neither hashes of files nor the number of processes
    now = {k: v for k, v in now.items() if k in before or not (k in (FILES, PROCESSES) or k.endswith(HASH))}
    changed = [key for key in changed_keys(before, now) if key not in run_args.run.allow_changed]
    if changed:
        shown = "; ".join(
            _change_of_rows(run_args, before, now, *files) if key == DATA else _change(key, before, now)
            for key in changed
        )
        fix = "start a new run" if OLD_DEFAULTS.keys() & changed else "set them back"
        raise DataError(
            f"{run_args.config.resume_from_checkpoint}: not the same run: {shown}. Fix: {fix}, or allow the "
            f"changes with --allow_changed {' '.join(changed)}"
        )
    return [f"changed, allowed by --allow_changed: {key}" for key in changed_keys(before, now)]


def hashes_of_data(prepared: Prepared) -> list[list[str]]:
    """Name and SHA-256 of each local file that prepared rows are from, in order; none for a stream, read as needed."""
    if prepared.report.streaming:
        return []
    files = [file for part in prepared.parts or (prepared,) if part.origin for file in part.origin.files]
    found = []
    for file in files:
        with file.open("rb") as opened:
            found.append([file.name, hashlib.file_digest(opened, "sha256").hexdigest()])
    return found


def _change_of_rows(
    run_args: Any,
    before: dict[str, Any],
    now: dict[str, Any],
    files_before: list[list[str]] | None,
    files: list[list[str]],
) -> str:
    """How the training rows have changed: by file, where the checkpoint knows the hashes of the files."""
    if files_before is None:  # of an earlier version
        mixed = run_args.mixture is not None and len(run_args.mixture.datasets) > 1
        why = (
            " (or rows are held out, which earlier versions drew from a mixture as a whole)" if mixed else ""
        )
        return f"{_change(DATA, before, now)}: the rows have changed{why}"
    names = [name for name, _ in files_before], [name for name, _ in files]
    if names[0] != names[1]:
        return f"the rows were those of {', '.join(names[0])}, are those of {', '.join(names[1])} ({DATA})"
    changed = [
        name for one, other in zip(files_before, files, strict=True) if one != other for name in other[:1]
    ]
    if changed:
        return f"the content of {', '.join(dict.fromkeys(changed))} has changed ({DATA})"
    return (
        f"{_change(DATA, before, now)}, although no file has changed: a setting selects or renders other rows"
    )


def finished_record(run_args: Any, facts: dict[str, Any], best: str = "") -> dict[str, Any]:
    """What `run.json` keeps of a finished run: its facts, its data sets, and the saved step if it was chosen."""
    return {"facts": facts, "rows": _names_of_rows(run_args)} | ({"saved": best} if best else {})


def changes_of_finished(run_args: Any, record: dict[str, Any], decided: Collection[str] = ()) -> list[str]:
    """What a command asks of a finished run that it was not trained with, in words; nothing is loaded for it.

    Args:
        run_args: The command.
        record: Of `finished_record`; earlier versions wrote none, and nothing is compared.
        decided: Settings that are not compared.
    """
    before = record.get("facts")
    if before is None:
        return []
    now = run_facts(run_args, before[DATA])
    left_out = {PROCESSES, *OLD_DEFAULTS, *run_args.run.allow_changed, *decided}
    changed = [
        key for key in changed_keys(before, now) if key in before and key in now and key not in left_out
    ]
    names = record["rows"], _names_of_rows(run_args)
    rows = f"the rows were {', '.join(names[0])}, are {', '.join(names[1])}"
    return [*(_change(key, before, now) for key in changed), *([rows] if names[0] != names[1] else [])]


def _names_of_rows(run_args: Any) -> list[str]:
    """The names of the data sets without the folders that they are in, which may have moved."""
    entries = run_args.mixture.datasets if run_args.mixture is not None else []
    return [
        Path(name).name for name in (run_args.script.dataset_name, *(one.path for one in entries)) if name
    ]


def file_hashes(config: Any) -> dict[str, str]:
    """SHA-256 of the files that settings name and that affect the weights: name of the setting and `HASH` -> digest."""
    found = {}
    for name in FILES_AFFECTING_WEIGHTS:
        value = getattr(config, name, None)
        if isinstance(value, str) and (digest := file_sha256(value)):
            found[f"{name}{HASH}"] = digest
    return found


def _change(key: str, before: dict[str, Any], now: dict[str, Any]) -> str:
    """How one fact has changed."""
    if key.endswith(HASH) and key in before and key in now:
        name = key.removesuffix(HASH)
        return f"the content of the file of {name}, {now.get(name)}, has changed ({key})"
    if key == PROCESSES:
        ran = counted(before[key], "process", "processes")
        return f"the run had {ran} and now has {now[key]}, so its steps would have other rows"
    if key in OLD_DEFAULTS:
        return f"{key} was {before.get(key)!r}, and this setting was removed"
    return f"{key} was {before.get(key)!r}, is {now.get(key)!r}"


def _json_value(value: Any) -> Any:
    """A JSON value; enumerations and other objects become strings."""
    if isinstance(value, bool | int | float | str) or value is None:
        return getattr(value, "value", value)
    if isinstance(value, list | tuple):
        return [_json_value(one) for one in value]
    if isinstance(value, dict):
        return {str(key): _json_value(one) for key, one in value.items()}
    return str(value)

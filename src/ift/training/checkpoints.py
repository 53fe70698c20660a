"""Checkpoints with a manifest, written last, that lists every file with its size and hash.

A checkpoint without a manifest, or with a file that differs from it, was interrupted while it was written, so a resumed
run skips it. One with a manifest is called sealed. Older checkpoints are deleted only after a newer one is sealed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback

from ift.files import sync_to_disk, write_atomically

MANIFEST = "manifest.json"
SETTINGS = "ift_settings.json"
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143}  # -> exit code, as in shells
SAME_STOP = 2.0  # seconds within which a second signal is treated as a repetition of the first
_NAME = re.compile(r"checkpoint-(\d+)$")
NOTHING_TO_RESUME = "it has no optimiser state (save_only_model), so no run can resume from it"


def write_manifest(folder: Path, step: int, facts: Mapping[str, Any], seconds: float | None = None) -> None:
    """Writes the manifest of a checkpoint after synchronising all its other files to the disk.

    `facts` are JSON values with which a resumed run is compared, see `changed_keys`; `seconds` is the time of all steps
    so far, None if it is not known.
    """
    files = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST):
        sync_to_disk(file)
        files[str(file.relative_to(folder))] = {"bytes": file.stat().st_size, "sha256": _sha256(file)}
    content = {"step": step, "files": files, "facts": facts, "seconds": seconds}
    write_atomically(folder / MANIFEST, json.dumps(content, indent=1), sync=True)
    sync_to_disk(folder.parent)


def why_not_resumable(folder: Path) -> str | None:
    """Why no run can resume from a checkpoint (it is incomplete, or has no optimiser state); None if one can."""
    try:
        files = json.loads((folder / MANIFEST).read_text())["files"]
    except FileNotFoundError:
        return "it has no manifest: its writing was interrupted"
    except (OSError, ValueError, KeyError) as error:
        return f"its manifest cannot be read ({type(error).__name__})"
    for name, wanted in files.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != wanted["bytes"]:
            return f"{name} has {file.stat().st_size:,} bytes, not {wanted['bytes']:,}"
        if _sha256(file) != wanted["sha256"]:
            return f"{name} differs from the manifest"
    if not any(Path(name).parts[0].startswith(("optimizer", "global_step")) for name in files):
        return NOTHING_TO_RESUME
    return None


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while piece := opened.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def checkpoints_of(output_dir: Path) -> list[Path]:
    """The folders named `checkpoint-N` in an output folder, sorted by N, without symbolic links."""
    found = sorted(
        (int(match[1]), path)
        for path in output_dir.glob("checkpoint-*")
        if (match := _NAME.match(path.name)) and path.is_dir() and not path.is_symlink()
    )
    return [path for _, path in found]


def checkpoints_with_manifest(output_dir: Path) -> list[Path]:
    """The checkpoints with a manifest; only these are ever deleted."""
    return [path for path in checkpoints_of(output_dir) if has_manifest(path)]


def has_manifest(folder: Path) -> bool:
    """Whether a checkpoint was completely written at some time: its manifest comes last."""
    return (folder / MANIFEST).is_file()


def delete_old(output_dir: Path, limit: int | None, best: str | None) -> None:
    """Deletes the oldest checkpoints with a manifest until `limit` are left, but never the newest or the best."""
    found = sorted(
        checkpoints_with_manifest(output_dir), key=lambda path: (path / MANIFEST).stat().st_mtime_ns
    )
    if not limit or not found:
        return
    kept = {found[-1].resolve(), *([Path(best).resolve()] if best else [])}
    deletable = [path for path in found if path.resolve() not in kept]
    for path in deletable[: max(0, len(found) - max(limit, len(kept)))]:
        shutil.rmtree(path)


def newest_complete(output_dir: Path) -> tuple[Path | None, list[tuple[Path, str]]]:
    """The newest complete checkpoint (or None), and the newer incomplete ones with the reason."""
    skipped: list[tuple[Path, str]] = []
    for path in reversed(checkpoints_of(output_dir)):
        reason = why_not_resumable(path)
        if reason is None:
            return path, skipped
        skipped.append((path, reason))
    return None, skipped


def read_facts(folder: Path) -> dict[str, Any] | None:
    """The facts in a checkpoint's manifest; None without a manifest (a checkpoint of another tool)."""
    file = folder / MANIFEST
    return dict(json.loads(file.read_text())["facts"]) if file.exists() else None


def read_seconds(folder: Path) -> float | None:
    """The time of all steps up to a checkpoint; None if its manifest does not say it."""
    try:
        found = json.loads((folder / MANIFEST).read_text()).get("seconds")
    except (OSError, ValueError):
        return None
    return None if found is None else float(found)


def changed_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The keys whose values differ."""
    return sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))


class WritesInCheckpoints(TrainerCallback):
    """Calls `write(folder)` for every checkpoint, on the main process and before its manifest is written."""

    def __init__(self, write: Callable[[Path], None]) -> None:
        self.write = write

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Writes the file."""
        if state.is_world_process_zero:
            self.write(Path(args.output_dir) / f"checkpoint-{state.global_step}")


def write_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Writes the method's settings into a checkpoint, for comparison when a run resumes."""
    (folder / SETTINGS).write_text(json.dumps(settings, indent=1) + "\n")


def changed_settings(folder: Path, now: Mapping[str, Any]) -> str | None:
    """Names the method's settings that differ from those of a checkpoint.

    Returns:
        None if none differs, or the checkpoint does not say what its settings were (it is another tool's).
    """
    try:
        before = json.loads((folder / SETTINGS).read_text())
    except FileNotFoundError:
        return None
    changed = [name for name in now if name in before and before[name] != now[name]]
    if not changed:
        return None
    shown = "; ".join(f"{name} was {before[name]!r}, is {now[name]!r}" for name in changed)
    return f"{folder} resumes with other settings: {shown}. Set them back to continue the run unchanged."


STOPPING = (
    b"\nstopping: this step is finished first, with its evaluation if one is due, and a checkpoint is saved; a second "
    b"signal some seconds later stops at once\n"
)


class SealedCheckpoints(TrainerCallback):
    """Writes a manifest into every checkpoint and then deletes older ones; on SIGINT or SIGTERM, saves and stops.

    Attributes:
        facts: What the manifests record about the run, see `ift.runs.run_facts.run_facts`.
        received: The first signal that this process got, if any; another one some seconds later stops it immediately.
        stopped: The signal for which the run was stopped after a step, if any; all processes have the same.
        resumed_at: The step that the run was resumed at; 0 if it was not.
    """

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self.facts = facts
        self.received: int | None = None
        self.stopped: int | None = None
        self._limit: int | None = None
        self._handlers: dict[int, Any] = {}
        self._received_at = 0.0
        self.resumed_at = 0
        self._began, self._ended = time.monotonic(), float("inf")
        self._before: float | None = 0.0

    @property
    def seconds(self) -> float | None:
        """Time of all steps so far, with those before the run was resumed; None if that is not known."""
        now = min(time.monotonic(), self._ended)
        return None if self._before is None else self._before + now - self._began

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Takes over the deletion of old checkpoints and the handling of signals, and starts the clock."""
        self._began, self.resumed_at = time.monotonic(), state.global_step
        if state.global_step:
            source = getattr(args, "resume_from_checkpoint", None)
            own = (
                Path(args.output_dir) / f"checkpoint-{state.global_step}"
            )  # of a trainer that was told in `train`
            self._before = read_seconds(Path(source) if isinstance(source, str) else own)
        self._limit, args.save_total_limit = args.save_total_limit, None
        for number in SIGNALS:
            try:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._handlers[number] = signal.signal(number, self._stop)
            except ValueError:  # only the main thread can handle signals
                return

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._received_at = number, time.monotonic()
            if os.environ.get("RANK", "0") == "0":
                os.write(2, STOPPING)  # print may be in the middle of a line, and is not allowed in a handler
        elif time.monotonic() - self._received_at > SAME_STOP:  # a launcher repeats a Ctrl-C immediately
            self.release()
            signal.raise_signal(number)

    def release(self) -> None:
        """Restores the earlier signal handlers."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Saves and stops if any process has received a signal."""
        received = self.received
        if torch.distributed.is_initialized():  # all processes stop after the same step
            number = torch.tensor(received or 0, device=args.device)
            torch.distributed.all_reduce(number, torch.distributed.ReduceOp.MAX)
            received = int(number) or None  # a signal that comes meanwhile counts at the next step
        if received is not None:
            self.stopped = received
            args.save_only_model = False  # so that the run can be resumed
            control.should_log = control.should_training_stop = True
            control.should_save = not _ends_epoch(state)  # else after what an epoch's end does

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """In a run that a signal stops within an epoch: leaves out what only the end of an epoch does.

        transformers calls this for a stopped epoch too. An evaluation would draw random numbers, so that the resumed
        run would not be the uninterrupted one.
        """
        if self.stopped is not None:
            whole = _ends_epoch(state)
            control.should_save = whole
            control.should_log = whole and control.should_log
            control.should_evaluate = whole and control.should_evaluate

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Writes the manifest once all processes have written their files, then deletes the oldest checkpoints."""
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            write_manifest(folder, state.global_step, self.facts, self.seconds)
            delete_old(Path(args.output_dir), self._limit, state.best_model_checkpoint)
        if torch.distributed.is_initialized():  # a launcher stops all processes when the first one exits
            torch.distributed.barrier()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Restores `save_total_limit` and the signal handlers, and stops the clock."""
        self._ended = time.monotonic()
        args.save_total_limit = self._limit
        self.release()


def _ends_epoch(state: Any) -> bool:
    """Whether a step is the last of its epoch, or of the run."""
    return float(state.epoch or 0).is_integer() or state.global_step >= state.max_steps


class Stopped(Exception):
    """A signal stopped the run after it had saved a checkpoint.

    Attributes:
        code: Exit code, 130 or 143.
        checkpoint: Checkpoint to resume from.
    """

    def __init__(self, number: int, checkpoint: Path) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; saved to {checkpoint}")
        self.code, self.checkpoint = SIGNALS[signal.Signals(number)], checkpoint

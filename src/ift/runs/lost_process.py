"""What to do after a process of a run was lost: the newest checkpoint, and the command that resumes from it."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed

from ift.runs.argv import drop_flags, normalised_words
from ift.runs.launch import machines_of, resolve_config
from ift.text import quoted
from ift.training.checkpoints import SIGNALS, checkpoints_with_manifest

# what gloo and NCCL say where the other side of a connection has ended
_SIGNS = (
    "Connection reset by peer",
    "Connection closed by peer",
    "Broken pipe",
    "remote process exited",
    "Timed out waiting",
)


class LostProcess(RuntimeError):
    """Another process of the run has ended, or cannot be reached; the message says how to resume."""


def is_lost_process(error: BaseException) -> bool:
    """Whether one of several processes failed because it could not reach another one."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return False
    connection = isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
    return connection or isinstance(error, torch.distributed.DistError)


def lost_process(error: BaseException, folder: Path) -> LostProcess:
    """The error for the user: what the library said, the newest checkpoint, and how to resume."""
    return LostProcess(
        f"another process of this run has ended, or cannot be reached ({quoted(error)}). {_newest([folder])} To "
        "resume, repeat the command with --resume auto and as many processes as before, on every machine of the run"
    )


def explain_lost_process(code: int, stages: Sequence[Any], arguments: Sequence[str]) -> str:
    """The message for a launcher whose processes ended with this exit code; "" where they have said why they ended.

    Args:
        code: Of the first process that failed: 128 and the number of a signal where one ended it.
        stages: Of the run.
        arguments: The command line behind `ift train`.
    """
    if code <= 128 or code in SIGNALS.values():  # a process that is told to stop saves, and says so
        return ""
    try:
        name = signal.Signals(code - 128).name
    except ValueError:
        return ""
    why = " (as the system does where the machine's memory runs out)" if name == "SIGKILL" else ""
    words = drop_flags(normalised_words([*arguments]), {"--resume", "--resume_from_checkpoint"})
    command = shlex.join(["ift", "train", *words, "--resume", "auto"])
    several = machines_of(resolve_config(stages[0].launch)) > 1
    where = ", on every machine with its own --machine_rank" if several else ""
    newest = _newest([Path(stage.config.output_dir) for stage in stages])
    return f"a process was ended by {name}{why}, and with it the run. {newest} To resume{where}:\n  {command}"


def _newest(folders: Sequence[Path]) -> str:
    found = [checkpoints_with_manifest(folder)[-1:] for folder in folders]
    newest = [path for paths in found for path in paths]
    if newest:
        return f"Newest checkpoint: {newest[-1]}."
    return "No checkpoint was saved before it (--save_strategy steps, --save_steps), so it starts from the beginning."

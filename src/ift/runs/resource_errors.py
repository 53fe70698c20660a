"""Recognises out-of-memory and disk-full errors and suggests fixes."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from ift.check.sizes import Remedy
from ift.training.checkpoints import newest_complete


class OutOfMemory(RuntimeError):
    """A step did not fit into memory; the message names settings that need less."""


class DiskFull(OSError):
    """A file did not fit on the disk; the message says where, and how to resume."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an accelerator or the machine ran out of memory."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)
    )


def out_of_memory(error: BaseException, remedies: Sequence[Remedy]) -> OutOfMemory:
    """The error for the user: the original message, and up to three settings that need less memory."""
    message = str(error).strip().split("\n")[0] or type(error).__name__
    if remedies:
        fixes = "\n".join(f"  {one}" for one in remedies[:3])
        fix = f"Fix, the cheapest first:\n{fixes}"
    else:
        fix = "Fix: a larger device, or more of them with accelerate's FSDP (docs/scaling.md)"
    return OutOfMemory(f"out of memory: {message}\n{fix}")


def is_disk_full(error: BaseException) -> bool:
    """Whether the disk or the user's quota was full; safetensors and torch raise their own messages."""
    words = ("No space left on device", "Disk quota exceeded", "PytorchStreamWriter failed writing")
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or any(one in str(error) for one in words)


def disk_full(error: BaseException, folder: Path) -> DiskFull:
    """The error for the user: the folder, the free space, and how to resume."""
    message = str(error).strip().split("\n")[0]
    good, _ = newest_complete(folder)
    return DiskFull(
        f"no space left while saving to {folder} ({shutil.disk_usage(folder).free / 2**20:,.0f} MiB free): {message}\n"
        f"  last good checkpoint: {good or 'none yet'}\n"
        "  Fix: free some disk space, then repeat the command with --resume auto; "
        "--save_total_limit 2 keeps only two checkpoints"
    )

"""A disk that is full while a run saves: one message, and the run goes on when there is room."""

import errno
import os
import subprocess

import pytest
from safetensors import SafetensorError
from safetensors.torch import load_file

from ift.runs.resource_errors import is_disk_full
from ift.training.checkpoints import newest_complete

SAVING = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), True),
        (
            RuntimeError(
                "[enforce fail at inline_container.cc] . PytorchStreamWriter failed writing file data/3"
            ),
            True,
        ),
        (OSError(errno.EACCES, "Permission denied"), False),
        (RuntimeError("CUDA out of memory"), False),
    ],
)
def test_it_is_told_from_other_errors(error, full):
    assert is_disk_full(error) is full


def test_a_full_disk_loses_what_was_not_saved_and_nothing_else(run_tiny, monkeypatch):
    """The second checkpoint does not fit; with room again the run ends where an uninterrupted one does."""
    straight = run_tiny(out="straight", **SAVING)
    from transformers import Trainer

    real = Trainer._save

    def full(self, output_dir=None, state_dict=None):
        if self.state.global_step == 4:
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        return real(self, output_dir, state_dict)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_save", full)
        done = run_tiny(**SAVING)
    said = " ".join(done.err.split())
    assert done.code == 1
    assert f"ift train: no space left while saving to {done.folder} (" in said
    assert f"last good checkpoint: {done.folder / 'checkpoint-2'}" in said
    assert "free some disk space, then repeat the command with --resume auto" in said
    assert "Traceback" not in said
    again = run_tiny("--resume", "auto", **SAVING)
    assert again.code == 0, again.err
    assert f"resumes from {done.folder / 'checkpoint-2'}" in again.out
    first, second = (load_file(run.folder / "model.safetensors") for run in (straight, again))
    assert all((first[name] == second[name]).all() for name in first)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 600 KiB; only root may make one."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", folder], capture_output=True)
    if made.returncode:
        pytest.skip("this machine does not let root mount")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_really_full(run_tiny, small_disk):
    done = run_tiny(out=small_disk / "out", **{**SAVING, "save_steps": 1})
    assert done.code == 1
    assert "ift train: no space left while saving to" in done.err
    assert "Traceback" not in done.err
    whole, _ = newest_complete(done.folder)
    assert whole is None or f"last good checkpoint: {whole}" in done.err

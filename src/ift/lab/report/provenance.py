"""Describes the origin of a run without private data: versions, hardware, commit, command and time."""

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ift.lab.report.records import Provenance, Setting

PACKAGES = (
    "intuitive-fine-tuning", "torch", "transformers", "trl", "accelerate", "datasets", "peft", "tokenizers", "numpy",
)  # fmt: skip
_SECRET_NAME = re.compile(  # --hub_token, but neither --eos_token nor --token_weights
    r"(?:^|[-_.])(?:(?<!eos[-_])(?<!bos[-_])(?<!pad[-_])token(?![-_]weights)|secret|passw(?:or)?d|credentials?|key|auth)(?:$|[-_.])",
    re.IGNORECASE,
)
_SECRET_VALUE = re.compile(r"\b(?:hf_|sk-|ghp_|gho_|github_pat_|AKIA)[A-Za-z0-9_-]{8,}")
_ADDRESS = re.compile(r"(\w+://)[^/@\s]*@")
# A path from the root, from a drive, from a share or from a home; not the one inside an address (https://...).
_ABSOLUTE = re.compile(r"(?<![\w.:/<])(?:~[\w.-]*[/\\]|/|[A-Za-z]:[/\\]|\\\\|file:///?)([^\s,;:'\"=]+)")


def provenance(words: Sequence[str] | None = None, *, local_model: bool = True) -> Provenance:
    """Versions, hardware, commit, command and time of the current run.

    The result contains no absolute path (only its last part), no host or user name, no environment variable and no
    token.

    `words` are the arguments after `ift`. By default the command is that of this process: `ift` or, in a process of
    another script, `python` and the script. If no `local_model` has run on this machine, torch, which takes seconds to
    load, is not asked about threads and accelerators.
    """
    return Provenance(
        versions=_versions(),
        hardware=_hardware(local_model),
        git_commit=_git_commit(Path(__file__).resolve().parent),
        command=clean_command(sys.argv[1:], _program()) if words is None else clean_command(words),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _program() -> list[str]:
    """What this process runs: `ift`, also as a module of the package, or `python` and another script."""
    package, script = Path(__file__).resolve().parents[2], Path(sys.argv[0])
    ours = script.suffix != ".py" or package in script.resolve().parents
    return ["ift"] if ours else ["python", sys.argv[0]]


def clean_command(words: Sequence[str], program: Sequence[str] = ("ift",)) -> str:
    """A command line that can be published: absolute paths are cut to their last part, secrets become `***`."""
    cleaned, hide_next = [], False
    for word in (*program, *words):
        name, equals, _ = word.partition("=")
        if hide_next and not word.startswith("-"):
            word = "***"
        elif equals and _SECRET_NAME.search(name):
            word = f"{name}=***"
        hide_next = not equals and word.startswith("-") and bool(_SECRET_NAME.search(word))
        word = _ADDRESS.sub(r"\1", _SECRET_VALUE.sub("***", word))
        cleaned.append(_ABSOLUTE.sub(lambda found: re.split(r"[/\\]", found[1].rstrip("/\\"))[-1], word))
    return shlex.join(cleaned)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _hardware(local_model: bool) -> dict[str, Setting]:
    found: dict[str, Setting] = {"system": platform.system(), "machine": platform.machine()}
    found["cores"] = os.cpu_count()
    if not local_model:
        return found
    import torch

    found |= {"torch_threads": torch.get_num_threads(), "accelerator": None}
    if torch.cuda.is_available():
        found["accelerator"] = torch.cuda.get_device_name()
        found["accelerators"] = torch.cuda.device_count()
    elif torch.accelerator.is_available():
        found["accelerator"] = str(torch.accelerator.current_accelerator())
    return found


def _git_commit(folder: Path) -> str | None:
    """The commit of the repository that tracks this file; None for a copy installed elsewhere."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)  # nosec B603 # no shell
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return None

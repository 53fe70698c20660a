"""Values of --resume and --resume_from_checkpoint that are words instead of folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

NEWEST = ("auto", "true", "yes", "on", "1", "latest", "last")
NONE = ("false", "no", "off", "0", "none", "null", "")


def read_resume_words(config: Any, run: Any) -> None:
    """Sets `run.resume` to "auto" if a setting asks for the newest checkpoint, and a setting that says no to None.

    transformers takes True for the newest checkpoint; a YAML file or a command line gives it as text. A folder of that
    name, and every other value, stays as it is.
    """
    run.resume = _read(run.resume)
    source = _read(config.resume_from_checkpoint)
    if source == "auto":
        run.resume, source = run.resume or "auto", None
    config.resume_from_checkpoint = source


def _read(value: str | bool | None) -> str | None:
    word = str(value).strip().lower()
    if value is None or word in NONE:
        return None
    return "auto" if word in NEWEST and not Path(str(value)).is_dir() else str(value)

"""Functions of the user's own, named on the command line as FILE.py:function."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ift.text import did_you_mean


def load_function(spec: str, flag: str) -> Callable[..., Any]:
    """Imports a Python file, which runs its code, and returns one of its functions.

    Args:
        spec: `FILE.py:function`; the file is not looked for on Python's path.
        flag: Where it was given, such as "--score", for the messages.

    Raises:
        ValueError: The file is missing or fails, or has no such function.
    """
    path, colon, name = spec.rpartition(":")
    file = Path(path).expanduser()
    if not colon or file.suffix != ".py":
        raise ValueError(f"{flag} {spec}: give FILE.py:function")
    if not file.is_file():
        raise ValueError(f"{flag} {spec}: {file}: no such file")
    found = importlib.util.spec_from_file_location(f"ift_user_{file.stem}", file)
    if found is None or found.loader is None:
        raise ValueError(f"{flag} {spec}: {file}: Python cannot import it")
    module = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except Exception as error:
        raise ValueError(
            f"{flag} {spec}: importing the file failed: {type(error).__name__}: {error}"
        ) from error
    function: Callable[..., Any] | None = getattr(module, name, None)
    if not callable(function):
        names = [one for one, value in vars(module).items() if callable(value)]
        raise ValueError(f"{flag} {spec}: the file has no function {name!r}{did_you_mean(name, names)}")
    return function


def file_sha256(spec: str) -> str:
    """SHA-256 of a file, or of the file of `FILE.py:function`; "" without such a file."""
    for name in (spec, spec.rpartition(":")[0]):
        file = Path(name).expanduser()
        if name and file.is_file():
            return hashlib.sha256(file.read_bytes()).hexdigest()
    return ""

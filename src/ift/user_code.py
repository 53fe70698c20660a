"""Functions of the user's own, named on the command line as FILE.py:function."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from ift.text import did_you_mean

LOOKED_UP = {"globals", "locals", "vars", "dir", "eval", "exec", "getattr", "inspect", "importlib", "modules",
             "__dict__", "__import__", "__file__"}  # fmt: skip


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
    """SHA-256 of a file, or of the code that counts for `FILE.py:function` (see `code_that_counts`); "" without one."""
    path, _, function = spec.rpartition(":")
    if spec and (file := Path(spec).expanduser()).is_file():
        return hashlib.sha256(file.read_bytes()).hexdigest()
    return code_sha256(path, [function]) if path and Path(path).expanduser().is_file() else ""


def code_sha256(file: str | Path, functions: Collection[str]) -> str:
    """SHA-256 of the code of a Python file that counts for some of its functions."""
    return hashlib.sha256(code_that_counts(Path(file).expanduser().read_bytes(), functions)).hexdigest()


def code_that_counts(source: bytes, functions: Collection[str]) -> bytes:
    """The content of a Python file without the functions that some functions of it do not use.

    Left out is a function at the top level, with its comment, if its name is nowhere else in what stays, strings and
    comments included, and nothing of it runs at the import: no decorator, no call in its signature. All else stays:
    imports, constants, classes, other statements. Where the code looks names up as it runs, such as with `globals()`,
    or cannot be parsed, nothing is left out. What the file imports is not part of it.
    """
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError):
        return source
    lines = source.splitlines(keepends=True)
    unused = {}
    for before, node in zip([None, *body], body, strict=False):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not _runs_at_import(node):
            begin = node.lineno - 1
            least = before.end_lineno or 0 if before is not None else 0
            for is_part in (lambda line: line.startswith(b"#"), lambda line: not line.strip()):
                while begin > least and is_part(lines[begin - 1]):
                    begin -= 1
            unused[range(begin, node.end_lineno or begin)] = node.name
    used = set(functions)
    while True:
        left_out = {at for places, name in unused.items() if name not in used for at in places}
        kept = b"".join(line for at, line in enumerate(lines) if at not in left_out)
        words = set(re.findall(r"\w+", kept.decode("utf-8", errors="replace")))
        if not left_out or words & LOOKED_UP:
            return source
        if not (more := words.intersection(unused.values()) - used):
            return kept.lstrip(b"\r\n")
        used |= more


def _runs_at_import(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether more happens at the import than that the function gets its name."""
    signature = [function.args, *([function.returns] if function.returns else [])]
    parts = [part for one in signature for part in ast.walk(one)]
    return bool(function.decorator_list) or any(isinstance(one, ast.Call | ast.NamedExpr) for one in parts)

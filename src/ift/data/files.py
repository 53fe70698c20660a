"""What is wrong with a file of rows, said by line: encoding, JSON, a key given twice, text that no file can hold."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

from ift.data.errors import DataError, describe

TEXTS = (".jsonl", ".json", ".csv")
PIECE = 1 << 20  # bytes read at a time
MARKS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}
ONE_OBJECT = "expected one JSON object. Fix: write each row as one object on a line of its own"


def check_encoding(file: Path) -> None:
    """Refuses a file of text that is not UTF-8: readers would take it for other words, or stop in the middle.

    Args:
        file: Path of a file that ends in one of `TEXTS`; others are not looked at.

    Raises:
        DataError: The file and the line are named.
    """
    if file.suffix.lower() not in TEXTS:
        return
    decode = codecs.getincrementaldecoder("utf-8")().decode
    line = 1
    with file.open("rb") as opened:
        kind = MARKS.get(opened.read(2))
        opened.seek(0)
        if kind:
            raise DataError(
                f"{file}: found {kind}, expected UTF-8. Fix: iconv -f {kind} -t UTF-8 {file.name} > new{file.suffix}"
            )
        while piece := opened.read(PIECE):
            try:
                decode(piece)
            except UnicodeDecodeError as error:
                raise _not_utf8(file, line + error.object.count(b"\n", 0, error.start), error) from error
            line += piece.count(b"\n")
        try:
            decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise _not_utf8(file, line, error) from error


def _not_utf8(file: Path, line: int, error: UnicodeDecodeError) -> DataError:
    found = error.object[error.start : error.end].hex(" ")
    return DataError(
        f"{file}, line {line}: found bytes that are not UTF-8 ({found}), expected UTF-8. "
        f"Fix: iconv -f LATIN1 -t UTF-8 {file.name} > new{file.suffix}, if that is what it is written in"
    )


def explain(file: Path) -> None:
    """Says why a file of JSON cannot be read, if that can be found; only for files that a reader has failed on.

    Raises:
        DataError: The file, and the line where there is one, are named.
    """
    kind = file.suffix.lower()
    if kind == ".jsonl" or (kind == ".json" and _is_lines(file)):
        check_json_lines(file)
    elif kind == ".json":
        try:
            json.loads(file.read_bytes(), object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{file}: {_why(error)}. Fix: give a list of objects, [{{...}}, {{...}}]"
            ) from error


def _is_lines(file: Path) -> bool:
    with file.open("rb") as lines:
        return lines.read(256).lstrip()[:1] == b"{"


def check_json_lines(file: Path) -> None:
    """Finds the first line of a file that is not a JSON object.

    Args:
        file: Path of a .jsonl file.

    Raises:
        DataError: If there is one; file, line and what is wrong with it are named.
    """
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line.removeprefix(codecs.BOM_UTF8), object_pairs_hook=_object)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{file}, line {number}: {_why(error)}, {ONE_OBJECT}") from error
            if not isinstance(value, dict):
                raise DataError(f"{file}, line {number}: found {describe(value)}, {ONE_OBJECT}")
            if not _can_be_written(value):
                raise DataError(
                    f"{file}, line {number}: found half of a surrogate pair (\\ud800 to \\udfff alone), which is no "
                    "character. Fix: take it out, or drop the row"
                )


class _Twice(ValueError):
    """A key that an object has twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Twice(f"found the key {key!r} twice in one object")
        found[key] = value
    return found


def _why(error: Exception) -> str:
    if isinstance(error, _Twice):
        return str(error)
    if isinstance(error, RecursionError):
        return "found lists or objects nested too deeply"
    return f"found text that is not JSON ({error})"


def _can_be_written(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True

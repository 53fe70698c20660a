"""Reads the rows of .jsonl, .json and .csv files without converting any value; errors name the line."""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ift.data.errors import DataError, describe
from ift.files import numbered_lines

PIECE = 1 << 20  # bytes read at a time
LONGEST_FIELD = 2**31 - 1  # characters of a CSV field
BYTE_ORDER_MARKS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}
ONE_OBJECT = "expected one JSON object. Fix: write one object per line"


def read_rows(file: Path, *, lone_surrogates: bool = False) -> Iterator[dict[str, Any]]:
    """Yields the rows of a .jsonl, .json or .csv file, from column name to value.

    Nothing is converted: a CSV field is a string (null if empty), and a JSON string that looks like a date stays a
    string. Each string of a JSON list of strings becomes a row with the column "text". A file with a single JSON
    value is read whole. Half of a surrogate pair in JSON is refused unless `lone_surrogates` is set.

    Raises:
        DataError: The file cannot be read; the message names the line where possible.
    """
    check_is_not_utf16(file)
    if file.suffix.lower() == ".csv":
        yield from _csv_rows(file)
        return
    whole = _one_value(file)
    if whole is None:
        for _, row in json_lines(file, lone_surrogates=lone_surrogates):
            yield row
        return
    for number, value in enumerate(whole, start=1):
        row = {"text": value} if isinstance(value, str) else value
        _check_row(row, not lone_surrogates, f"{file}, row {number}")
        yield row


def json_lines(file: Path, *, lone_surrogates: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields line number (from 1) and object of a file with one JSON object per line.

    Raises:
        DataError: A line is not a JSON object.
    """
    for number, line in numbered_lines(file):
        place = f"{file}, line {number}"
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise _not_utf8(file, number, error) from error
        try:
            value = json.loads(text, object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place}: {_explain(error)}, {ONE_OBJECT}") from error
        _check_row(value, not lone_surrogates and _has_surrogates(text), place)
        yield number, value


def _one_value(file: Path) -> list[Any] | None:
    """Reads a file with one list, or with one object over several lines; None for a JSON Lines file.

    A .jsonl file that begins like a list but is not one is left to `json_lines`, which names the faulty line.
    """
    lines = file.suffix.lower() == ".jsonl"
    start = next(numbered_lines(file), (0, b""))[1]
    is_list = start.startswith(b"[")
    if not is_list and (lines or _is_json(start)):
        return None
    try:
        check_encoding(file)
        found = json.loads(file.read_text(encoding="utf-8-sig"), object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        if lines or not is_list or isinstance(error, DataError):
            return None
        raise DataError(
            f"{file}: {_explain(error)}. Fix: give a list of objects, [{{...}}, {{...}}]"
        ) from error
    return found if isinstance(found, list) else [found]


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _csv_rows(file: Path) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(LONGEST_FIELD)
    with file.open(encoding="utf-8-sig", newline="") as text:
        lines = csv.reader(text, strict=True)
        start, header = 0, None
        try:
            while (fields := next(lines, None)) is not None:
                place = f"{file}, line {start + 1}"
                start = lines.line_num
                if not fields:
                    continue
                if header is None:
                    header = _header(fields, place)
                elif len(fields) != len(header):
                    raise DataError(
                        f"{place}: found {len(fields)} fields, expected {len(header)} ({', '.join(header)}). "
                        'Fix: put a field that contains a comma or a line break into quotes, "a, b"'
                    )
                else:
                    yield {name: value or None for name, value in zip(header, fields, strict=True)}
        except csv.Error as error:
            raise DataError(
                f"{file}, line {start + 1}: cannot be read as CSV ({error}). Fix: put a field that contains a quote "
                'into quotes and write the quote twice, "say ""hi"""'
            ) from error
        except UnicodeDecodeError:
            check_encoding(file)
            raise


def _header(fields: list[str], place: str) -> list[str]:
    """Column names; a column without a name, such as the index that pandas writes, is named after its number."""
    names = [name or f"column {number}" for number, name in enumerate(fields, start=1)]
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate is not None:
        raise DataError(f"{place}: found the column {duplicate!r} twice. Fix: give each column a unique name")
    return names


def check_is_not_utf16(file: Path) -> None:
    """Raises DataError for a file that begins with the byte order mark of UTF-16."""
    with file.open("rb") as opened:
        kind = BYTE_ORDER_MARKS.get(opened.read(2))
    if kind:
        raise DataError(
            f"{file}: found {kind}, expected UTF-8. Fix: iconv -f {kind} -t UTF-8 {file.name} > new{file.suffix}"
        )


def check_encoding(file: Path) -> None:
    """Raises DataError with the line number for a file that is not UTF-8."""
    check_is_not_utf16(file)
    decode = codecs.getincrementaldecoder("utf-8")().decode
    line = 1
    with file.open("rb") as opened:
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
        f"Fix: iconv -f LATIN1 -t UTF-8 {file.name} > new{file.suffix}, if that is its encoding"
    )


def _has_surrogates(text: str) -> bool:
    return "\\ud" in text or "\\uD" in text


def _check_row(value: Any, may_have_surrogates: bool, place: str) -> None:
    """Raises DataError for a value that is not an object, or has half a surrogate pair, which UTF-8 cannot encode."""
    if not isinstance(value, dict):
        raise DataError(f"{place}: found {describe(value)}, {ONE_OBJECT}")
    if may_have_surrogates and not _can_be_written(value):
        raise DataError(
            f"{place}: found half of a surrogate pair (\\ud800 to \\udfff alone), which is not "
            "a character. Fix: remove it, or drop the row"
        )


class _DuplicateKey(ValueError):
    """A key that occurs twice in one object."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        duplicate = next(name for name in names if names.count(name) > 1)
        raise _DuplicateKey(f"found the key {duplicate!r} twice in one object")
    return found


def _explain(error: Exception) -> str:
    if isinstance(error, _DuplicateKey):
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

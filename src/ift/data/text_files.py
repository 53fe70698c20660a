"""Reads the rows of .jsonl, .json, .csv and .tsv files without converting any value; errors name the line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ift.data.encodings import check_encoding, check_is_text, not_utf8
from ift.data.errors import DataError, RowFault, RowsRefused, describe, refuse_rows
from ift.data.tables import is_table, table_rows
from ift.files import numbered_lines
from ift.text import counted

FAULTS_AT_MOST = 10_000  # unreadable rows of a data set after which no more are looked for
# place, problem (replaced by what was found), rule and fix of a row that is no object
ONE_OBJECT = ("", "found no object", "expected one JSON object", "write one object per line")


class UnreadableRows(RowsRefused):
    """Rows of text files that cannot be read.

    Attributes:
        faults: Why, in the order of the rows.
        files: The files.
    """

    faults: tuple[RowFault, ...] = ()
    files: tuple[Path, ...] = ()


def read_rows(file: Path, *, lone_surrogates: bool = False) -> Iterator[dict[str, Any]]:
    """Yields the rows of a text file, from column name to value, up to the first that cannot be read.

    Nothing is converted: a field of a table is a string, and a JSON string that looks like a date stays a
    string. Each string of a JSON list of strings becomes a row with the column "text". A file with a single JSON
    value is read whole. Half of a surrogate pair in JSON is refused unless `lone_surrogates` is set.

    Raises:
        DataError: The file cannot be read; the message names the line where possible.
    """
    for _, row in numbered_rows(file, lone_surrogates=lone_surrogates):
        if isinstance(row, RowFault):
            raise DataError.of(row)
        yield row


def read_all_rows(file: Path, *, lone_surrogates: bool = False) -> list[dict[str, Any]]:
    """The rows of a file as `read_rows` yields them.

    Raises:
        UnreadableRows: Rows that cannot be read; the message names the first ten.
        DataError: The file cannot be read.
    """
    rows = [row for _, row in numbered_rows(file, lone_surrogates=lone_surrogates)]
    if faults := [row for row in rows if isinstance(row, RowFault)]:
        raise unreadable(faults, counted(len(rows), "row"), [file])
    return [row for row in rows if not isinstance(row, RowFault)]


def numbered_rows(
    file: Path, *, lone_surrogates: bool = False
) -> Iterator[tuple[int | None, dict[str, Any] | RowFault]]:
    """Yields the first line of each row (from 1; None in a JSON list), and the row or why it cannot be read.

    Raises:
        DataError: The file cannot be read as rows at all.
    """
    check_is_text(file)
    if is_table(file):
        yield from table_rows(file)
        return
    whole = _one_value(file)
    if whole is None:
        yield from _json_lines(file, lone_surrogates)
        return
    for number, value in enumerate(whole, start=1):
        row = {"text": value} if isinstance(value, str) else value
        yield None, _fault_of(row, not lone_surrogates, RowFault(number, *ONE_OBJECT, file=str(file))) or row


def _json_lines(file: Path, lone_surrogates: bool) -> Iterator[tuple[int, dict[str, Any] | RowFault]]:
    """`numbered_rows` of a file with one JSON object per line."""
    for row, (number, line) in enumerate(numbered_lines(file), start=1):
        fault = RowFault(row, *ONE_OBJECT, line=number, text=True, file=str(file))
        try:
            text = line.decode("utf-8")
            value = json.loads(text, object_pairs_hook=_object)
        except UnicodeDecodeError as error:
            yield number, not_utf8(fault, error)
        except (ValueError, RecursionError) as error:
            yield number, replace(fault, problem=_explain(error))
        else:
            yield number, _fault_of(value, not lone_surrogates and _has_surrogates(text), fault) or value


def unreadable(
    faults: Sequence[RowFault], rows: str, files: Sequence[Path], remarks: Sequence[str] = ()
) -> UnreadableRows:
    """Builds the error for rows of files that cannot be read; `rows` and `remarks` as in `refuse_rows`."""
    refused = refuse_rows(faults, rows, ", ".join(map(str, files[:3])), remarks)
    error = UnreadableRows(str(refused))
    error.fault, error.faults, error.files = refused.fault, tuple(faults), tuple(files)
    return error


def _one_value(file: Path) -> list[Any] | None:
    """Reads a file with one list, or with one object over several lines; None for a JSON Lines file.

    A .jsonl file that begins like a list but is not one is left to `_json_lines`, which names the faulty line.
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


def _has_surrogates(text: str) -> bool:
    return "\\ud" in text or "\\uD" in text


def _fault_of(value: Any, may_have_surrogates: bool, place: RowFault) -> RowFault | None:
    """Why a value cannot be a row: it is no object, or has half a surrogate pair, which UTF-8 cannot encode."""
    if not isinstance(value, dict):
        return replace(place, problem=f"found {describe(value)}")
    if may_have_surrogates and not _can_be_written(value):
        problem = "found half of a surrogate pair (\\ud800 to \\udfff alone), which is not a character"
        return replace(place, problem=problem, rule="", fix="remove it, or drop the row")
    return None


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

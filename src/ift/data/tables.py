"""Reads the rows of .csv and .tsv files; finds the separator of a .csv file in its header."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ift.data.encodings import check_encoding
from ift.data.errors import DataError, RowFault

LONGEST_FIELD = 2**31 - 1  # characters of a CSV field
SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab"}
_SEP_LINE = re.compile(r"sep=(.)\s*")  # the first line that tells Excel the separator
FIRST_RECORDS = 20  # that show the separator
ENDINGS = (".csv", ".tsv")


def is_table(file: Path) -> bool:
    """Whether a file is read as a table, by its ending."""
    return file.suffix.lower() in ENDINGS


def separator_of(file: Path) -> tuple[str, bool]:
    """The separator of a file's fields, and whether the file's first line states it and is no header.

    A .tsv file has tabs. A .csv file has commas, unless header and first records have several columns with semicolons
    or tabs and not with commas.
    """
    csv.field_size_limit(LONGEST_FIELD)
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as text:
        first = next((line for line in text if line.strip()), "")
        if stated := _SEP_LINE.fullmatch(first):
            return stated[1], True
        if file.suffix.lower() == ".tsv":
            return "\t", False
        columns, even = {}, []
        for separator in SEPARATORS:
            text.seek(0)
            records = filter(None, csv.reader(text, delimiter=separator))
            sizes = [len(fields) for fields in itertools.islice(records, FIRST_RECORDS)] or [0]
            columns[separator] = sizes[0]
            even += [separator] if sizes[0] > 1 and len(set(sizes)) == 1 else []
    if not even and columns[","] == 1:
        return max(columns, key=lambda one: columns[one]), False
    return (even or [","])[0], False


def table_notes(files: Sequence[Path]) -> list[str]:
    """A line for each table: how its rows are numbered, and what separates the fields of a .csv file without commas."""
    lines = []
    for file in filter(is_table, files):
        found = separator_of(file)[0] if file.suffix.lower() == ".csv" else ","
        fields = f"; the fields are separated by {SEPARATORS.get(found, repr(found))}, as in the first line"
        lines.append(f"{file.name}: row 1 is the first below the header{fields if found != ',' else ''}")
    return lines


def table_rows(file: Path) -> Iterator[tuple[int, dict[str, Any] | RowFault]]:
    """`numbered_rows` of a table; nothing after a record that is malformed. Every field is a string."""
    separator, stated = separator_of(file)
    with file.open(encoding="utf-8-sig", newline="") as text:
        lines = csv.reader(text, delimiter=separator, strict=True)
        start, row, header = 0, 0, None
        try:
            while (fields := next(lines, None)) is not None:
                line, start = start + 1, lines.line_num
                if not fields:
                    continue
                if stated:
                    stated = False
                    continue
                if header is None:
                    header = _header(fields, f"{file}, line {line}")
                    continue
                row += 1
                if len(fields) == len(header):
                    yield line, dict(zip(header, fields, strict=True))
                    continue
                found, expected = (
                    f"found {len(fields)} fields",
                    f"expected {len(header)} ({', '.join(header)})",
                )
                name = SEPARATORS.get(separator, repr(separator))
                fix = f'put a field that contains {name} or a line break into quotes, "a{separator} b"'
                yield line, RowFault(row, "", found, expected, fix, line, text=True, file=str(file))
        except csv.Error as error:
            fix = 'put a field that contains a quote into quotes and write the quote twice, "say ""hi"""'
            problem = f"cannot be read as {file.suffix[1:].upper()} ({error})"
            yield start + 1, RowFault(row + 1, "", problem, "", fix, start + 1, text=True, file=str(file))
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

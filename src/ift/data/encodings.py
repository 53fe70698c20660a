"""Text files that are not UTF-8, files that are no text, and characters that hardly belong into the rows' text."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ift.data.errors import DataError, RowFault

PIECE = 1 << 20  # bytes read at a time
BYTE_ORDER_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
SAVE_AS_CSV = 'save the sheet as "CSV UTF-8" and give the .csv file'
# the first bytes of files that are no text -> what they are, the fix
NO_TEXT = {
    b"PK\x03\x04": ("a zip archive, as Excel and LibreOffice write workbooks", SAVE_AS_CSV),
    b"\xd0\xcf\x11\xe0": ("a workbook of an old Excel", SAVE_AS_CSV),
    b"PAR1": ("a Parquet file", "name it .parquet; where only text files are read, write its rows as .jsonl"),
    b"\x1f\x8b": ("a gzip archive", "unpack it with gunzip"),
}
_CONTROLS, _LOST, _MARK = re.compile("[\x80-\x9f]"), "\ufffd", "\ufeff"
_ASCII_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")  # all but tab, line feed and carriage return
# what is wrong with a row -> the likely cause and the fix
WRONG_CHARACTERS = {
    "text with control characters (U+0080 to U+009F)": (
        "probably text in WINDOWS-1252, where they are characters such as € and “, that was read as LATIN1. Fix: "
        "convert the original file again, with iconv -f WINDOWS-1252 -t UTF-8"
    ),
    "text with the replacement character (U+FFFD)": (
        "a character was lost when the text was read in a wrong encoding. Fix: write the file again, as UTF-8, from "
        "where the rows come from, or correct these rows"
    ),
    "text with carriage returns (U+000D)": (
        "lines that end as in Windows, and the model learns to write them so. Fix: replace \\r\\n by \\n in these rows"
    ),
    "text with control characters (U+0000 to U+001F, U+007F)": (
        "such as form feeds of a PDF or colours of a terminal (ESC), and the model learns to write them. Fix: remove "
        "them from these rows"
    ),
    "text with a byte order mark (U+FEFF)": (
        "probably from files that were joined, and an invisible character to the model. Fix: remove it from these rows"
    ),
}


def wrong_characters(value: Any) -> list[str]:
    """The keys of `WRONG_CHARACTERS` that hold for the strings in a value, also inside lists and objects."""
    texts = [*_strings(value)]
    others = [text for text in texts if not text.isascii()]
    found = (
        any(map(_CONTROLS.search, others)),
        any(_LOST in text for text in others),
        any("\r" in text for text in texts),
        any(map(_ASCII_CONTROLS.search, texts)),
        any(_MARK in text for text in others),
    )
    return [what for what, holds in zip(WRONG_CHARACTERS, found, strict=True) if holds]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list | tuple) and not (value and isinstance(value[0], int)):  # no token ids
        for item in value:
            yield from _strings(item)


def check_is_text(file: Path) -> None:
    """Raises DataError for a file that begins with the byte order mark of UTF-16, or as a file of no text does."""
    with file.open("rb") as opened:
        start = opened.read(4)
    if start.startswith(BYTE_ORDER_MARKS):
        raise DataError(
            f'{file}: found UTF-16, expected UTF-8 (Excel writes UTF-16 as "Unicode text"). Fix: '
            f"iconv -f UTF-16 -t UTF-8 {file.name} > {_new_name(file)}"
        )
    for first, (what, fix) in NO_TEXT.items():
        if start.startswith(first):
            raise DataError(f"{file}: found {what}, expected text. Fix: {fix}")


def _new_name(file: Path) -> str:
    """A name for the converted file; Excel's "Unicode text" ends in .txt, and has tabs between the fields."""
    return f"new{'.tsv' if file.suffix.lower() == '.txt' else file.suffix}"


def check_encoding(file: Path) -> None:
    """Raises DataError with the line number for a file that is not UTF-8."""
    check_is_text(file)
    decode = codecs.getincrementaldecoder("utf-8")().decode
    line, fault = 1, RowFault(1, "", "", "", "", text=True, file=str(file))
    with file.open("rb") as opened:
        while piece := opened.read(PIECE):
            try:
                decode(piece)
            except UnicodeDecodeError as error:
                place = line + error.object.count(b"\n", 0, error.start)
                raise DataError.of(not_utf8(replace(fault, line=place), error)) from error
            line += piece.count(b"\n")
        try:
            decode(b"", final=True)
        except UnicodeDecodeError as error:
            raise DataError.of(not_utf8(replace(fault, line=line), error)) from error


def not_utf8(fault: RowFault, error: UnicodeDecodeError) -> RowFault:
    """The fault of a line that is not UTF-8, with the place of `fault`.

    The fix names WINDOWS-1252, which has the characters of LATIN1 and, where LATIN1 has control characters, those that
    Windows programs write, such as €.
    """
    file = Path(fault.file)
    excel = f"in Excel {SAVE_AS_CSV}; or " if file.suffix.lower() in (".csv", ".tsv") else ""
    return replace(
        fault,
        problem=f"found bytes that are not UTF-8 ({error.object[error.start : error.end].hex(' ')})",
        rule="expected UTF-8",
        fix=f"{excel}iconv -f WINDOWS-1252 -t UTF-8 {file.name} > {_new_name(file)}, if that is its encoding",
    )

"""The error that this package raises for rows that cannot be used, for one row or for many together."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

from ift.text import counted

T = TypeVar("T")
R = TypeVar("R")
SHOWN = 10  # rows named in one message


@dataclass(frozen=True)
class RowFault:
    """What is wrong with one row.

    Attributes:
        row: Its number, from 1.
        place: Column, turn and key, as in `column "messages", turn 2, key "content"`; "" for the whole row.
        problem: What was found, as in `found null`.
        rule: What was expected, as in `expected a string`; "" if `problem` says it.
        fix: What to do.
        line: Its first line in a text file, from 1; None if unknown.
        text: Whether the text of the line cannot be read; such a fault is named by its line.
        file: The file or data set; "" if unknown.
    """

    row: int
    place: str
    problem: str
    rule: str
    fix: str
    line: int | None = None
    text: bool = False
    file: str = ""

    @property
    def number(self) -> str:
        """`row 3`; `row 3 (line 5)` if both are known and differ; `line 5` for a line that cannot be read."""
        if self.text and self.line is not None:
            return f"line {self.line}"
        differs = self.line is not None and self.line != self.row
        return f"row {self.row}" + (f" (line {self.line})" if differs else "")

    @property
    def kind(self) -> tuple[str, str, str]:
        """What faults of the same kind share: the place without the turn, the rule and the fix."""
        return re.sub(r"(, )?turn \d+", "", self.place), self.rule, self.fix

    def __str__(self) -> str:
        where = f"{self.number}, {self.place}" if self.place else self.number
        return f"{where}: {self.problem}{f', {self.rule}' if self.rule else ''}. Fix: {self.fix}"


class DataError(ValueError):
    """Rows that cannot be used.

    The message names the place (file, line, row, column, key), what was found, what was expected, and one fix.

    Attributes:
        fault: What is wrong, for an error about one row; otherwise None.
    """

    fault: RowFault | None = None

    @classmethod
    def at(cls, row: int, place: str, found: str, expected: str, fix: str) -> Self:
        """Builds the error for row `row` (from 1).

        `place` names column, turn and key, as in `column "messages", turn 2, key "content"`; `found` is from
        `describe`.
        """
        return cls.of(RowFault(row, place, f"found {found}", f"expected {expected}", fix))

    @classmethod
    def of(cls, fault: RowFault, prefix: str = "") -> Self:
        """Builds the error for one fault; `prefix` precedes it, by default the fault's file."""
        before = prefix or fault.file
        error = cls(f"{before}, {fault}" if before else str(fault))
        error.fault = fault
        return error


class RowsRefused(DataError):
    """The rows of a data set that cannot be used, named together."""


def refuse_rows(faults: Sequence[RowFault], rows: str, name: str, remarks: Sequence[str] = ()) -> RowsRefused:
    """Builds the error that names up to `SHOWN` faulty rows, grouped by the kind of fault.

    Args:
        faults: At least one, in the order of the rows.
        rows: Of how many rows they are, as in "200 rows".
        name: Of the data, if the faults name no file.
        remarks: Lines about other rows, at the end.
    """
    named = [fault if fault.file else replace(fault, file=name) for fault in faults]
    if len(named) == 1:
        refused = RowsRefused.of(named[0])
        error = RowsRefused("\n".join([str(refused), *remarks]))
        error.fault = refused.fault
        return error
    groups: dict[tuple[str, str, str], list[RowFault]] = {}
    for fault in named:
        groups.setdefault(fault.kind, []).append(fault)
    files = list(dict.fromkeys(fault.file for fault in named))
    lines = [
        f"{', '.join(files[:3])}{', ...' if len(files) > 3 else ''}: {len(named):,} of {rows} cannot be used."
    ]
    room = _shares([len(group) for group in groups.values()])
    for ((place, rule, fix), group), share in zip(groups.items(), room, strict=True):
        if not share:
            continue
        before = {fault: f"{fault.file}, " if len(files) > 1 else "" for fault in group[:share]}
        if len(group) == 1:
            lines.append(f"{before[group[0]]}{group[0]}")
            continue
        what = ": " + ", ".join(part for part in (place, rule) if part) if place or rule else ""
        lines.append(f"{len(group):,} rows{what}. Fix: {fix}")
        for fault, file in before.items():
            turn = re.search(r"turn \d+", fault.place)
            lines.append(f"  {file}{fault.number}{f', {turn[0]}' if turn else ''}: {fault.problem}")
        if len(group) > share:
            lines.append(f"  and {len(group) - share:,} more of these")
    if hidden := [len(group) for group, share in zip(groups.values(), room, strict=True) if not share]:
        kinds = counted(len(hidden), "other problem")
        lines.append(f"and {counted(sum(hidden), 'row')} of {rows} with {kinds}")
    return RowsRefused("\n".join([*lines, *remarks]))


def _shares(sizes: Sequence[int]) -> list[int]:
    """How many faults of each group are named: `SHOWN` in all, one of each group before a second of any."""
    shares = [0] * len(sizes)
    for _ in range(SHOWN):
        for number, size in enumerate(sizes):
            if shares[number] < size and sum(shares) < SHOWN:
                shares[number] += 1
    return shares


def call_for_each(
    items: Iterable[T], call: Callable[[T], R], after_error: Callable[[T], T] | None = None
) -> list[R]:
    """Calls a function for each item; rows that are refused do not hide those of later items.

    Args:
        items: Parts of a data set, for instance.
        call: May raise DataError.
        after_error: Changes an item that comes after an error, such as to fewer rows; its result is not used.

    Raises:
        DataError: Of the first item with one, together with the refused rows of later items.
    """
    done: list[R] = []
    errors: list[DataError] = []
    for item in items:
        try:
            done.append(call(after_error(item) if errors and after_error is not None else item))
        except DataError as error:
            if not errors or isinstance(error, RowsRefused):
                errors.append(error)
    if len(errors) > 1:
        raise RowsRefused("\n".join(dict.fromkeys(str(error) for error in errors))) from errors[0]
    if errors:
        raise errors[0]
    return done


def describe(value: Any) -> str:
    """Describes a value in about sixty characters: `null`, `the number 3`, `an empty list`, `the string 'abc'`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the string {value[:40]!r}{'...' if len(value) > 40 else ''}" if value else "an empty string"
    if isinstance(value, list | tuple):
        return f"a list of {counted(len(value), 'item')}" if value else "an empty list"
    if isinstance(value, dict):
        keys = ", ".join(str(key) for key in list(value)[:6])
        return f"an object with keys {keys}" if value else "an empty object"
    return f"a value of type {type(value).__name__}"

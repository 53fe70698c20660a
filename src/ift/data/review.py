"""Looks at each row of a refused data set: what is malformed, and what else is wrong with the rows that are not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ift.data.encodings import WRONG_CHARACTERS
from ift.data.errors import DataError, RowFault
from ift.data.lengths import LengthLimit
from ift.data.report import TEMPLATE_FIX, TEMPLATE_REASON, cut_away, is_reason
from ift.data.samples import row_key

SHOWN = 8  # rows named in one remark
COPIES_FIX = "remove them, unless they should count more"


class RowReview:
    """Prepares rows one by one and collects what is wrong with them.

    Attributes:
        faults: Of malformed rows, in order.
    """

    def __init__(self, prepare: Callable[[Any, int], Mapping[str, Any]], limit: LengthLimit):
        """`prepare(row, index)` is `RowPreparation.prepare`; `limit` is that of its rows."""
        self.faults: list[RowFault] = []
        self._prepare, self._limit = prepare, limit
        self._long: list[RowFault] = []
        self._longest = 0
        self._dropped: dict[str, list[RowFault]] = {}
        self._damaged: dict[str, list[RowFault]] = {}
        self._copies: list[RowFault] = []
        self._seen: set[bytes] = set()

    def add(self, row: Any, index: int, place: RowFault) -> None:
        """Looks at one row; `place` is a fault without a problem. Raises DataError for an error of no single row."""
        try:
            done = self._prepare(row, index)
        except DataError as error:
            if error.fault is None:
                raise
            self.faults.append(replace(error.fault, file=place.file, line=place.line))
            return
        if self._limit.tokens is not None and done["ift_length"] > self._limit.tokens:
            self._long.append(place)
            self._longest = max(self._longest, done["ift_length"])
        elif done["ift_reason"] and not cut_away(done["ift_reason"]):
            self._dropped.setdefault(done["ift_reason"], []).append(place)
        for note in done.get("ift_notes", "").split("\n"):
            if note in WRONG_CHARACTERS:
                self._damaged.setdefault(note, []).append(place)
        tokenised = "input_ids" in done or "chosen_input_ids" in done  # not where rows are only read
        if tokenised and not done["ift_reason"]:
            key = row_key(done)
            if key in self._seen:
                self._copies.append(place)
            self._seen.add(key)

    def remarks(self, locate: Callable[[Sequence[RowFault]], Sequence[RowFault]] = tuple) -> list[str]:
        """A line for the rows that are too long, for each reason to drop rows, for copies and for damaged text.

        `locate` places them in files.
        """
        lines = []
        if self._long:
            what = f"too long, with up to {self._longest:,} tokens, for {self._limit}"
            lines.append(f"{_places(self._long, locate, what)}. {self._limit.fix(self._longest)}")
        for reason, rows in self._dropped.items():
            fix = f". {TEMPLATE_FIX}" if is_reason(reason, TEMPLATE_REASON) else ""
            lines.append(_places(rows, locate, f"dropped: {reason}") + fix)
        if self._copies:
            what = "a copy of an earlier one" if len(self._copies) == 1 else "copies of earlier ones"
            lines.append(f"{_places(self._copies, locate, what)}. Fix: {COPIES_FIX}")
        for what, rows in self._damaged.items():
            having = "has" if len(rows) == 1 else "have"
            lines.append(f"{_places(rows, locate, what, having)}: {WRONG_CHARACTERS[what]}")
        return lines


def _places(
    rows: Sequence[RowFault],
    locate: Callable[[Sequence[RowFault]], Sequence[RowFault]],
    what: str,
    verb: str = "",
) -> str:
    shown = locate(rows[:SHOWN])
    several = len({one.file for one in shown}) > 1
    names = [f"{Path(one.file).name} {one.number}" if several else one.number for one in shown]
    further = ", ..." if len(rows) > len(names) else ""
    verb = verb or ("is" if len(rows) == 1 else "are")
    count = f"{len(rows):,} other {'row' if len(rows) == 1 else 'rows'} {verb}"
    return f"{count} {what} ({', '.join(names)}{further})"

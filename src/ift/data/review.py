"""Looks at each row of a refused data set: what is malformed, and what else is wrong with the rows that are not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ift.data.errors import DataError, RowFault
from ift.data.lengths import LengthLimit
from ift.data.report import TEMPLATE_FIX, TEMPLATE_REASON, cut_away

SHOWN = 8  # rows named in one remark


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

    def remarks(self, locate: Callable[[Sequence[RowFault]], Sequence[RowFault]] = tuple) -> list[str]:
        """A line for the rows that are too long, and for each reason to drop rows; `locate` places them in files."""
        lines = []
        if self._long:
            what = f"too long, with up to {self._longest:,} tokens, for {self._limit}"
            lines.append(f"{_places(self._long, locate, what)}. {self._limit.fix(self._longest)}")
        for reason, rows in self._dropped.items():
            fix = f". {TEMPLATE_FIX}" if TEMPLATE_REASON in reason else ""
            lines.append(_places(rows, locate, f"dropped: {reason}") + fix)
        return lines


def _places(
    rows: Sequence[RowFault], locate: Callable[[Sequence[RowFault]], Sequence[RowFault]], what: str
) -> str:
    shown = locate(rows[:SHOWN])
    several = len({one.file for one in shown}) > 1
    names = [f"{Path(one.file).name} {one.number}" if several else one.number for one in shown]
    further = ", ..." if len(rows) > len(names) else ""
    count = f"{len(rows):,} other {'row is' if len(rows) == 1 else 'rows are'}"
    return f"{count} {what} ({', '.join(names)}{further})"

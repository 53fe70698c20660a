"""The result of a judgement: verdicts, scores, and the lines to show."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ift.lab.report.intervals import Interval
from ift.text import visible

Line = tuple[str, str]
_LABEL_WIDTH = 19


@dataclass(frozen=True)
class Table:
    """The result: a JSON object per pair or graded answer, scores by group and name (empty: no verdict), and lines."""

    verdicts: list[dict[str, Any]]
    scores: dict[str, dict[str, float]]
    lines: list[Line]


def format_lines(lines: Sequence[Line], width: int) -> str:
    """The lines in two columns; texts are wrapped between words, and longer words are left whole."""
    wrapped = []
    for label, text in lines:
        indent = " " * _LABEL_WIDTH
        wrapped += textwrap.wrap(
            visible(text),
            max(width, 2 * _LABEL_WIDTH),
            initial_indent=f"{visible(label):<{_LABEL_WIDTH - 1}} ",
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(wrapped)


def format_percent(share: Interval) -> str:
    """A share with its interval."""
    return f"{share.value:.1%} [{share.low:.1%}, {share.high:.1%}]"

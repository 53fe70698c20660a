"""Rows for a terminal: the look-ahead's token above, the token shaded by its loss, its weight below."""

from __future__ import annotations

from collections.abc import Iterator
from math import exp

from rich.cells import cell_len
from rich.text import Text

from ift.lab.show.step import ShownRow, ShownToken

LEGEND = (
    "above: the look-ahead's token, where it is wrong; shaded: the loss of the token, from none to red; below: the "
    "weight of the loss; ▲: the step raises this token's loss"
)
UP = "▲"


def shade(loss: float, steps: int) -> int:
    """A loss as one of `steps` levels, from 0: the share of probability that the token lacks."""
    return min(steps - 1, int((1 - exp(-loss)) * steps))


def lines(row: ShownRow, width: int) -> Iterator[Text]:
    """The row as lines of at most `width` cells: three for each line of trained tokens, one for one of other tokens."""
    above, middle, below = Text(), Text(), Text()
    for token in row.tokens:
        cells = _cells(token)
        size = max(cell_len(part) for part in cells)
        if middle.cell_len + size > width and middle.cell_len:
            yield from _filled(above, middle, below)
            above, middle, below = Text(), Text(), Text()
        above.append(cells[0].ljust(size + len(cells[0]) - cell_len(cells[0])), "red")
        middle.append(cells[1], _style(token)).append(" " * (size - cell_len(cells[1])))
        below.append(
            cells[2].ljust(size + len(cells[2]) - cell_len(cells[2])),
            "bold magenta" if token.pushed_up else "dim",
        )
        if token.text.endswith("\n"):
            yield from _filled(above, middle, below)
            above, middle, below = Text(), Text(), Text()
    yield from _filled(above, middle, below)


def _filled(*three: Text) -> Iterator[Text]:
    return (line for line in three if line.plain.strip())


def _cells(token: ShownToken) -> tuple[str, str, str]:
    text = token.text.replace("\n", "⏎")
    if not token.trained:
        return "", text, ""
    return (
        f"{token.guess} ".replace("\n", "⏎").lstrip() if token.guess else "",
        text,
        f"{token.weight:.2f}{UP if token.pushed_up else ''} ",
    )


def _style(token: ShownToken) -> str:
    if not token.trained:
        return "dim"
    level = shade(token.loss, 8)
    red = 30 + level * 22
    return f"white on rgb({red},{max(20, 60 - level * 6)},{max(20, 60 - level * 6)})"

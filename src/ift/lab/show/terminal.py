"""Rows for a terminal: the look-ahead's token above, the token shaded by its loss, its weight and its push below.

Without colour, brackets enclose what is trained, and the loss is a number below the push.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import exp

from rich.cells import cell_len
from rich.text import Text

from ift.lab.show.step import ShownRow, ShownToken
from ift.text import TRAINED, bracketed

LEGEND = (
    "above: the look-ahead's token, where it is wrong; shaded: the loss of the token, from none to red; below: the "
    "weight of the loss, and the push of the step on the token (SFT: 1; below 0, ▲: it raises the token's loss)"
)
PLAIN_LEGEND = (
    f"{TRAINED[0]}trained{TRAINED[1]}; above: the look-ahead's token, where it is wrong; below: the weight of the "
    "loss, the push of the step on the token (SFT: 1; below 0, ▲: it raises the token's loss), and the token's loss"
)
UP = "▲"


def shade(loss: float, steps: int) -> int:
    """A loss as one of `steps` levels, from 0: the share of probability that the token lacks."""
    return min(steps - 1, int((1 - exp(-loss)) * steps))


def lines(row: ShownRow, width: int, colour: bool = True) -> Iterator[Text]:
    """The row as lines of at most `width` cells: four for each line of trained tokens, one for one of other tokens.

    Without `colour` there is a fifth with the losses, and brackets enclose the trained tokens.
    """
    tokens = row.tokens if colour else bracketed(row.tokens, [one.trained for one in row.tokens], ShownToken)
    block = _Block()
    for token in tokens:
        cells = _cells(token, colour)
        size = max(cell_len(part) for part in cells)
        full = block.middle.cell_len + size > width and block.middle.cell_len
        if full or (block.ended and token.text != TRAINED[1]):
            yield from block.filled()
            block = _Block()
        block.above.append(_padded(cells[0], size), "red")
        block.middle.append(cells[1], _style(token)).append(" " * (size - cell_len(cells[1])))
        block.below.append(_padded(cells[2], size), "dim")
        block.pushes.append(_padded(cells[3], size), "bold magenta" if token.pushed_up else "dim")
        block.losses.append(_padded(cells[4], size), "dim")
        block.ended = token.text.endswith("\n")
    yield from block.filled()


@dataclass
class _Block:
    """Lines that stand below each other."""

    above: Text = field(default_factory=Text)
    middle: Text = field(default_factory=Text)
    below: Text = field(default_factory=Text)
    pushes: Text = field(default_factory=Text)
    losses: Text = field(default_factory=Text)
    ended: bool = False  # its last token has a line feed

    def filled(self) -> Iterator[Text]:
        """Those that are not blank."""
        parts = (self.above, self.middle, self.below, self.pushes, self.losses)
        return (line for line in parts if line.plain.strip())


def _padded(text: str, size: int) -> str:
    return text + " " * (size - cell_len(text))


def _cells(token: ShownToken, colour: bool) -> tuple[str, str, str, str, str]:
    text = token.text.replace("\n", "⏎")
    if not token.trained:
        return "", text, "", "", ""
    return (
        f"{token.guess} ".replace("\n", "⏎").lstrip() if token.guess else "",
        text,
        f"{token.weight:.2f} ",
        f"{token.push:.2f}{UP if token.pushed_up else ''} ",
        "" if colour else f"{token.loss:.2f} ",
    )


def _style(token: ShownToken) -> str:
    if not token.trained:
        return "dim"
    level = shade(token.loss, 8)
    red = 30 + level * 22
    return f"white on rgb({red},{max(20, 60 - level * 6)},{max(20, 60 - level * 6)})"

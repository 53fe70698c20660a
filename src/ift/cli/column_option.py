"""`--dataset_columns OLD=NEW ...` as `ift train` has it, for verbs of typer, whose options take one value each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

from ift.cli.ray_option import WithRay

FLAG = "--dataset_columns"
COLUMNS = typer.Option(
    [], FLAG, metavar="OLD=NEW ...", help="Columns to rename, such as Frage=instruction, as in ift train."
)


class WithRayAndColumns(WithRay):
    """A command with the options `RAY` and `COLUMNS`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Typer's, with the flag before each of several pairs."""
        return super().parse_args(ctx, repeat_flag(args))


def repeat_flag(args: Sequence[str]) -> list[str]:
    """The arguments with `FLAG` before the second and each further pair that follows it."""
    repeated: list[str] = []
    inside = False
    for number, word in enumerate(args):
        before = args[number - 1].replace("-", "_") if number else ""
        value = before == FLAG.replace("-", "_")  # of the flag before it
        further = inside and not value and "=" in word and not word.startswith("-")
        inside = value or further or word.replace("-", "_").startswith(FLAG.replace("-", "_"))
        repeated += [FLAG, word] if further else [word]
    return repeated

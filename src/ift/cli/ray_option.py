"""`--ray [ADDRESS]`, for the verbs that typer parses: it has no options whose value may be left out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import typer
from typer.core import TyperCommand

from ift.lab.ray_tasks import HELP, OWN

RAY = typer.Option(None, "--ray", metavar="[ADDRESS]", help=HELP)


class WithRay(TyperCommand):
    """A command with the option `RAY`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Typer's, with the address of an own Ray after a bare `--ray`."""
        return super().parse_args(ctx, fill_address(args))


def fill_address(args: Sequence[str]) -> list[str]:
    """The arguments with `OWN` after each `--ray` that another option or nothing follows."""
    filled: list[str] = []
    for word, following in pairwise([*args, "-"]):
        filled += [word, OWN] if word == "--ray" and following.startswith("-") else [word]
    return filled

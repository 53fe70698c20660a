"""Mistakes in a command line that typer finds: one message instead of its box, also before the command's name."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from ift.cli.exit_codes import USAGE, print_error
from ift.text import did_you_mean

# click's UsageError, of the click that typer brings or of the package, as its version goes
WRONG_WORDS: Any = typer.BadParameter.__mro__[1]


class OneLineErrors(TyperGroup):
    """A group of commands that names a wrong command line as `run_verb` names a `UsageError`, without typer's box."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Typer's; exits with the code `USAGE` for unknown options before the command."""
        if not args:
            return super().parse_args(ctx, args)  # raises an error that prints the help
        try:
            return super().parse_args(ctx, args)
        except WRONG_WORDS as error:
            place = "the options of a command follow its name, as in `ift train --learning_rate 1e-5`"
            raise _exit("ift", f"{error.format_message().rstrip('.')}; {place}") from error

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Typer's; the message about an unknown command has the likely one, or all of them."""
        try:
            return super().resolve_command(ctx, args)
        except WRONG_WORDS as error:
            names = [name for name, command in self.commands.items() if not command.hidden]
            near = did_you_mean(args[0], names) or f"; give one of {', '.join(names)}"
            error.message = f"No such command: {args[0]}{near}"
            raise

    def invoke(self, ctx: Any) -> Any:
        """Typer's; exits with the code `USAGE` for words that the parser of a command does not take."""
        try:
            return super().invoke(ctx)
        except WRONG_WORDS as error:
            verb = "ift" if error.ctx in (None, ctx) else f"ift {error.ctx.info_name}"
            raise _exit(verb, error.format_message()) from error


def _exit(verb: str, text: str) -> typer.Exit:
    print_error(f"{verb}: {text}\n`{verb} --help` shows what it takes.")
    return typer.Exit(USAGE)

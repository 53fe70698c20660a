"""How every verb ends: one message for what a user can put right, one for a bug, and an exit code for each.

Nothing heavy is imported here: `ift --help` comes by.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, metadata
from typing import Any

import typer

from ift.runs.argv import UsageError

REFUSED, USAGE, BUG, INTERRUPTED = 1, 2, 70, 130  # 70: EX_SOFTWARE of sysexits.h
DEBUG = "IFT_DEBUG"  # as an environment variable, --debug reaches the processes that a verb starts
EXPECTED = (
    ValueError,
    OSError,
    ImportError,
    RuntimeError,
    MemoryError,
)  # what libraries raise for wrong input


class Verbs(typer.Typer):
    """A typer app whose every command ends as `ended` says, and takes --debug."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        """As typer's, for a function that returns nothing and raises `typer.Exit` with the exit code."""
        register = super().command(name, **options)

        def add(function: Any) -> Any:
            register(_with_debug(function, name or function.__name__))
            return function

        return add


def _with_debug(function: Callable[..., Any], verb: str) -> Callable[..., Any]:
    """The function with one option more, and with the endings of `ended`."""

    @functools.wraps(function)
    def run(*args: Any, debug: bool = False, **kwargs: Any) -> None:
        raise typer.Exit(ended(verb, lambda: function(*args, **kwargs), debug))

    option = typer.Option(False, "--debug", help="Show the traceback of what goes wrong.")
    flag = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=option, annotation=bool)
    signature = inspect.signature(function, eval_str=True)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), flag])  # type: ignore[attr-defined]
    run.__annotations__ = {**function.__annotations__, "debug": bool}
    return run


def ended(verb: str, run: Callable[[], int | None], debug: bool = False) -> int:
    """Calls `run` and says on standard error what ended it, if anything did.

    Args:
        verb: Of the command, for the message.
        run: Returns the exit code, or raises `typer.Exit` with it.
        debug: Show tracebacks, as IFT_DEBUG=1 in the environment does.

    Returns:
        The exit code: that of `run`; 1 for what is refused or fails on what it was given; 2 for a `UsageError`; 70 for
        a bug; 130 for Ctrl-C.
    """
    before = os.environ.get(DEBUG)
    if debug:
        os.environ[DEBUG] = "1"
    try:
        return run() or 0
    except typer.Exit as done:
        return done.exit_code
    except (typer.Abort, BrokenPipeError):
        raise  # typer knows what to do
    except KeyboardInterrupt:
        _say(f"\nift {verb}: stopped.")
        return INTERRUPTED
    except UsageError as error:
        _say(f"ift {verb}: {error}")
        return USAGE
    except EXPECTED as error:
        ours = type(error).__module__.startswith("ift.")  # then the message says where
        hint = "" if ours or os.environ.get(DEBUG) else "\n(--debug shows where this was raised.)"
        _say(f"ift {verb}: {_text(error)}{hint}")
        return REFUSED
    except Exception as error:
        _say(f"ift {verb}: {_bug(error)}", every_process=True)
        return BUG
    finally:
        if debug and before is None:
            os.environ.pop(DEBUG, None)


def _say(text: str, every_process: bool = False) -> None:
    """What ends a run ends it in every process, and is said once on each machine; after the traceback, if wanted."""
    from ift.text import visible

    if every_process or int(os.environ.get("LOCAL_RANK", 0)) == 0:
        if os.environ.get(DEBUG):
            traceback.print_exc()
        print(visible(text), file=sys.stderr)  # it may quote a file


def _text(error: BaseException) -> str:
    """The message; the kind of error where it has none."""
    return str(error).strip() or type(error).__name__


def _bug(error: Exception) -> str:
    debugged = "of the traceback above" if os.environ.get(DEBUG) else "of the same command with --debug"
    return (
        f"{type(error).__name__}: {_text(error)}\nThis is a bug in ift. Please report it{_address()}, with the output "
        f"of `ift env` and {debugged}."
    )


def _address() -> str:
    """Where issues are reported, if the package says so."""
    try:
        urls = metadata("intuitive-fine-tuning").get_all("Project-URL") or []
    except PackageNotFoundError:
        return ""
    found = [url.partition(",")[2].strip() for url in urls if url.lower().startswith("issues,")]
    return f" at {found[0]}" if found else ""

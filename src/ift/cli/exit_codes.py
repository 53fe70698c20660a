"""Exit codes and error messages of all verbs: one message for what a user can correct, another for a bug.

Imports nothing heavy, because `ift --help` imports this module.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import time
import traceback
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, metadata
from typing import Any

import typer

from ift.runs.argv import UsageError
from ift.text import visible

REFUSED, USAGE, BUG, INTERRUPTED = 1, 2, 70, 130  # 70: EX_SOFTWARE of sysexits.h
DEBUG = "IFT_DEBUG"  # an environment variable, so that --debug reaches the processes that a verb starts
# what libraries raise for wrong input
EXPECTED = (ValueError, OSError, ImportError, RuntimeError, MemoryError)
WAIT = 10  # seconds that another process leaves the first one to say why all are refused


class Verbs(typer.Typer):
    """A typer app that runs every command through `run_verb` and adds --debug."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        """Typer's decorator, for a function that returns the exit code or raises `typer.Exit`."""
        register = super().command(name, **options)

        def add(function: Any) -> Any:
            register(_with_debug(function, name or function.__name__))
            return function

        return add


def _with_debug(function: Callable[..., Any], verb: str) -> Callable[..., Any]:
    """Wraps `function` in `run_verb`, with the additional option --debug."""

    @functools.wraps(function)
    def run(*args: Any, debug: bool = False, **kwargs: Any) -> None:
        raise typer.Exit(run_verb(verb, lambda: function(*args, **kwargs), debug))

    option = typer.Option(False, "--debug", help="Show the traceback of an error.")
    flag = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=option, annotation=bool)
    signature = inspect.signature(function, eval_str=True)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), flag])  # type: ignore[attr-defined]
    run.__annotations__ = {**function.__annotations__, "debug": bool}
    return run


def run_verb(verb: str, run: Callable[[], int | None], debug: bool = False) -> int:
    """Calls `run` and turns any exception into a message on standard error and an exit code.

    Args:
        verb: Name of the command, for the message.
        run: Returns the exit code, or raises `typer.Exit` with it.
        debug: Show tracebacks, like IFT_DEBUG=1 in the environment.

    Returns:
        The exit code of `run`; 1 for input that is refused or cannot be processed; 2 for a `UsageError`; 70 for a bug;
            130 for Ctrl-C.
    """
    before = os.environ.get(DEBUG)
    if debug:
        os.environ[DEBUG] = "1"
    try:
        return run() or 0
    except typer.Exit as done:
        return done.exit_code
    except (typer.Abort, BrokenPipeError):
        raise  # typer handles these
    except KeyboardInterrupt:
        print_error(f"\nift {verb}: stopped.")
        return INTERRUPTED
    except UsageError as error:
        print_error(f"ift {verb}: {error}", wait=WAIT)
        return USAGE
    except EXPECTED as error:
        is_ift = type(error).__module__.startswith("ift.")  # ift's messages name the place
        hint = "" if is_ift or os.environ.get(DEBUG) else "\n(--debug shows where this was raised.)"
        print_error(f"ift {verb}: {_text(error)}{hint}", wait=WAIT)
        return REFUSED
    except Exception as error:
        print_error(f"ift {verb}: {_bug(error)}", every_process=True)
        return BUG
    finally:
        if debug and before is None:
            os.environ.pop(DEBUG, None)


def print_error(text: str, every_process: bool = False, wait: float = 0.0) -> None:
    """Prints a message, after the traceback with --debug; once per machine, if every process fails alike.

    Others than the first `wait` for the launcher to end them. If it does not, they have failed alone, and print too.
    """
    first = int(os.environ.get("LOCAL_RANK", 0)) == 0
    time.sleep(0 if first else wait)
    if every_process or first or wait:
        if os.environ.get(DEBUG):
            traceback.print_exc()
        print(visible(text), file=sys.stderr)  # the message may quote a file


def _text(error: BaseException) -> str:
    """The error's message, or its class name if the message is empty."""
    return str(error).strip() or type(error).__name__


def _bug(error: Exception) -> str:
    debugged = "of the traceback above" if os.environ.get(DEBUG) else "of the same command with --debug"
    return (
        f"{type(error).__name__}: {_text(error)}\nThis is a bug in ift. Please report it{_address()}, with the output "
        f"of `ift env` and {debugged}."
    )


def _address() -> str:
    """Address of the issue tracker, if the package's metadata has one."""
    try:
        urls = metadata("intuitive-fine-tuning").get_all("Project-URL") or []
    except PackageNotFoundError:
        return ""
    found = [url.partition(",")[2].strip() for url in urls if url.lower().startswith("issues,")]
    return f" at {found[0]}" if found else ""

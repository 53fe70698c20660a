"""Reports missing optional packages with the command that installs them."""

from __future__ import annotations

import importlib.util

from ift.check.packages import install_command

__all__ = ["MissingExtra", "install_command", "missing_extra", "needs_extra"]


class MissingExtra(ImportError):
    """The optional packages of a command are not installed."""


def needs_extra(extra: str, *packages: str) -> None:
    """Raises MissingExtra if a package of an extra is missing."""
    if hint := missing_extra(extra, *packages):
        raise MissingExtra(hint)


def missing_extra(extra: str, *packages: str) -> str | None:
    """Names the missing packages of an extra and how to install them; None if all are installed."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if not missing:
        return None
    verb = "is" if len(missing) == 1 else "are"
    return f"{' and '.join(missing)} {verb} missing. Fix: {install_command(extra)}"

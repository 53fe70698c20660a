"""Optional packages: which are missing, and the command that installs them."""

from __future__ import annotations

import importlib.util


class MissingExtra(ImportError):
    """A verb whose optional packages are not installed; the message has the command that installs them."""


def needs_extra(extra: str, *packages: str) -> None:
    """Raise MissingExtra, with the command that installs it, where a package of an extra is missing."""
    if hint := missing_extra(extra, *packages):
        raise MissingExtra(hint)


def missing_extra(extra: str, *packages: str) -> str | None:
    """Which packages of an extra are missing and how to install them; None where all are there."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if not missing:
        return None
    verb = "is" if len(missing) == 1 else "are"
    return f"{' and '.join(missing)} {verb} missing. Fix: pip install 'intuitive-fine-tuning[{extra}]'"

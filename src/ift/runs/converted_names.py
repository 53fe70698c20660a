"""What the other settings of a converted file say, under the names of any tool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ift.runs.harmless_names import Same
from ift.training.other_tools import RENAMED


class KeysInside:
    """The keys inside one value of a file: what they become, and which are lost.

    Attributes:
        settings: For `ift train`.
        lost: The end of a key's full name -> why there is none here.
    """

    def __init__(self, written: Mapping[str, Any]) -> None:
        self.written = written
        self.settings: dict[str, Any] = {}
        self.lost: dict[str, str] = {}

    def take(self, key: str, here: str, value: Any) -> None:
        """Takes a value for the setting `here`, unless it is "auto" or the file around it sets that too."""
        said = said_elsewhere(self.written, here)
        if value == "auto":
            self.lost[key] = Same(f"auto: {here} of the run applies here too")
        elif said in (None, "auto"):
            self.settings[here] = value
        elif equal(said, value):
            self.lost[key] = Same(f"{here}: {said} says the same")
        else:
            self.lost[key] = (
                f"{value} differs from the file's own {here}: {said}, which is used; set the right one"
            )


def said_elsewhere(written: Mapping[str, Any], here: str) -> Any:
    """The value of ift's setting `here` in the settings of a file, under any name; None if it has none."""
    names = [here, *(name for name, ours in RENAMED.items() if ours == here)]
    return next((written[name] for name in names if written.get(name) is not None), None)


def equal(one: Any, other: Any) -> bool:
    """Whether two values are the same; YAML reads 2e-5 as text."""
    try:
        return float(one) == float(other)
    except (TypeError, ValueError):
        return bool(one == other)

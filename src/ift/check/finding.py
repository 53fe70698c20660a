"""One result of the check before a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["refused", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One result of the check.

    Attributes:
        level: "refused" (the run does not start), "warning" or "note".
        about: Data set, or topic.
        text: The problem and its fix.
        remedy: For a step that does not fit into memory, the settings to change first; "" where none suffice.
        forcible: Whether --force starts the run although it is refused; otherwise the training itself would stop.
    """

    level: Level
    about: str
    text: str
    remedy: str = ""
    forcible: bool = True

"""The bytes of a step with the run's settings and with changed settings."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch

from ift.check.engines import ONE_DEVICE, Engine
from ift.check.memory import current_device, step_needs
from ift.check.needs import StepNeeds

FEW_BITS_ENGINES = ("ddp", "fsdp2")  # under which a base in 4 or 8 bits runs
OF_THE_LAUNCH = ("accelerate_config", "num_processes")


@dataclass(frozen=True)
class Remedy:
    """Settings that need less memory.

    Attributes:
        flags: The command-line flags.
        total: Estimated bytes of a step with these settings.
    """

    flags: str
    total: int

    def __str__(self) -> str:
        unit, name = (2**30, "GiB") if self.total >= 2**30 else (2**20, "MiB")
        return f"{self.flags} (about {self.total / unit:.1f} {name} a step)"


@dataclass(frozen=True)
class Change:
    """Changed settings; `engine` is what they make of the run's engine, None where it stays."""

    settings: dict[str, Any] = field(default_factory=dict)
    engine: Engine | None = None

    def __or__(self, other: Change) -> Change:
        """The two changes together; the other one counts where they differ."""
        return Change({**self.settings, **other.settings}, other.engine or self.engine)

    @property
    def flags(self) -> str:
        """The command-line flags."""
        return " ".join(
            f"--{name} {str(value).lower() if isinstance(value, bool) else value}"
            for name, value in self.settings.items()
        )


NOTHING = Change()


class Sizes:
    """The bytes of a step of one stage on one device, with settings as they are and with others; each counted once.

    Args:
        stage: See `estimate_memory`.
        longest_row: Tokens.
        engine: See `estimate_memory`.
        device: Device of the run; None for this machine's.
        longest_answer: See `estimate_memory`.
    """

    def __init__(
        self,
        stage: Any,
        longest_row: int,
        engine: Engine = ONE_DEVICE,
        device: torch.device | None = None,
        longest_answer: int | None = None,
    ) -> None:
        self.stage, self.longest_row, self.engine = stage, longest_row, engine
        self.device, self.longest_answer = device or current_device(), longest_answer
        self._known: dict[tuple[Any, ...], StepNeeds] = {}

    def needs(self, change: Change = NOTHING) -> StepNeeds:
        """What a step needs; raises as `estimate_memory` does."""
        whole = (change.engine or self.engine).name == "ddp"
        settings = {name: value for name, value in change.settings.items() if name not in OF_THE_LAUNCH}
        key = (*sorted(settings.items()), whole)
        if key not in self._known:
            other = copy.copy(self.stage)
            other.config, other.model = copy.copy(self.stage.config), copy.copy(self.stage.model)
            for name, value in settings.items():
                setattr(other.model if hasattr(other.model, name) else other.config, name, value)
            row = min(self.longest_row, settings.get("max_length", self.longest_row))
            answer = self.longest_answer
            self._known[key] = step_needs(other, row, self.device, whole=whole, longest_answer=answer)
        return self._known[key]

    def total(self, change: Change = NOTHING) -> int:
        """Bytes of a step."""
        return self.needs(change).divided(change.engine or self.engine).total

    def fits(self, change: Change, available: int) -> bool:
        """Whether a step fits; without running its passes where weights and states alone do not."""
        engine = change.engine or self.engine
        if change.settings.get("load_in_4bit") and engine.name not in FEW_BITS_ENGINES:
            return False
        return self.needs(change).least(engine) <= available and self.total(change) <= available

    def remedy(self, change: Change) -> Remedy:
        """The change with its bytes."""
        return Remedy(change.flags, self.total(change))

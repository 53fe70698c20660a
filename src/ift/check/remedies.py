"""Settings with which a step that does not fit would need less memory."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ift.check.engines import ONE_DEVICE, Engine
from ift.check.memory import estimate_memory

MOST_PROCESSES = 1024  # that are suggested


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


def remedies(stage: Any, longest_row: int, available: int, engine: Engine = ONE_DEVICE) -> list[Remedy]:
    """Settings that would save memory here, the cheapest first: batch, checkpointing, engine, precision, LoRA.

    Args:
        stage: See `estimate_memory`.
        longest_row: See `estimate_memory`.
        available: Free bytes. The batch is halved and the processes are doubled until a step fits, and at least once.
        engine: See `estimate_memory`.

    Returns:
        Those that fit, if there are any; else those that save anything.
    """
    now = estimate_memory(stage, longest_row, engine=engine).total

    def total(engine: Engine = engine, **changes: Any) -> int:
        other = copy.copy(stage)
        other.config, other.model = copy.copy(stage.config), copy.copy(stage.model)
        for name, value in changes.items():
            setattr(other.model if hasattr(other.model, name) else other.config, name, value)
        return estimate_memory(other, longest_row, engine=engine).total

    found: list[Remedy] = []
    batch = stage.config.per_device_train_batch_size
    rows = batch * stage.config.gradient_accumulation_steps
    while batch > 1 and (not found or found[-1].total > available):
        batch //= 2
        flags = f"--per_device_train_batch_size {batch} --gradient_accumulation_steps {-(-rows // batch)}"
        found = [Remedy(flags, total(per_device_train_batch_size=batch))]
    if not stage.config.gradient_checkpointing:
        found.append(Remedy("--gradient_checkpointing true", total(gradient_checkpointing=True)))
    found += _of_engines(engine, available, total)
    if stage.model.dtype in (None, "auto", "float32"):
        found.append(Remedy("--dtype bfloat16", total(dtype="bfloat16")))
    if not stage.model.use_peft:
        found.append(Remedy("--use_peft true", total(use_peft=True)))
    found = [one for one in found if one.total < now]
    return [one for one in found if one.total <= available] or found


def _of_engines(engine: Engine, available: int, total: Callable[[Engine], int]) -> list[Remedy]:
    """FSDP2 over the same processes, and more processes where the engine shards; nothing for one process."""
    if engine.processes == 1:
        return []
    if not engine.shards_weights:
        fsdp2 = Engine("fsdp2", engine.processes)
        return [Remedy("--accelerate_config fsdp2", total(fsdp2))]
    more = Engine(engine.name, 2 * engine.processes)
    while total(more) > available and more.processes < MOST_PROCESSES:
        more = Engine(engine.name, 2 * more.processes)
    return [Remedy(f"--num_processes {more.processes}", total(more))]

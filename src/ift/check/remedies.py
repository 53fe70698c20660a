"""Settings with which a step that does not fit would need less memory."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from ift.check.engines import ONE_DEVICE, Engine
from ift.check.memory import StepNeeds, step_needs

MOST_PROCESSES = 1024  # that are suggested
SHORTEST = 64  # least `max_length` that is suggested, in tokens
LEAST_SHARE = 4  # nor less than a quarter of the longest row: a shorter limit would truncate most rows


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
class _Change:
    """Flags, and what they change; `engine` is None where it stays."""

    flags: str
    settings: dict[str, Any] = field(default_factory=dict)
    engine: Engine | None = None


def remedies(
    stage: Any,
    longest_row: int,
    available: int,
    engine: Engine = ONE_DEVICE,
    device: torch.device | None = None,
    longest_answer: int | None = None,
) -> list[Remedy]:
    """Settings that would save memory here, the smallest change of the run first.

    In this order: checkpointing, a smaller batch with more accumulation, an engine that shards or more processes, a
    smaller `max_length` (last where several are needed), LoRA, weights in bfloat16.

    Args:
        stage: See `estimate_memory`.
        longest_row: Tokens.
        available: Bytes. Batch and length are halved and processes are doubled until a step fits, and at least once.
        engine: See `estimate_memory`.
        device: Device of the run.
        longest_answer: See `estimate_memory`.

    Returns:
        The single changes that fit, if there are any; else the first of them together until they fit; else those that
        save anything, and all of them together.
    """
    total = _totals(stage, longest_row, longest_answer, engine, device)
    changes = _changes(stage, longest_row, available, engine, total)
    found = [(one, total(one)) for one in changes]
    saving = [Remedy(one.flags, size) for one, size in found if size < total(_Change(""))]
    if fitting := [one for one in saving if one.total <= available]:
        return fitting
    together = _Change("")
    # rows are cut last, and then only as far as is needed with all other changes
    for one in sorted(changes, key=lambda one: "max_length" in one.settings):
        if one.engine and together.engine:  # one engine takes the other's place
            continue
        more = _both(together, one)
        if "max_length" in one.settings:
            more = _until_it_fits(
                lambda length, others=together: _both(others, _cut(length)),  # type: ignore[misc]
                longest_row, _shortest(longest_row), available, total,
            )  # fmt: skip
        if total(more) < total(together):
            together = more
        if total(together) <= available:
            return [Remedy(together.flags, total(together))]
    alone = {one.flags for one in saving}
    return saving + ([Remedy(together.flags, total(together))] if together.flags not in {"", *alone} else [])


def more_devices(
    stage: Any,
    longest_row: int,
    available: int,
    engine: Engine = ONE_DEVICE,
    device: torch.device | None = None,
    longest_answer: int | None = None,
) -> Remedy | None:
    """The fewest processes of FSDP2 (a power of two) on which a step fits, with the settings as they are.

    None if there are none, and for a model in few bits, whose base every process of FSDP2 holds whole. Arguments as
    those of `remedies`.
    """
    if stage.model.load_in_4bit or stage.model.load_in_8bit:
        return None
    total, processes = _totals(stage, longest_row, longest_answer, engine, device), 2 * engine.processes
    while processes <= MOST_PROCESSES:
        change = _Change(
            f"--accelerate_config fsdp2 --num_processes {processes}", {}, Engine("fsdp2", processes)
        )
        if total(change) <= available:
            return Remedy(change.flags, total(change))
        processes *= 2
    return None


def without_saved_modules(
    stage: Any,
    longest_row: int,
    engine: Engine = ONE_DEVICE,
    device: torch.device | None = None,
    longest_answer: int | None = None,
) -> str:
    """What `lora_modules_to_save` costs, "" where it is not set or costs less than a tenth of the step."""
    names = stage.model.lora_modules_to_save
    if not (stage.model.use_peft and names):
        return ""
    total = _totals(stage, longest_row, longest_answer, engine, device)
    now, without = total(_Change("")), total(_Change("", {"lora_modules_to_save": None}))
    if without > 0.9 * now:
        return ""
    listed = names if isinstance(names, str) else ", ".join(names)
    return (
        f"lora_modules_to_save trains whole copies of {listed}, with gradients and optimiser states: it is needed for "
        f"tokens that were added, and a step without it needs about {without / 2**30:.2f} GiB"
    )


def _totals(
    stage: Any, longest_row: int, longest_answer: int | None, engine: Engine, device: torch.device | None
) -> Callable[[_Change], int]:
    """A function from a change to the bytes of a step with it; what does not depend on processes is computed once."""
    known: dict[tuple[Any, ...], StepNeeds] = {}

    def total(change: _Change) -> int:
        under = change.engine or engine
        key = (*sorted(change.settings.items()), under.name == "ddp")
        if key not in known:
            other = copy.copy(stage)
            other.config, other.model = copy.copy(stage.config), copy.copy(stage.model)
            for name, value in change.settings.items():
                setattr(other.model if hasattr(other.model, name) else other.config, name, value)
            row = min(longest_row, change.settings.get("max_length", longest_row))
            whole = under.name == "ddp"
            known[key] = step_needs(other, row, device, whole=whole, longest_answer=longest_answer)
        return known[key].divided(under).total

    return total


def _changes(
    stage: Any, longest_row: int, available: int, engine: Engine, total: Callable[[_Change], int]
) -> list[_Change]:
    """The single changes, the smallest first."""
    config, found = stage.config, []
    if not config.gradient_checkpointing:
        found.append(_Change("--gradient_checkpointing true", {"gradient_checkpointing": True}))
    if config.per_device_train_batch_size > 1:
        rows = config.per_device_train_batch_size * config.gradient_accumulation_steps

        def smaller(batch: int) -> _Change:
            steps = -(-rows // batch)
            names = ("per_device_train_batch_size", "gradient_accumulation_steps")
            flags = " ".join(f"--{name} {value}" for name, value in zip(names, (batch, steps), strict=True))
            return _Change(flags, dict(zip(names, (batch, steps), strict=True)))

        found.append(_until_it_fits(smaller, config.per_device_train_batch_size, 1, available, total))
    found += _of_engines(engine, available, total)
    if longest_row > _shortest(longest_row):
        found.append(_until_it_fits(_cut, longest_row, _shortest(longest_row), available, total))
    if not stage.model.use_peft:
        found.append(_Change("--use_peft true", {"use_peft": True}))
    if stage.model.dtype in (None, "auto", "float32"):
        found.append(_Change("--dtype bfloat16", {"dtype": "bfloat16"}))
    return found


def _both(one: _Change, other: _Change) -> _Change:
    """The two changes together."""
    flags = f"{one.flags} {other.flags}".strip()
    return _Change(flags, {**one.settings, **other.settings}, other.engine or one.engine)


def _cut(length: int) -> _Change:
    """Rows of at most so many tokens."""
    return _Change(f"--max_length {length}", {"max_length": length})


def _shortest(longest_row: int) -> int:
    """The shortest length that is suggested."""
    return max(SHORTEST, longest_row // LEAST_SHARE)


def _until_it_fits(
    change: Callable[[int], _Change], value: int, least: int, available: int, total: Callable[[_Change], int]
) -> _Change:
    """The change to the largest half, quarter, ... of a value with which a step fits; else to the least."""
    while True:
        value = max(least, value // 2)
        found = change(value)
        if value == least or total(found) <= available:
            return found


def _of_engines(engine: Engine, available: int, total: Callable[[_Change], int]) -> list[_Change]:
    """Engines that shard more over the same processes; more processes where it shards already; none for one process."""
    if engine.processes == 1:
        return []
    if not engine.shards_weights:
        names = ("fsdp2",) if engine.name == "zero2" else ("zero2", "fsdp2")
        return [_Change(f"--accelerate_config {name}", {}, Engine(name, engine.processes)) for name in names]
    more = engine.processes
    while True:
        more *= 2
        found = _Change(f"--num_processes {more}", {}, Engine(engine.name, more))
        if total(found) <= available or more >= MOST_PROCESSES:
            return [found]

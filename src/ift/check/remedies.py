"""Suggests settings with which a step that does not fit needs less memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ift.check.engines import Engine
from ift.check.sizes import FEW_BITS_ENGINES, NOTHING, Change, Remedy, Sizes
from ift.methods.start import start_options
from ift.models.loading import load_config

MOST_PROCESSES = 1024  # that are suggested
SHORTEST = 64  # least `max_length` that is suggested, in tokens
LEAST_SHARE = 4  # nor less than a quarter of the longest row: a shorter limit would truncate most rows


@dataclass(frozen=True)
class Halved:
    """A setting that is halved as often as needed.

    Attributes:
        change: From a value to the change.
        value: As it is now.
        least: The smallest that is suggested.
    """

    change: Callable[[int], Change]
    value: int
    least: int


Part = Change | Halved


def remedies(sizes: Sizes, available: int) -> list[Remedy]:
    """Settings that would save memory here, the smallest change of the run first.

    In this order: checkpointing, a smaller batch with more accumulation, an engine that shards or more processes, a
    smaller `max_length` (last where several are needed), LoRA, weights in bfloat16, LoRA on a base in four bits.

    Args:
        sizes: The run.
        available: Bytes. Batch and length are halved and processes are doubled until a step fits, and at least once.

    Returns:
        One of three:

        * Each single change with which a step fits. If a base in four bits is the only one, the smallest set of other
          changes that suffices comes before it.
        * Without such a change, the smallest set of changes that suffices.
        * Without such a set, the changes that together need the least memory; nothing if none saves any.
    """
    same, cut, other = _changes(sizes, available)
    few = _four_bits(sizes)
    singles, plain = [*same, *cut, *other], [*same, *other]
    fitting = [one for one in (_alone(sizes, part, available) for part in singles) if one is not None]
    quantised = next((one for one in (_alone(sizes, part, available) for part in few) if one), None)
    if fitting or quantised:
        smaller = None if fitting else _together(sizes, plain, available)
        found = [*fitting, *([smaller] if smaller else []), *([quantised] if quantised else [])]
        return [sizes.remedy(one) for one in found]
    every = [*plain, *few, *cut]
    if (together := _together(sizes, every, available)) is not None:
        return [sizes.remedy(together)]
    least = _least(sizes, every)
    return [sizes.remedy(least)] if sizes.total(least) < sizes.total() else []


def more_devices(sizes: Sizes, available: int) -> Remedy | None:
    """The fewest processes of FSDP2 (a power of two) on which a step fits, with the settings as they are.

    None if there are none, and for a model in few bits, whose base every process of FSDP2 holds whole.
    """
    if sizes.stage.model.load_in_4bit or sizes.stage.model.load_in_8bit:
        return None
    processes = 2 * sizes.engine.processes
    while processes <= MOST_PROCESSES:
        engine = Engine("fsdp2", processes)
        change = Change({"accelerate_config": "fsdp2", "num_processes": processes}, engine)
        if sizes.fits(change, available):
            return sizes.remedy(change)
        processes *= 2
    return None


def without_saved_modules(sizes: Sizes) -> str:
    """The cost of `lora_modules_to_save` as a sentence; "" if it is not set or costs less than a tenth of the step."""
    names = sizes.stage.model.lora_modules_to_save
    if not (sizes.stage.model.use_peft and names):
        return ""
    without = sizes.total(Change({"lora_modules_to_save": None}))
    if without > 0.9 * sizes.total():
        return ""
    listed = names if isinstance(names, str) else ", ".join(names)
    return (
        f"lora_modules_to_save trains whole copies of {listed}, with gradients and optimiser states. Only added "
        f"tokens need this; a step without it needs about {without / 2**30:.2f} GiB"
    )


def _changes(sizes: Sizes, available: int) -> tuple[list[Part], list[Part], list[Part]]:
    """Single changes, the smallest first: those that train the same, shorter rows, and those that train otherwise."""
    config, model = sizes.stage.config, sizes.stage.model
    same: list[Part] = [] if config.gradient_checkpointing else [Change({"gradient_checkpointing": True})]
    if config.per_device_train_batch_size > 1:
        rows = config.per_device_train_batch_size * config.gradient_accumulation_steps

        def smaller(batch: int) -> Change:
            steps = -(-rows // batch)
            return Change({"per_device_train_batch_size": batch, "gradient_accumulation_steps": steps})

        same.append(Halved(smaller, config.per_device_train_batch_size, 1))
    same += _of_engines(sizes, available)
    shortest = max(SHORTEST, sizes.longest_row // LEAST_SHARE)
    length = (
        config.max_length if getattr(config, "packing", False) and config.max_length else sizes.longest_row
    )
    cut = Halved(lambda length: Change({"max_length": length}), length, shortest)
    other: list[Part] = [] if model.use_peft else [Change({"use_peft": True})]
    if model.dtype in (None, "auto", "float32"):
        other.append(Change({"dtype": "bfloat16"}))
    return same, [cut] if length > shortest else [], other


def _four_bits(sizes: Sizes) -> list[Change]:
    """LoRA on a base in four bits: on a GPU, where the weights are neither in few bits already nor split."""
    model = sizes.stage.model
    options = start_options(sizes.stage)
    if (
        sizes.device.type != "cuda"
        or model.load_in_4bit
        or model.load_in_8bit
        or options.further.get("tp_plan")
    ):
        return []
    if getattr(load_config(model.model_name_or_path, options), "quantization_config", None) is not None:
        return []
    return [Change({**({} if model.use_peft else {"use_peft": True}), "load_in_4bit": True})]


def _of_engines(sizes: Sizes, available: int) -> list[Change]:
    """Engines that shard more over the same processes; more processes where it shards already; none for one process."""
    engine = sizes.engine
    if engine.processes == 1:
        return []
    if not engine.shards_weights:
        names = ("fsdp2",) if engine.name == "zero2" else ("zero2", "fsdp2")
        return [Change({"accelerate_config": name}, Engine(name, engine.processes)) for name in names]
    more = engine.processes
    while True:
        more *= 2
        found = Change({"num_processes": more}, Engine(engine.name, more))
        if more >= MOST_PROCESSES or sizes.fits(found, available):
            return [found]


def _alone(sizes: Sizes, part: Part, available: int) -> Change | None:
    """The change, halved as little as is needed; None where a step does not fit with it, or it saves nothing."""
    found = _as_little_as_needed(sizes, NOTHING, part, available)
    return found if sizes.fits(found, available) and sizes.total(found) < sizes.total() else None


def _together(sizes: Sizes, parts: Sequence[Part], available: int) -> Change | None:
    """The fewest changes, taken in order, with which a step fits, none larger than needed; None if even all do not."""
    for count in range(2, len(parts) + 1):
        if sizes.fits(_merged(parts[:count]), available):
            break
    else:
        return None
    needed = list(parts[:count])
    for part in reversed(parts[:count]):  # the largest change is the first that is left out, or made smaller
        rest = [one for one in needed if one is not part]
        if sizes.fits(_merged(rest), available):
            needed = rest
        else:
            needed[needed.index(part)] = _as_little_as_needed(sizes, _merged(rest), part, available)
    return _merged(needed)


def _least(sizes: Sizes, parts: Sequence[Part]) -> Change:
    """All changes together, but for those without which no more is needed."""
    needed = list(parts)
    if sizes.engine.name not in FEW_BITS_ENGINES:
        needed = [part for part in needed if isinstance(part, Halved) or "load_in_4bit" not in part.settings]
    for part in reversed(needed.copy()):
        rest = [one for one in needed if one is not part]
        needed = rest if sizes.total(_merged(rest)) <= sizes.total(_merged(needed)) else needed
    return _merged(needed)


def _merged(parts: Sequence[Part]) -> Change:
    """All changes together, each halved to its least value."""
    found = NOTHING
    for part in parts:
        found |= part.change(part.least) if isinstance(part, Halved) else part
    return found


def _as_little_as_needed(sizes: Sizes, others: Change, part: Part, available: int) -> Change:
    """The change to the largest half, quarter, ... with which a step fits beside the others; else to the least."""
    if isinstance(part, Change):
        return part
    value = part.value
    while True:
        value = max(part.least, value // 2)
        found = part.change(value)
        if value == part.least or sizes.fits(others | found, available):
            return found

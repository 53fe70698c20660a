"""The messages of the check about memory: the line with the estimate, and findings about large steps."""

from __future__ import annotations

from typing import Any

from ift.check.finding import Finding
from ift.check.memory import RESERVE, MemoryEstimate, largest_batch
from ift.check.remedies import more_devices, remedies, without_saved_modules
from ift.check.sizes import Remedy, Sizes
from ift.text import counted

TIGHT = 0.9  # of what can be used: above it, what the estimate does not hold may not fit
NOT_HELD = "fragments of the allocator, other processes on the device, an evaluation with longer rows"


def batch_words(stage: Any, longest_row: int, planned: bool) -> str:
    """The batch that the estimate assumes, and how to set it; `planned`: --plan_length gave the length."""
    rows, tokens, _, _ = largest_batch(stage, longest_row, longest_row)
    if getattr(stage.config, "packing", False) and stage.config.max_length:
        sequences, length = stage.config.per_device_train_batch_size, stage.config.max_length
        return f"for a batch of {counted(sequences, 'packed sequence')} of {length:,} tokens"
    why = (
        "from --plan_length"
        if planned
        else "the longest row after --max_length; --plan_length N sets another length"
    )
    return f"for a batch of {counted(rows, 'row')} of {tokens:,} tokens ({why})"


def memory_findings(sizes: Sizes, found: MemoryEstimate, available: int) -> list[Finding]:
    """A warning for a step that does not fit, or that fits tightly; `sizes` are those of the run."""
    if found.total <= TIGHT * available:
        return []
    room = round(available if found.total > available else TIGHT * available)
    ways, saved = remedies(sizes, room), without_saved_modules(sizes)
    cause = f". {saved}" if saved else ""
    if found.total <= available:
        fix = ", or ".join(str(one) for one in ways[:2] if one.total <= room)
        text = (
            f"the step fits, but tightly: it takes {found.total / available:.0%} of what can be used. The estimate "
            f"leaves out {NOT_HELD}{cause}. Fix, to free memory: {fix or 'a larger GPU, or more of them'}"
        )
        return [Finding("warning", "memory", text)]
    text = f"a step needs about {_gib(found.total)}, and {_gib(available)} can be used"
    fitting = [one for one in ways if one.total <= available]
    if fitting:
        fix = f"Fix, the smallest change first: {', or '.join(map(str, fitting[:3]))}"
    else:
        fix = _what_remains(ways, more_devices(sizes, available))
    return [Finding("warning", "memory", f"{text}{cause}. {fix}", str(fitting[0]) if fitting else "")]


def _what_remains(ways: list[Remedy], devices: Remedy | None) -> str:
    """Where no settings suffice: the least that was found, and a larger GPU, more of them, or a smaller model."""
    least = min(ways, key=lambda one: one.total, default=None)
    tried = (
        f"No settings make it fit; the lowest estimate is {least}"
        if least
        else "No settings reduce the memory"
    )
    need = (
        f"a GPU with about {_gib(round(least.total / (1 - RESERVE)))} of memory" if least else "a larger GPU"
    )
    more = f", more GPUs: {devices} on each" if devices else ""
    return f"{tried}. Remaining options: {need}{more}, or a smaller model"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"

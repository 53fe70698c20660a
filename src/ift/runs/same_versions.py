"""Whether all machines of a run have the same versions of the libraries that decide what is trained."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ift.runs.argv import UsageError

PACKAGES = ("intuitive-fine-tuning", "torch", "transformers", "trl", "accelerate", "peft")


def check_versions() -> None:
    """Raises UsageError, in every process, if a machine has other versions than that of the first process."""
    from accelerate import PartialState
    from torch.distributed import all_gather_object

    if (processes := PartialState().num_processes) == 1:
        return
    found: list[Any] = [None] * processes
    all_gather_object(found, (platform.node(), {name: installed(name) for name in PACKAGES}))
    (first, expected), *others = found
    for node, versions in others:
        differing = [
            f"{name} {versions[name]} on {node}, {expected[name]} on {first}"
            for name in PACKAGES
            if versions[name] != expected[name]
        ]
        if differing:
            raise UsageError(
                f"the machines have different versions: {'; '.join(differing)}. "
                "Fix: install the same versions on every machine"
            )


def installed(name: str) -> str:
    """The version of a package; "(not installed)" where it runs from its source."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"

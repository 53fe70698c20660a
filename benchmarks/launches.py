"""Operations that a step launches and times that it makes the host wait for the device, counted on a CPU.

    python benchmarks/launches.py [--tiny] [--output x.json]

Neither depends on the device but for the tiles of the head: what is counted here is what a GPU's host does in a step.
Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from contestants import MODELS, Contestant, Point
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests"))

from host_waits import HostWaits
from ift.lab.report.provenance import provenance

METHODS = ("trl-sft", "ift-lambda-0", "ift-full-prefix", "ift-shared-prefix", "naive-ift")
VIEWS = {"view", "_unsafe_view", "t", "transpose", "expand", "unsqueeze", "squeeze", "slice", "select", "detach",
         "permute", "alias", "split", "unbind", "as_strided", "_reshape_alias"}  # fmt: skip


class Launches(TorchDispatchMode):
    """Counts operations that do work; views launch nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count, and do it."""
        self.count += func._schema.name.removeprefix("aten::") not in VIEWS
        return func(*args, **(kwargs or {}))


def counts(name: str, tiny: bool) -> dict[str, int]:
    """Of one step of a method, forward and backward."""
    point = Point(batch=2, length=64 if tiny else 256)
    contestant = Contestant(name, MODELS["tiny" if tiny else "even"], point, "cpu", "float32", point.length)
    batch = contestant.batch(point)
    contestant.step(batch)  # what is made once is not the step's
    contestant.drop_gradients()
    with Launches() as launches:
        contestant.step(batch)
    contestant.drop_gradients()
    with HostWaits() as waits:
        contestant.step(batch)
    return {"launches": launches.count, "waits": waits.counts.total()}


def main() -> None:
    """Count, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="two layers, rows of 64 tokens: does it run?")
    parser.add_argument("--output", help="write the JSON there as well")
    told = parser.parse_args()
    torch.set_num_threads(1)
    record = {
        **asdict(provenance()),
        "command": " ".join(["python", "benchmarks/launches.py", *sys.argv[1:]]),
        "methods": {name: counts(name, told.tiny) for name in METHODS},
    }
    text = json.dumps(record, indent=1)
    print(text)
    if told.output:
        Path(told.output).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""What a step costs: operations (counted), seconds (in turn with the others), memory (in a process of its own)."""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from contestants import Contestant, Model, Point
from torch.autograd.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

from ift.lab.compare.flops import UNCOUNTED


def first_step(contestant: Contestant, batch: dict[str, Any]) -> dict[str, Any]:
    """Loss and operations of one step, the same each time; on CUDA also its memory. What fails is told, not raised."""
    losses: list[float] = []

    def step() -> None:
        loss = contestant.forward(batch)
        losses.append(loss.item())
        loss.backward()

    try:
        found: dict[str, Any] = {"flops": counted_flops(step), "loss": losses[0]}
        contestant.drop_gradients()
        if contestant.device == "cuda":
            found["memory"] = memory_of(contestant, batch)
            contestant.drop_gradients()
    except (RuntimeError, TypeError, AssertionError) as error:  # out of memory is a RuntimeError, too
        contestant.drop_gradients()
        if contestant.device == "cuda":
            torch.cuda.empty_cache()
        return {"failed": f"{type(error).__name__}: {error}"[:300]}
    return found


def counted_flops(function: Any) -> int:
    """Operations of its matrix products and attention. Triton's kernels are not seen, but trl's multiply nothing."""
    with FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as counter:
        function()
    return counter.get_total_flops()


def seconds_of(
    contestants: dict[str, Contestant], batches: dict[str, Any], rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Seconds of every step, on the clock and of the processor: A B C, A B C, ... on the same rows, after a first.

    The processor's are those of this process alone, whatever else the machine does; on a GPU they say little.
    """
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for number in range(rounds + 1 if rounds else 0):
        for name, contestant in contestants.items():
            synchronise(contestant.device)
            began, worked = time.perf_counter(), time.process_time()
            contestant.step(batches[name])
            synchronise(contestant.device)
            if number:
                seconds[name].append((time.perf_counter() - began, time.process_time() - worked))
            contestant.drop_gradients()
    return seconds


def synchronise(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def median_interval(values: list[float]) -> list[float]:
    """The narrowest pair of order statistics that holds the median with 95 % (the extremes where none does)."""
    ordered, n = sorted(values), len(values)
    low = 0
    while low + 1 < n / 2 and 1 - 2 * sum(math.comb(n, k) for k in range(low + 2)) / 2**n >= 0.95:
        low += 1
    return [ordered[low], ordered[n - 1 - low]]


def summary(
    first: dict[str, Any], seconds: dict[str, list[tuple[float, float]]], tokens: dict[str, int]
) -> dict[str, Any]:
    """Per method: figures, and ratios to trl's SFT and to IFT's own lambda 0, seconds pair by pair."""
    found = {name: dict(figures) for name, figures in first.items()}
    others = [name for name in ("trl-sft", "ift-lambda-0") if name in seconds]
    for name, values in seconds.items():
        for other in others:
            found[name][f"flops_over_{other}"] = first[name]["flops"] / first[other]["flops"]
        if not values:
            continue
        for number, clock in enumerate(("seconds", "processor_seconds")):
            own = [pair[number] for pair in values]
            found[name][clock] = own
            found[name][f"{clock}_median"] = statistics.median(own)
            found[name][f"{clock}_interval"] = median_interval(own)
            for other in others:
                ratios = [a / b[number] for a, b in zip(own, seconds[other], strict=True)]
                found[name][f"{clock}_over_{other}"] = statistics.median(ratios)
                found[name][f"{clock}_over_{other}_interval"] = median_interval(ratios)
        found[name]["tokens_per_second"] = tokens[name] / found[name]["seconds_median"]
    return found


# --- memory -----------------------------------------------------------------------------------------------------------


def memory_in_own_processes(
    names: tuple[str, ...], about: dict[str, Any], workers: int
) -> dict[str, dict[str, int]]:
    """`memory_of` for each method, each in a fresh process, `workers` at once."""

    def one(name: str) -> dict[str, int]:
        command = [sys.executable, __file__, json.dumps({**about, "method": name})]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            return {"failed": ended.stderr.strip().splitlines()[-1][:300]}  # type: ignore[dict-item]
        return json.loads(ended.stdout.splitlines()[-1])

    with ThreadPoolExecutor(workers) as pool:
        return dict(zip(names, pool.map(one, names), strict=True))


def memory_of(contestant: Contestant, batch: dict[str, Any]) -> dict[str, int]:
    """Bytes of tensors: held between steps, kept by the forward pass, and at the step's peak, both above the first.

    On a CPU every allocation is recorded (no noise of the allocator); on CUDA the allocator's own counters are read.
    """
    contestant.step(batch)  # what is made once is not the step's
    contestant.drop_gradients()
    models = [contestant.model, getattr(contestant.trainer, "ref_model", None)]
    held = sum(p.numel() * p.element_size() for m in models if m is not None for p in m.parameters())
    if contestant.device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss = contestant.forward(batch)
        kept = torch.cuda.memory_allocated() - before
        loss.backward()
        peak = torch.cuda.max_memory_allocated() - before
    else:
        loss, kept, peak = _allocations(lambda: contestant.forward(batch))
        _, _, later = _allocations(loss.backward)
        peak = max(peak, kept + later)
    return {"held_bytes": held, "kept_by_forward_bytes": kept, "step_peak_bytes": peak}


def _allocations(function: Any) -> tuple[Any, int, int]:
    """What the function gives, the bytes it leaves, and its peak above the beginning."""
    with profile(profile_memory=True) as recorded:
        result = function()
    events = recorded.kineto_results.events()
    live = peak = 0
    for _, change in sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"):
        live += change
        peak = max(peak, live)
    return result, live, peak


def main() -> None:
    """Measure the memory of the one method that the argument describes."""
    about = json.loads(sys.argv[1])
    torch.set_num_threads(about["threads"])
    point = Point(**about["point"])
    contestant = Contestant(
        about["method"], Model(**about["model"]), point, about["device"], about["dtype"], about["longest"]
    )
    contestant.set_checkpointing(point.checkpointing)
    print(json.dumps(memory_of(contestant, contestant.batch(point))))


if __name__ == "__main__":
    main()

"""What docs/performance.md aims at and what the records say; the README's table of costs."""

from __future__ import annotations

import json
import statistics
from typing import Any

from page_tables import RECORDS as ALL_RECORDS
from page_tables import table
from page_tables.performance import (
    FULL,
    IFT,
    NAIVE,
    SFT,
    ZERO,
    at,
    grouped,
    interval,
    of_groups,
    ratio,
    record,
    timed,
)


def naive_seconds(entries: list[dict[str, Any]]) -> list[float]:
    """The naive way's processor seconds over IFT's, summed over batches, round by round: the middle, the extremes."""

    def of_rounds(method: str) -> list[float]:
        each = (entry["methods"][method]["processor_seconds"] for entry in entries)
        return [sum(batches) for batches in zip(*each, strict=True)]

    ratios = [naive / ift for naive, ift in zip(of_rounds(NAIVE), of_rounds(IFT), strict=True)]
    return [statistics.median(ratios), min(ratios), max(ratios)]


def _seconds_aims() -> list[list[str]]:
    """IFT's seconds over lambda 0's wherever that was timed: no more than the operations' ratio and 0.05."""
    rows = []
    key = f"processor_seconds_over_{ZERO}"
    for name, entry in timed():
        found = entry["methods"][IFT]
        aim = f"<= {ratio(entry, IFT, ZERO) + 0.05:.2f}"
        measured = interval([found[key], *found[f"{key}_interval"]])
        rows.append([f"IFT / lambda 0, processor seconds, completion {name}", aim, measured])
    return rows


def _gpu_aims() -> list[list[str]]:
    found = at(record("gpu")["points"])
    rows = []
    for name, way in (("ift-full-prefix", "as `auto` runs there"), (IFT, "with a shared prefix")):
        figures, key = found["methods"][name], f"seconds_over_{ZERO}"
        measured = interval([figures[key], *figures[f"{key}_interval"]])
        aim = f"<= {ratio(found, name, ZERO) + 0.05:.2f}"
        rows.append([f"IFT / lambda 0, seconds on an H100, 50% completion, {way}", aim, measured])
    return rows


def _naive_memory() -> str:
    methods = record("memory-mixed")["memory"][-1]["methods"]
    naive, ift = methods[NAIVE], methods[IFT]
    kept, peak = (naive[key] / ift[key] for key in ("kept_by_forward_bytes", "step_peak_bytes"))
    whole = [found["held_bytes"] + found["step_peak_bytes"] for found in (naive, ift)]
    return f"{kept:.2f}; {peak:.2f}; {whole[0] / whole[1]:.2f}"


def goals() -> str:
    """What was aimed at, and what the records say."""
    counted = [
        entry
        for name in ("operations", "operations-checkpointing", "operations-packing")
        for entry in record(name)["points"]
        if not entry["point"]["lora"]
    ]
    of_bound = [ratio(entry, IFT, ZERO) / entry["least_flops_over_ift-lambda-0"] for entry in counted]
    half, clocked = at(record("operations")["points"]), at(record("seconds")["points"])["methods"]
    mixed, seconds_mixed = record("operations-mixed")["points"][-1], record("seconds-mixed")["points"]
    as_they_come = [entry for entry in seconds_mixed if entry["point"]["lengths"] == "mixed"]
    over_bound = ratio(mixed, IFT, ZERO) / mixed["least_flops_over_ift-lambda-0"]
    plain = next(entry for entry in record("memory")["memory"] if not entry["point"]["checkpointing"])
    kept = ratio(plain, "dpo", IFT, "kept_by_forward_bytes")
    peaks = {
        name: figures["held_bytes"] + figures["step_peak_bytes"] for name, figures in plain["methods"].items()
    }
    dpo = clocked["dpo"]["processor_seconds_median"] / clocked[IFT]["processor_seconds_median"]
    over_sft = [f"{clocked[name][f'processor_seconds_over_{SFT}']:.2f}" for name in (IFT, ZERO)]
    rows = [
        ["IFT / lambda 0, operations, over the bound", "<= 1.03", f"{min(of_bound):.2f} to {max(of_bound):.2f}"],
        *_seconds_aims(),
        *_gpu_aims(),
        ["IFT / trl's SFT on a CPU, half completion: operations; seconds", "<= 0.92",
         f"{ratio(half, IFT, SFT):.2f}; {over_sft[0]}"],
        ["lambda 0 / trl's SFT, the same", "<= 0.76", f"{ratio(half, ZERO, SFT):.2f}; {over_sft[1]}"],
        ["peak memory, IFT / lambda 0, without checkpointing", "<= 1.03", f"{peaks[IFT] / peaks[ZERO]:.2f}"],
        ["DPO / IFT at equal rows: seconds", ">= 1.9", f"{dpo:.2f}"],
        ["DPO / IFT: kept by the forward pass", ">= 1.8", f"{kept:.2f}"],
        ["naive / IFT, mixed lengths, rows as they come: operations; processor seconds", ">= 3",
         f"{ratio(mixed, NAIVE, IFT):.2f}; {interval(naive_seconds(as_they_come))}"],
        ["naive / IFT, batches of like length: operations; processor seconds", ">= 3",
         f"{of_groups()[2]:.2f}; {interval(naive_seconds(grouped('seconds-mixed')))}"],
        ["IFT / lambda 0, operations, over the bound: rows as they come; of like length", "<= 1.03",
         f"{over_bound:.2f}; {of_groups()[0] / of_groups()[1]:.2f}"],
        ["naive / IFT, mixed lengths, memory: kept by the forward pass; peak above the weights; with them", ">= 3",
         _naive_memory()],
    ]  # fmt: skip
    return table(["figure", "aim", "measured"], rows)


def costs() -> str:
    """What a step costs against other methods' steps, by device: the README's table."""
    points = record("operations")["points"]
    half, tenth = at(points), at(points, share=0.1)
    gpu = at(record("gpu")["points"])["methods"][FULL][f"seconds_over_{ZERO}"]
    equal = [
        _mean_flops(name, "dpo") / _mean_flops(name, "ift") for name in ("compare-full", "compare-relation")
    ]
    rows = [
        ["IFT / SFT, half of a row is answer", "operations, CPU", f"{ratio(half, IFT, ZERO):.2f}"],
        ["IFT / SFT, a tenth of a row is answer", "operations, CPU", f"{ratio(tenth, IFT, ZERO):.2f}"],
        ["IFT / SFT, half of a row is answer, 50 M parameters", "seconds, one H100", f"{gpu:.2f}"],
        ["DPO / IFT, equal numbers of answers", "operations, CPU", f"{min(equal):.1f} to {max(equal):.1f}"],
        ["DPO / IFT, a pair counted as one answer", "operations, CPU", f"{ratio(half, 'dpo', IFT):.1f}"],
    ]
    return table(["a step of", "measured", "ratio"], rows)


def _mean_flops(study: str, method: str) -> float:
    """Mean FLOPs of a method's runs in docs/records."""
    lines = (ALL_RECORDS / f"{study}.jsonl").read_text().splitlines()
    found = [one["cost"]["flops"] for one in map(json.loads, lines) if one["method"] == method]
    return statistics.mean(found)


def least_work() -> str:
    """Processor seconds of a step with whole rows and with a shared prefix, by the work of a launch."""
    lines = (ALL_RECORDS / "step-cost" / "least-work.jsonl").read_text().splitlines()
    points = sorted((json.loads(line) for line in lines), key=lambda one: one["work"])
    rows = [
        [f"{one['work']:.1e}", f"{one['width']} x {one['layers']}", f"{one['rows']} x {one['tokens']}",
         f"{one['full']:.3f}", f"{one['shared']:.3f}", f"{one['ratio']:.2f}"]
        for one in points
    ]  # fmt: skip
    return table(["work", "width x layers", "rows x tokens", "whole rows", "shared", "ratio"], rows)

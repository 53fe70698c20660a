"""The tables of docs/performance.md, from docs/records/step-cost."""

from __future__ import annotations

import json
from typing import Any

from page_tables import RECORDS as ALL_RECORDS
from page_tables import table

RECORDS = ALL_RECORDS / "step-cost"
SFT, ZERO, IFT, FULL, NAIVE = "trl-sft", "ift-lambda-0", "ift", "ift-full-prefix", "naive-ift"
REMOVED = "ift-kept-guesses"  # measured in two of the records; the code is gone (docs/log.md, 17)
BASE = {"lengths": "equal", "checkpointing": False, "lora": False, "packing": False, "vocabulary": None}
MIB = 2**20


def record(name: str) -> dict[str, Any]:
    """One record, without the method that was removed."""
    found: dict[str, Any] = json.loads((RECORDS / f"{name}.json").read_text())
    for entry in found["points"]:
        entry["methods"].pop(REMOVED, None)
    return found


def at(points: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    """The point with these values, the first point's in everything else."""
    wanted = {**points[0]["point"], **wanted}
    return next(entry for entry in points if entry["point"] == wanted)


def ratio(entry: dict[str, Any], one: str, other: str, figure: str = "flops") -> float:
    """Of a figure of two methods."""
    return float(entry["methods"][one][figure] / entry["methods"][other][figure])


def least(entry: dict[str, Any]) -> str:
    """The bound, or a dash where its formula does not hold (adapters: the frozen weights need no gradient)."""
    return "-" if entry["point"]["lora"] else f"{entry['least_flops_over_ift-lambda-0']:.3f}"


def shares() -> str:
    """Operations by the completion's share of the row, without and with checkpointing."""
    rows = []
    for name, kind in (("operations", "no"), ("operations-checkpointing", "yes")):
        points = record(name)["points"]
        for entry in sorted(points, key=lambda entry: entry["point"]["share"]):
            if {**entry["point"], "share": 0.5} != points[0]["point"]:
                continue
            ratios = [(IFT, ZERO), (FULL, ZERO), (IFT, SFT), (ZERO, SFT)]
            cells = [f"{ratio(entry, *pair):.3f}" for pair in ratios]
            rows.append([f"{entry['point']['share']:.0%}", kind, cells[0], least(entry), *cells[1:]])
    header = ["completion", "checkpointing", "IFT / lambda 0", "bound", "without sharing", "IFT / trl's SFT"]
    return table([*header, "lambda 0 / trl's SFT"], rows)


def axes() -> str:
    """Operations along the other axes."""
    points = record("operations")["points"]
    base = points[0]["point"]
    rows = []
    others = [record(name)["points"][-1] for name in ("operations-packing", "operations-mixed")]
    for entry in [*points, *others]:
        point = entry["point"]
        changed = [f"{key} {value}" for key, value in point.items() if value != base.get(key, value)]
        if point["share"] != base["share"] or (point["packing"] and point["batch"] == 1):
            continue
        what = ", ".join(changed) or "the base"
        if entry["point"]["packing"]:
            what = "four rows of 256 packed into one"
        what = what.replace(" True", "").replace("lengths mixed", "mixed lengths")
        full = f"{ratio(entry, FULL, ZERO):.3f}" if FULL in entry["methods"] else "-"
        cells = [f"{ratio(entry, IFT, ZERO):.3f}", least(entry), full]
        for other in ("dpo", "tdpo2", NAIVE):
            cells.append(f"{ratio(entry, other, IFT):.2f}" if other in entry["methods"] else "-")
        rows.append([what, *cells])
    over_zero, bound, naive = of_groups()
    name = "batch 4, mixed lengths, batches of like length"
    rows.append([name, f"{over_zero:.3f}", f"{bound:.3f}", "-", "-", "-", f"{naive:.2f}"])
    over_ift = ["DPO / IFT", "TDPO2 / IFT", "naive / IFT"]
    return table(["changed", "IFT / lambda 0", "bound", "without sharing", *over_ift], rows)


def grouped(name: str) -> list[dict[str, Any]]:
    """A record's batches of like length."""
    return [entry for entry in record(name)["points"] if entry["point"]["lengths"] == "grouped"]


def of_groups() -> tuple[float, float, float]:
    """Over all batches of like length: IFT's operations over lambda 0's, the bound, and the naive way's over IFT's."""
    parts = grouped("operations-grouped")
    sums = {name: sum(entry["methods"][name]["flops"] for entry in parts) for name in (ZERO, IFT, NAIVE)}
    bound = sum(entry["least_flops_over_ift-lambda-0"] * entry["methods"][ZERO]["flops"] for entry in parts)
    return sums[IFT] / sums[ZERO], bound / sums[ZERO], sums[NAIVE] / sums[IFT]


def gemma() -> str:
    """A step of a real model's sizes."""
    entry = at(record("gemma")["points"], share=0.3)
    rows = []
    for method, found in entry["methods"].items():
        bound = least(entry) if method == IFT else "-"
        cells = [f"{ratio(entry, method, ZERO):.3f}", bound, f"{ratio(entry, method, SFT):.3f}"]
        rows.append([method, *cells, f"{found['processor_seconds_median']:.1f}"])
    return table(
        ["method", "operations / lambda 0", "bound", "operations / trl's SFT", "processor seconds"], rows
    )


def timed() -> list[tuple[str, dict[str, Any]]]:
    """What was timed in rows of 256 tokens, and how it is called: every share, four rows at a time, then one."""
    rows = {"four": ("seconds", "seconds-share"), "one": ("seconds-one-row",)}
    found = []
    for number, names in rows.items():
        entries = {
            entry["point"]["share"]: entry for name in reversed(names) for entry in record(name)["points"]
        }
        found += [(f"{share:.0%}, rows by {number}", entry) for share, entry in sorted(entries.items())]
    return found


def interval(values: list[float]) -> str:
    """The middle, and the interval."""
    return f"{values[0]:.2f} ({values[1]:.2f} to {values[2]:.2f})"


def seconds() -> str:
    """Processor seconds of every method at the base point, and of IFT at other shares."""
    rows = []
    for name, entry in timed():
        for method, found in entry["methods"].items():
            cells = [name, method, f"{found['processor_seconds_median']:.2f}"]
            for other in (SFT, ZERO):
                key = f"processor_seconds_over_{other}"
                cells += [
                    interval([found[key], *found[f"{key}_interval"]]),
                    f"{found[f'flops_over_{other}']:.2f}",
                ]
            rows.append(cells)
    over = ["seconds / trl's SFT", "operations / trl's SFT", "seconds / lambda 0", "operations / lambda 0"]
    return table(["completion", "method", "processor seconds", *over], rows)


def compiled() -> str:
    """Processor seconds with compiled layers, side by side with the same method without."""
    (entry,) = record("seconds-compiled")["points"]
    rows = []
    for method, found in entry["methods"].items():
        key = f"processor_seconds_over_{ZERO}"
        seconds = interval([found[key], *found[f"{key}_interval"]])
        operations = f"{found[f'flops_over_{ZERO}']:.2f}"
        rows.append([method, f"{found['processor_seconds_median']:.2f}", seconds, operations])
    return table(["method", "processor seconds", "seconds / lambda 0", "operations / lambda 0"], rows)


def memory() -> str:
    """Memory of every method, without and with checkpointing."""
    rows = []
    for entry in record("memory")["memory"]:
        for method, found in entry["methods"].items():
            total = found["held_bytes"] + found["step_peak_bytes"]
            sft = entry["methods"][SFT]
            kept = found["kept_by_forward_bytes"] / sft["kept_by_forward_bytes"]
            peak = total / (sft["held_bytes"] + sft["step_peak_bytes"])
            cells = [
                f"{found[key] / MIB:.0f}"
                for key in ("held_bytes", "kept_by_forward_bytes", "step_peak_bytes")
            ]
            checkpointing = "yes" if entry["point"]["checkpointing"] else "no"
            rows.append([checkpointing, method, *cells, f"{kept:.2f}", f"{peak:.2f}"])
    header = ["checkpointing", "method", "weights, MiB", "kept by the forward pass", "peak above the weights"]
    return table([*header, "kept / SFT", "weights + peak / SFT"], rows)


def gpu(name: str = "gpu") -> str:
    """All of a record that was made on a GPU: gpu.json, or one of those that benchmarks/gpu.sh makes."""
    found = json.loads((RECORDS / f"{name}.json").read_text())
    base = found["points"][0]["point"]
    rows = []
    for entry in found["points"]:
        changed = [f"{key} {value}" for key, value in entry["point"].items() if value != base[key]]
        for method, figures in entry["methods"].items():
            if "failed" in figures:
                rows.append(
                    [", ".join(changed) or "the base", method, figures["failed"].split(".")[0], *["-"] * 4]
                )
                continue
            kept = figures["memory"]["kept_by_forward_bytes"] / MIB
            peak = figures["memory"]["step_peak_bytes"] / MIB
            cells = [
                f"{1000 * figures['seconds_median']:.0f}",
                *_over_sft(figures),
                f"{kept:.0f}",
                f"{peak:.0f}",
            ]
            rows.append([", ".join(changed) or "the base", method, *cells])
    figures_of = ["changed", "method", "ms", "ms / trl's SFT", "operations / trl's SFT"]
    header = [*figures_of, "kept by the forward pass, MiB", "peak, MiB"]
    return table(header, rows)


def _over_sft(figures: dict[str, Any]) -> list[str]:
    if f"seconds_over_{SFT}" not in figures:
        return ["-", "-"]
    return [f"{figures[f'seconds_over_{SFT}']:.2f}", f"{figures[f'flops_over_{SFT}']:.2f}"]


def conditions() -> str:
    """Where and how the records were made."""
    lines = []
    for path in sorted(RECORDS.glob("*.json")):
        found = json.loads(path.read_text())
        hardware, versions = found["hardware"], found["versions"]
        place = hardware["accelerator"] or f"{hardware['machine']}, {hardware['torch_threads']} thread"
        lines.append(f"* `{path.name}`: {place}; torch {versions['torch']}; `{found['command']}`")
    return "\n".join(lines)

"""Write the tables of docs/performance.md from docs/records/step-cost/*.json: `python docs/make_performance.py`."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
RECORDS = DOCS / "records" / "step-cost"
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


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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
    over = ["over trl's SFT", "operations over it", "over lambda 0", "operations over it"]
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
    return table(["method", "processor seconds", "over lambda 0", "operations over it"], rows)


def naive_seconds(entries: list[dict[str, Any]]) -> list[float]:
    """The naive way's processor seconds over IFT's, summed over batches, round by round: the middle, the extremes."""

    def of_rounds(method: str) -> list[float]:
        each = (entry["methods"][method]["processor_seconds"] for entry in entries)
        return [sum(batches) for batches in zip(*each, strict=True)]

    ratios = [naive / ift for naive, ift in zip(of_rounds(NAIVE), of_rounds(IFT), strict=True)]
    return [statistics.median(ratios), min(ratios), max(ratios)]


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


def gpu() -> str:
    """All of it on a GPU, where that was run."""
    path = RECORDS / "gpu.json"
    if not path.exists():
        return "Not run."
    found = json.loads(path.read_text())
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
    where = f"{found['hardware']['accelerator']}, {found['dtype']} weights, {found['model']['name']}, "
    where += f"{base['batch']} rows of {base['length']} tokens at the base."
    figures_of = ["changed", "method", "ms", "over trl's SFT", "operations over it"]
    header = [*figures_of, "kept by the forward pass, MiB", "peak, MiB"]
    return f"{where}\n\n{table(header, rows)}"


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


def claim() -> str:
    """What the README says of it."""
    points = record("operations")["points"]
    costs = {share: ratio(at(points, share=share), IFT, ZERO) for share in (0.1, 0.5, 0.9)}
    half = at(points)
    gpu = at(record("gpu")["points"])["methods"]["ift-full-prefix"][f"seconds_over_{ZERO}"]
    equal = [
        _mean_flops(name, "dpo") / _mean_flops(name, "ift") for name in ("compare-full", "compare-relation")
    ]
    pairs = ratio(half, "dpo", IFT)
    return (
        f"On a CPU a step of IFT takes {costs[0.5]:.2f} times the operations of SFT by the same trainer where half of\n"
        f"a row is answer, {costs[0.1]:.2f} where a tenth is: the prompt is run once for both. On a GPU a small\n"
        f"model waits for launches instead: {gpu:.2f} times the seconds (50 M parameters, an H100). DPO takes\n"
        f"{min(equal):.1f} to {max(equal):.1f} times IFT's operations for equal numbers of answers, {pairs:.1f} times\n"
        "where a pair counts as one. [Measured, and against the bound](docs/performance.md)."
    )


def _mean_flops(study: str, method: str) -> float:
    """Mean FLOPs of a method's runs in docs/records."""
    lines = (DOCS / "records" / f"{study}.jsonl").read_text().splitlines()
    found = [one["cost"]["flops"] for one in map(json.loads, lines) if one["method"] == method]
    return statistics.mean(found)


MAKERS = (claim, goals, shares, axes, gemma, seconds, compiled, memory, gpu, conditions)


def main() -> None:
    """Fill every `<!-- table: NAME -->` of the page and of the README."""
    makers = {maker.__name__: maker for maker in MAKERS}

    def filled(found: re.Match[str]) -> str:
        return f"{found[1]}\n{makers[found[2]]()}\n<!-- end of table -->"

    pattern = r"(<!-- table: (\w+) -->)\n.*?<!-- end of table -->"
    for page in (DOCS / "performance.md", DOCS.parent / "README.md"):
        page.write_text(re.sub(pattern, filled, page.read_text(), flags=re.DOTALL))


if __name__ == "__main__":
    main()

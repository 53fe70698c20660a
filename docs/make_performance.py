"""Write the tables of docs/performance.md from docs/records/step-cost/*.json: `python docs/make_performance.py`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
RECORDS = DOCS / "records" / "step-cost"
SFT, ZERO, IFT, FULL, NAIVE = "trl-sft", "ift-lambda-0", "ift", "ift-full-prefix", "naive-ift"
KEPT = "ift-kept-guesses"
EPOCHS = 3  # of the aim for kept guesses
BASE = {"lengths": "equal", "checkpointing": False, "lora": False, "packing": False, "vocabulary": None}
MIB = 2**20


def record(name: str) -> dict[str, Any]:
    """One record."""
    found: dict[str, Any] = json.loads((RECORDS / f"{name}.json").read_text())
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
    for entry in [*points, *record("operations-long")["points"][1:], *others]:
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
        for other in ("dpo", NAIVE):
            cells.append(f"{ratio(entry, other, IFT):.2f}" if other in entry["methods"] else "-")
        rows.append([what, *cells])
    over_zero, bound, naive = of_groups()
    name = "batch 4, mixed lengths, batches of like length"
    rows.append([name, f"{over_zero:.3f}", f"{bound:.3f}", "-", "-", f"{naive:.2f}"])
    return table(["changed", "IFT / lambda 0", "bound", "without sharing", "DPO / IFT", "naive / IFT"], rows)


def over_epochs(entry: dict[str, Any]) -> float:
    """Operations of `EPOCHS` epochs over lambda 0's, the first of them exact, the others with kept guesses."""
    return (ratio(entry, IFT, ZERO) + (EPOCHS - 1) * ratio(entry, KEPT, ZERO)) / EPOCHS


def of_groups() -> tuple[float, float, float]:
    """Over all batches of like length: IFT's operations over lambda 0's, the bound, and the naive way's over IFT's."""
    parts = [
        entry for entry in record("operations-grouped")["points"] if entry["point"]["lengths"] == "grouped"
    ]
    sums = {name: sum(entry["methods"][name]["flops"] for entry in parts) for name in (ZERO, IFT, NAIVE)}
    bound = sum(entry["least_flops_over_ift-lambda-0"] * entry["methods"][ZERO]["flops"] for entry in parts)
    return sums[IFT] / sums[ZERO], bound / sums[ZERO], sums[NAIVE] / sums[IFT]


def kept() -> str:
    """Operations with guesses kept, by the completion's share."""
    rows = []
    for entry in sorted(record("operations-kept")["points"], key=lambda entry: entry["point"]["share"]):
        cells = [ratio(entry, IFT, ZERO), ratio(entry, KEPT, ZERO), over_epochs(entry)]
        rows.append([f"{entry['point']['share']:.0%}", *(f"{cell:.3f}" for cell in cells)])
    return table(
        ["completion", "exact / lambda 0", "kept / lambda 0", f"{EPOCHS} epochs, the first exact"], rows
    )


def stale() -> str:
    """Agreement of later look-aheads with those of the first epoch, over seeds."""
    runs = json.loads((RECORDS.parent / "stale-guesses.json").read_text())["runs"]
    rows = []
    for setting in dict.fromkeys(run["setting"] for run in runs):
        some = [run for run in runs if run["setting"] == setting]
        for epoch in range(len(some[0]["right"])):
            right = [f"{100 * run['right'][epoch]:.1f}" for run in some]
            same = [f"{100 * run['same'][epoch][0]:.1f}" if epoch else "-" for run in some]
            last = [f"{100 * run['same'][epoch][-1]:.1f}" if epoch else "-" for run in some]
            rows.append([setting, str(epoch), *(", ".join(cells) for cells in (right, same, last))])
    header = ["setting", "epochs trained", "guesses that are the target, %, by seed"]
    return table([*header, "the same as before training, %", "the same as an epoch before, %"], rows)


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


def seconds() -> str:
    """Processor seconds of every method at the base point, and of IFT at other shares."""
    rows = []
    for name in ("seconds", "seconds-share"):
        for entry in record(name)["points"]:
            if name != "seconds" and entry["point"]["share"] == 0.5:
                continue
            for method, found in entry["methods"].items():
                cells = [f"{entry['point']['share']:.0%}", method, f"{found['processor_seconds_median']:.2f}"]
                for other in (SFT, ZERO):
                    low, high = found[f"processor_seconds_over_{other}_interval"]
                    middle = found[f"processor_seconds_over_{other}"]
                    cells += [
                        f"{middle:.2f} ({low:.2f} to {high:.2f})",
                        f"{found[f'flops_over_{other}']:.2f}",
                    ]
                rows.append(cells)
    over = ["over trl's SFT", "operations over it", "over lambda 0", "operations over it"]
    return table(["completion", "method", "processor seconds", *over], rows)


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
    """IFT's seconds over lambda 0's at every share that was timed: no more than the operations' ratio and 0.05."""
    timed = [record("seconds")["points"][0], *record("seconds-share")["points"][1:]]
    rows = []
    for entry in sorted(timed, key=lambda entry: entry["point"]["share"]):
        found = entry["methods"][IFT]
        low, high = found[f"processor_seconds_over_{ZERO}_interval"]
        aim = f"<= {ratio(entry, IFT, ZERO) + 0.05:.2f}"
        name = f"IFT / lambda 0, processor seconds, {entry['point']['share']:.0%} completion"
        rows.append([name, aim, f"{found[f'processor_seconds_over_{ZERO}']:.2f} ({low:.2f} to {high:.2f})"])
    return rows


def _gpu_aims() -> list[list[str]]:
    found = at(record("gpu")["points"])
    rows = []
    for name, way in (("ift-full-prefix", "as `auto` runs there"), (IFT, "with a shared prefix")):
        low, high = found["methods"][name][f"seconds_over_{ZERO}_interval"]
        measured = f"{found['methods'][name][f'seconds_over_{ZERO}']:.2f} ({low:.2f} to {high:.2f})"
        aim = f"<= {ratio(found, name, ZERO) + 0.05:.2f}"
        rows.append([f"IFT / lambda 0, seconds on an H100, 50% completion, {way}", aim, measured])
    return rows


def _naive_memory() -> str:
    methods = record("memory-mixed")["memory"][-1]["methods"]
    naive, ift = methods[NAIVE], methods[IFT]
    peaks = [found["held_bytes"] + found["step_peak_bytes"] for found in (naive, ift)]
    return f"{naive['kept_by_forward_bytes'] / ift['kept_by_forward_bytes']:.2f}; {peaks[0] / peaks[1]:.2f}"


def goals() -> str:
    """What was aimed at, and what the records say."""
    counted = [
        entry
        for name in ("operations", "operations-checkpointing", "operations-packing", "operations-long")
        for entry in record(name)["points"]
        if not entry["point"]["lora"]
    ]
    of_bound = [ratio(entry, IFT, ZERO) / entry["least_flops_over_ift-lambda-0"] for entry in counted]
    half, timed = at(record("operations")["points"]), at(record("seconds")["points"])
    mixed = record("operations-mixed")["points"][-1]
    plain = next(entry for entry in record("memory")["memory"] if not entry["point"]["checkpointing"])
    kept = ratio(plain, "dpo", IFT, "kept_by_forward_bytes")
    peaks = {
        name: figures["held_bytes"] + figures["step_peak_bytes"] for name, figures in plain["methods"].items()
    }
    work = "processor_seconds_over_"

    def seconds_over(one: str, other: str) -> str:
        return f"{timed['methods'][one][work + other]:.2f}"

    dpo = (
        timed["methods"]["dpo"]["processor_seconds_median"]
        / timed["methods"][IFT]["processor_seconds_median"]
    )
    rows = [
        ["IFT / lambda 0, operations, over the bound", "<= 1.03", f"{min(of_bound):.2f} to {max(of_bound):.2f}"],
        *_seconds_aims(),
        *_gpu_aims(),
        ["IFT / trl's SFT on a CPU, half completion: operations; seconds", "<= 0.92",
         f"{ratio(half, IFT, SFT):.2f}; {seconds_over(IFT, SFT)}"],
        ["lambda 0 / trl's SFT, the same", "<= 0.76", f"{ratio(half, ZERO, SFT):.2f}; {seconds_over(ZERO, SFT)}"],
        ["peak memory, IFT / lambda 0, without checkpointing", "<= 1.03", f"{peaks[IFT] / peaks[ZERO]:.2f}"],
        [f"kept guesses / lambda 0, operations, {EPOCHS} epochs, half completion", "<= 1.07",
         f"{over_epochs(at(record('operations-kept')['points'])):.2f}"],
        ["DPO / IFT at equal rows: seconds", ">= 1.9", f"{dpo:.2f}"],
        ["DPO / IFT: kept by the forward pass", ">= 1.8", f"{kept:.2f}"],
        ["naive / IFT on mixed lengths, rows as they come: operations", ">= 3", f"{ratio(mixed, NAIVE, IFT):.2f}"],
        ["naive / IFT on mixed lengths, batches of like length: operations", ">= 3", f"{of_groups()[2]:.2f}"],
        ["IFT / lambda 0 on them, over the bound", "<= 1.03", f"{of_groups()[0] / of_groups()[1]:.2f}"],
        ["naive / IFT on mixed lengths, memory: kept by the forward pass; weights and peak", ">= 3", _naive_memory()],
    ]  # fmt: skip
    return table(["figure", "aim", "measured"], rows)


def claim() -> str:
    """What the README says of it."""
    points = record("operations")["points"]
    costs = {share: ratio(at(points, share=share), IFT, ZERO) for share in (0.1, 0.5, 0.9)}
    half = at(points)
    gpu = at(record("gpu")["points"])["methods"]["ift-full-prefix"][f"seconds_over_{ZERO}"]
    return (
        f"* **{costs[0.5]:.2f} times the operations of SFT** by the same trainer where half of a row is answer, "
        f"{costs[0.1]:.2f} where a\n  tenth is: the prompt is run once for both passes. DPO takes "
        f"{ratio(half, 'dpo', IFT):.1f} times IFT's. On a GPU a small model waits\n  for launches instead: "
        f"{gpu:.2f} times the seconds (50 M parameters, an H100). "
        f"[Measured, and against\n  the bound](docs/performance.md)."
    )


MAKERS = (claim, goals, shares, axes, kept, stale, gemma, seconds, memory, gpu, conditions)


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

"""Cost of one training step: IFT against trl's SFT, the preference methods, and IFT as one would first write it.

    python benchmarks/step_cost.py [--quick] [--axes share length ...] [--memory] [--output x.json] [--plot x.png]

Operations are counted (the same each time: the figure to read), seconds measured in turn (A B C, A B C, ...) on the
same rows, memory of tensors counted too, on a CPU in a process of its own per figure. One axis is varied at a time,
from the base point. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from contestants import COMPILED, MAX_LENGTH, MODELS, PAIRS, PARTS, ROWS, Contestant, Model, Point
from figure import draw
from measure import counted_flops, first_step, memory_in_own_processes, seconds_of, summary

from ift.lab.report.provenance import provenance
from ift.step.model import evaluating

AXES: dict[str, tuple[Any, ...]] = {
    "share": (0.1, 0.3, 0.5, 0.7, 0.9),
    "length": (128, 256, 512, 1024, 2048),
    "batch": (1, 2, 4, 8),
    "vocabulary": (32000, 151936),
    "checkpointing": (False, True),
    "lora": (False, True),
    "packing": (False, True),
    "lengths": ("equal", "mixed"),
    "part": tuple(range(PARTS)),
}
QUICK = ("trl-sft", "ift-lambda-0", "ift", "naive-ift", "dpo")


def points_of(told: argparse.Namespace) -> list[Point]:
    """The base point, and from it every value of every axis asked for."""
    base = Point(batch=told.batch, length=told.length, checkpointing=told.checkpointing)
    points = [base]
    for axis in told.axes:
        values = getattr(told, f"{axis}_values", None) or AXES[axis]
        grouped = {"lengths": "grouped"} if axis == "part" else {}
        points += [replace(base, **{axis: value}, **grouped) for value in values]
    points = list(dict.fromkeys(points))
    return sorted(
        points, key=lambda point: (point.lora, point.vocabulary or 0)
    )  # those of one model together


def model_at(told: argparse.Namespace, point: Point) -> Model:
    """The sizes of the model at a point."""
    model = MODELS[told.model]
    return replace(model, vocabulary=point.vocabulary or model.vocabulary)


def least_ratio(contestant: Contestant, batch: dict[str, Any], point: Point) -> dict[str, float]:
    """Operations a token of body n and head h, and what exact IFT must cost at least, over SFT by the same trainer.

    1 + C (n + h) / (3 (P + C) n + 4 C h), with 4 in place of 3 under checkpointing; C tokens from the first trained one
    on, P before it.
    """
    model = contestant.model
    inner = model.get_base_model() if hasattr(model, "peft_config") else model
    inputs = {name: x for name, x in batch.items() if name != "labels"}
    with torch.no_grad(), evaluating(model):
        body = counted_flops(lambda: inner.base_model(**inputs, use_cache=False)) / batch["input_ids"].numel()
    head = 2 * inner.get_output_embeddings().weight.numel()
    trained, total = int((batch["labels"] != -100).sum()), batch["input_ids"].numel()
    sft = (4 if point.checkpointing else 3) * total * body + 4 * trained * head
    least = 1 + trained * (body + head) / sft
    return {"body_flops": body, "head_flops": head, "least_flops_over_ift-lambda-0": least}


def measured(contestants: dict[str, Contestant], point: Point, rounds: int) -> dict[str, Any]:
    """Every method's figures at one point."""
    names = point.methods(tuple(contestants))
    present = {name: contestants[name] for name in names}
    for contestant in present.values():
        contestant.set_checkpointing(point.checkpointing)
    batches = {name: contestant.batch(point) for name, contestant in present.items()}
    first = {name: first_step(contestant, batches[name]) for name, contestant in present.items()}
    works = {name: contestant for name, contestant in present.items() if "failed" not in first[name]}
    if set(works) & set(COMPILED):
        torch._dynamo.reset()  # under the counter nothing was compiled, nor would it be later
    seconds = seconds_of(works, batches, rounds)
    tokens = {name: tokens_of(batches[name]) for name in works}
    bound = least_ratio(works["ift"], batches["ift"], point) if "ift" in works else {}
    return {"point": asdict(point), **bound, "methods": summary(first, seconds, tokens)}


def tokens_of(batch: dict[str, Any]) -> int:
    """Tokens of a batch, padding not counted; of both sides of a pair."""
    masks = [x for name, x in batch.items() if name.endswith("attention_mask")]
    return int(sum(mask.sum() for mask in masks)) if masks else batch["input_ids"].numel()


def main() -> None:
    """Measure, print, write, draw."""
    told = arguments()
    if told.threads:
        torch.set_num_threads(told.threads)
    began = time.monotonic()
    points = points_of(told)
    longest = max(MAX_LENGTH, *(point.length for point in points))
    record = {
        **asdict(provenance()),
        "command": " ".join(["python", "benchmarks/step_cost.py", *sys.argv[1:]]),
        "device": told.device,
        "dtype": told.dtype,
        "rounds": told.rounds,
        "model": {"name": told.model, **asdict(MODELS[told.model])},
        "memory": memory(told, points, longest) if told.memory else [],
        "points": [],
        "left_out": [],
    }
    made: tuple[Any, dict[str, Contestant]] = (None, {})
    for point in [] if told.memory else points:
        if told.limit_seconds and time.monotonic() - began > told.limit_seconds:
            record["left_out"].append(asdict(point))
            continue
        model = model_at(told, point)
        if made[0] != (model, point.lora):
            made[1].clear()
            names = point.methods(tuple(told.methods))
            made = (
                (model, point.lora),
                {name: Contestant(name, model, point, told.device, told.dtype, longest) for name in names},
            )
        record["points"].append(measured(made[1], point, told.rounds))
        print(f"{time.monotonic() - began:6.0f} s  {point}", file=sys.stderr, flush=True)
        write(record, told)
    print(json.dumps(record, indent=1))
    write(record, told)


def write(record: dict[str, Any], told: argparse.Namespace) -> None:
    """The files asked for; after every point, so that a run that is stopped leaves what it has."""
    if told.output:
        Path(told.output).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if told.plot:
        draw(record, Path(told.plot))


def memory(told: argparse.Namespace, points: list[Point], longest: int) -> list[dict[str, Any]]:
    """Memory of every method at every point."""
    found = []
    for point in points:
        about = {
            "model": asdict(model_at(told, point)),
            "point": asdict(point),
            "device": told.device,
            "dtype": told.dtype,
            "longest": longest,
            "threads": max(1, torch.get_num_threads() // told.workers),
        }
        methods = memory_in_own_processes(point.methods(tuple(told.methods)), about, told.workers)
        found.append({"point": asdict(point), "methods": methods})
    return found


def make_parser() -> argparse.ArgumentParser:
    """The command line's."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="a tiny model, two rounds, some axes: does it run?")
    add("--device", default="cpu", choices=("cpu", "cuda"))
    add("--dtype", default="float32", choices=("float32", "bfloat16"), help="of the weights")
    add("--model", default="even", choices=MODELS)
    usual = [name for name in ROWS if name != "ift-shared-prefix"]  # it is what "ift" does on a CPU
    add("--methods", nargs="+", default=[*usual, *PAIRS], choices=(*ROWS, *COMPILED, *PAIRS))
    add("--batch", type=int, default=4, help="rows, of the base point")
    add("--length", type=int, default=256, help="tokens of a row, of the base point; half are completion")
    add("--axes", nargs="*", default=["share"], choices=AXES, help="what is varied from the base point")
    add("--share_values", nargs="+", type=float)
    add("--length_values", nargs="+", type=int)
    add("--batch_values", nargs="+", type=int)
    add("--vocabulary_values", nargs="+", type=int)
    add("--checkpointing", action="store_true", help="at the base point")
    add("--rounds", type=int, default=7, help="of seconds; 0: operations alone")
    add(
        "--memory",
        action="store_true",
        help="memory too, in processes of their own (on CUDA it always is measured)",
    )
    add("--workers", type=int, default=1, help="processes at once that measure memory")
    add("--threads", type=int, help="of torch; default: torch's own")
    add("--limit_seconds", type=float, help="begin no point after that; the record names those left out")
    add("--output", help="write the JSON there as well")
    add("--plot", help="draw a PNG there")
    return parser


def arguments() -> argparse.Namespace:
    """The command line."""
    told = make_parser().parse_args()
    if told.quick:
        told.model, told.batch, told.length, told.rounds = "tiny", 2, 64, 2
        told.axes, told.methods = ["checkpointing"], list(QUICK)
    return told


if __name__ == "__main__":
    main()

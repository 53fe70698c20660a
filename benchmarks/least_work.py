"""From which size on does a shared prefix save time? Steps of `ift_loss` with both ways, over widths and batches.

    python benchmarks/least_work.py [--output x.json]

Llama models without trained weights, half of each row is answer. The processor's time is taken (on a GPU: the clock's),
the least of `ROUNDS` steps after one that is not counted, the two ways in turn. Prints JSON, one line a point, with the
work of a launch: tokens of the batch times parameters of a layer (`ift.step.shared_prefix.work`).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ift.step import ift_loss
from ift.step.shared_prefix.work import layer_parameters

WIDTHS = ((32, 8), (64, 8), (64, 24), (128, 8), (256, 6), (512, 4))  # width, layers
BATCHES = ((1, 64), (4, 64), (8, 128), (8, 256))  # rows, tokens
ROUNDS, VOCABULARY, MOST_WORK = 4, 4096, 4e9


def model_of(width: int, layers: int) -> Any:
    """A Llama model with heads of 32."""
    torch.manual_seed(0)
    heads = max(1, width // 32)
    config = LlamaConfig(
        hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=heads, vocab_size=VOCABULARY,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def seconds(model: Any, rows: int, length: int) -> dict[str, float]:
    """Of the fastest step with each way."""
    ids = torch.randint(5, VOCABULARY, (rows, length), device=model.device)
    labels = torch.where(torch.arange(length, device=model.device) < length // 2, -100, ids)
    taken: dict[str, list[float]] = {"full": [], "shared": []}
    clock = time.process_time if model.device.type == "cpu" else time.perf_counter
    for _ in range(1 + ROUNDS):
        for way, found in taken.items():
            begin = clock()
            ift_loss(model, {"input_ids": ids, "labels": labels}, lookahead_prefix=way).loss.backward()
            if model.device.type != "cpu":
                torch.accelerator.synchronize()
            found.append(clock() - begin)
            model.zero_grad()
    return {way: min(found[1:]) for way, found in taken.items()}


def main() -> None:
    """Prints a line for each point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    lines = []
    for width, layers in WIDTHS:
        model = model_of(width, layers).to(args.device)
        for rows, length in BATCHES:
            work = rows * length * layer_parameters(model)
            if work > MOST_WORK:
                continue
            found = seconds(model, rows, length)
            point = {
                "width": width,
                "layers": layers,
                "rows": rows,
                "tokens": length,
                "work": float(f"{work:.2e}"),
            }
            point |= {way: round(value, 4) for way, value in found.items()}
            lines.append(json.dumps(point | {"ratio": round(found["shared"] / found["full"], 2)}))
            print(lines[-1], flush=True)
    if args.output:
        args.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

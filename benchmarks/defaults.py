"""The defaults that `ift train` takes from trl, one changed at a time, on the testbed's word problems.

`python benchmarks/defaults.py --seeds 3 --output defaults.jsonl` trains IFT on 400 rows for two epochs as `ift train`
does (but for the learning rate: that of trl suits far larger models) and writes one line a run: exact match on 500
problems, and the share
of the answers that end.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from ift.files import numbered_lines
from ift.lab.report.provenance import provenance
from ift.lab.testbed import problems, tiny_base_path
from ift.lab.testbed.scoring import score
from ift.runs import train_method

AS_IT_IS = {
    "learning_rate": 1e-4,
    "num_train_epochs": 2,
    "save_strategy": "no",
    "gradient_checkpointing": False,
}
CHANGES = {
    "as it is, rate 1e-4": {},
    "learning_rate 2e-5 (trl's)": {"learning_rate": 2e-5},
    "warmup_steps 0.1": {"warmup_steps": 0.1},
    "loss_reduction token": {"loss_reduction": "token"},
    "bf16": {"bf16": True},
}


def main() -> None:
    """Train and score every change with every seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--output", type=Path, required=True, help="JSON lines; what stands there is not done again."
    )
    args = parser.parse_args()
    done = [json.loads(line) for _, line in numbered_lines(args.output)] if args.output.exists() else []
    known = {(one["name"], one["seed"]) for one in done}
    test = problems("test", 500)
    for seed in range(args.seeds):
        rows = [problem.row for problem in problems("train", 400, seed)]
        for name, change in CHANGES.items():
            if (name, seed) in known:
                continue
            with tempfile.TemporaryDirectory() as folder:
                train_method("ift", tiny_base_path(), rows, folder, {**AS_IT_IS, **change, "seed": seed})
                model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
                found = score(model, AutoTokenizer.from_pretrained(folder), test)
            record = {
                "name": name,
                "seed": seed,
                "exact_match": found.exact_match,
                "stopped": found.stopped,
                **asdict(provenance()),
            }
            with args.output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()

"""How long a guess stays the model's guess: its look-aheads before every epoch, each against all earlier ones.

    python benchmarks/stale_guesses.py [--setting arithmetic-small-clean ...] [--seeds 3] [--output x.json]

IFT as `ift compare` trains it on the testbed, from the family's base. Prints JSON: for every setting and seed the share
of guesses that are the target before epoch e, `right[e]`, and that are those from before epoch f, `same[e][f]`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from ift.baselines.train import train_method
from ift.compare.plan import Entrant, stage_settings
from ift.functional import row_layout
from ift.report.provenance import provenance
from ift.residual import Step
from ift.testbed import base_path
from ift.testbed.settings import setting_problems, settings

BATCH = 32


class Guesses(TrainerCallback):
    """Makes the look-ahead of every row before each epoch, and behind the last one."""

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.found, self.targets = trainer, [], torch.zeros(0)

    @torch.no_grad()
    def look(self) -> None:
        """At all rows, in their order."""
        rows, guesses, targets = self.trainer.train_dataset, [], []
        for start in range(0, len(rows), BATCH):
            some = [rows[i] for i in range(start, min(start + BATCH, len(rows)))]
            batch = self.trainer._prepare_inputs(self.trainer.data_collator(some))
            trained = row_layout(batch["labels"], batch.get("attention_mask")).trained
            scores = self.trainer.model(**batch, ift_step=Step(mixed_pass=False))
            guesses.append(scores.lookahead_ids[trained])
            targets.append(batch["labels"][trained])
        self.found.append(torch.cat(guesses))
        self.targets = torch.cat(targets)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look."""
        self.look()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look for the last time."""
        self.look()

    def shares(self) -> dict[str, Any]:
        """Of the target, and of every earlier look."""
        return {
            "right": [(guess == self.targets).double().mean().item() for guess in self.found],
            "same": [
                [(guess == earlier).double().mean().item() for earlier in self.found[:number]]
                for number, guess in enumerate(self.found)
            ],
        }


def measured(name: str, seed: int, rate: float, epochs: int) -> dict[str, Any]:
    """One training of one setting."""
    setting, entrant = settings()[name], Entrant("ift")
    rows = [{"messages": problem.messages} for problem in setting_problems(setting, seed)]
    watchers: list[Guesses] = []

    def attach(trainer: Any) -> None:
        watchers.append(Guesses(trainer))
        trainer.add_callback(watchers[0])

    told = {**stage_settings(entrant, {"learning_rate": rate}, {}), "num_train_epochs": epochs, "seed": seed}
    with tempfile.TemporaryDirectory() as folder:
        train_method("ift", base_path(setting.family), rows, folder, told, attach=attach)
    return {"setting": name, "seed": seed, "learning_rate": rate, **watchers[0].shares()}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--setting", nargs="+", default=["arithmetic-small-clean", "relation-small-clean"], choices=settings()
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--output", help="write the JSON there as well")
    told = parser.parse_args()
    record = {
        **asdict(provenance()),
        "command": " ".join(["python", "benchmarks/stale_guesses.py", *sys.argv[1:]]),
        "runs": [
            measured(name, seed, told.learning_rate, told.epochs)
            for name in told.setting
            for seed in range(told.seeds)
        ],
    }
    text = json.dumps(record, indent=1)
    print(text)
    if told.output:
        Path(told.output).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Where does IFT help? Contenders against SFT on the testbed, in several regimes (docs/regimes.md).

`python experiments/regimes/run.py --regime few --seeds 8 --output few.jsonl` trains every contender with every seed and
adds a line for each run: which answers to `test` and `longer` problems are right, after a part of the steps and at the
end. All contenders have one learning rate, so nothing is searched. A run whose line is there is not trained again:
after Ctrl-C or a kill the same command resumes. `python experiments/regimes/run.py --pack few.jsonl noisy.jsonl
--output docs/records/regimes.jsonl` writes the record that docs/fill_tables.py reads.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ift.files import numbered_lines
from ift.lab.report import provenance
from ift.lab.testbed import base_path, families, setting_problems, settings
from ift.lab.testbed.scoring import final_answer, generate_answers, score
from ift.runs import train_method

BATCH, PROBLEMS, FIRST_SEED = 16, 300, 20  # no earlier study has the seeds from 20 on
CONTENDERS: dict[str, tuple[str, dict[str, Any]]] = {  # label -> method, settings beyond the regime's
    "sft": ("sft", {}),
    "ift": ("ift", {}),
    "ift as released": ("ift", {"propagation_detach": "none"}),
    "ift residual only": ("ift", {"propagation": "none"}),
    "random-residual": ("random-residual", {}),
    "neftune": ("neftune", {}),
    "sft-dropout": ("sft-dropout", {}),
    "label-smoothing": ("label-smoothing", {}),
    "flooding": ("flooding", {"flooding_level": 0.1, "flooding_over": "token"}),
    "sft 4/3 of the steps": ("sft", {}),
}


@dataclass(frozen=True)
class Regime:
    """What the contenders are trained on.

    Attributes:
        setting: Of the testbed.
        rows: The first so many of the setting's rows.
        steps: Of `BATCH` rows.
        early: The step after which a first score is taken.
        sampled: Whether answers drawn at temperature 1 are scored too, at the end.
        learning_rate: The same for all.
    """

    setting: str = "arithmetic-small-clean"
    rows: int = 48
    steps: int = 72
    early: int = 24
    sampled: bool = False
    learning_rate: float = 5e-5


REGIMES = {
    "few": Regime(),
    "many": Regime(rows=400, steps=100, early=25, sampled=True),
    "noisy": Regime(setting="arithmetic-small-noisy", rows=400, steps=100, early=25),
    "relation": Regime(setting="relation-small-clean", rows=400, steps=100, early=25),
}


class ScoreAt(TrainerCallback):
    """Scores the model after a step."""

    def __init__(self, step: int, family: str, tokenizer: Any, into: dict[str, Any]) -> None:
        self.step, self.family, self.tokenizer, self.into = step, family, tokenizer, into

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Scores once."""
        if state.global_step == self.step:
            self.into["early"] = right_answers(model, self.tokenizer, self.family)


def right_answers(
    model: Any, tokenizer: Any, family: str, sampling_seed: int | None = None
) -> dict[str, str]:
    """For each split a text of `1` and `0`, one for each problem: whether the answer is right."""
    found = {}
    for split in ("test", "longer"):
        problems = families.family_problems(family, split, PROBLEMS)
        if sampling_seed is None:
            answers = score(model, tokenizer, problems).answers
        else:
            prompts = [one.messages[:1] for one in problems]
            answers = generate_answers(model, tokenizer, prompts, sampling_seed=sampling_seed)[0]
        right = (final_answer(text) == one.answer for text, one in zip(answers, problems, strict=True))
        found[split] = "".join("01"[one] for one in right)
    return found


def run(label: str, regime: Regime, seed: int) -> dict[str, Any]:
    """Trains one contender with one seed, and scores it."""
    method, changes = CONTENDERS[label]
    setting = replace(settings()[regime.setting])
    rows = [one.row for one in setting_problems(setting, seed)[: regime.rows]]
    steps = math.ceil(regime.steps * 4 / 3) if "4/3" in label else regime.steps
    fixed = {
        "learning_rate": regime.learning_rate, "max_steps": steps, "per_device_train_batch_size": BATCH, "seed": seed,
        "lr_scheduler_type": "cosine", "warmup_steps": 0.1, "max_length": 512, "save_strategy": "no",
        "disable_tqdm": True, "logging_steps": 10,
    }  # fmt: skip
    found: dict[str, Any] = {}
    trainers: list[Any] = []

    def attach(trainer: Any) -> None:
        trainers.append(trainer)
        trainer.add_callback(ScoreAt(regime.early, setting.family, trainer.processing_class, found))

    with tempfile.TemporaryDirectory() as folder:
        train_method(method, base_path(setting.family), rows, folder, fixed | changes, attach=attach)
    trainer = trainers[0]
    found["end"] = right_answers(trainer.model, trainer.processing_class, setting.family)
    if regime.sampled:
        found["sampled"] = right_answers(
            trainer.model, trainer.processing_class, setting.family, 1_000 + seed
        )
    return found


def lines_of(file: Path) -> list[dict[str, Any]]:
    """The runs in a file; none if it is not there."""
    return [json.loads(line) for _, line in numbered_lines(file)] if file.exists() else []


def pack(files: list[Path], output: Path) -> None:
    """Writes the record of the study: right answers of each run, and the settings once for each regime."""
    lines, described = [], set()
    for one in (line for file in files for line in lines_of(file)):
        right = {
            when: {split: bits.count("1") for split, bits in of.items()} for when, of in one["right"].items()
        }
        line = {"regime": one["regime"], "contender": one["contender"], "seed": one["seed"], "right": right}
        if one["regime"] not in described:
            described.add(one["regime"])
            line |= {name: one[name] for name in (*asdict(Regime()), "provenance")} | {"n": PROBLEMS}
        lines.append(json.dumps(line, separators=(",", ":")) + "\n")
    output.write_text("".join(lines), encoding="utf-8")


def main() -> None:
    """Trains what is missing, or packs files of runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pack", type=Path, nargs="+", help="Files of runs to pack; nothing is trained.")
    parser.add_argument("--regime", choices=REGIMES)
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="Labels, separated by commas.")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    if args.pack:
        pack(args.pack, args.output)
        return
    regime = REGIMES[args.regime]
    done = {(one["contender"], one["seed"]) for one in lines_of(args.output)}
    for seed in range(FIRST_SEED, FIRST_SEED + args.seeds):
        for label in args.contenders.split(","):
            if (label, seed) in done:
                continue
            line = {"regime": args.regime, **asdict(regime), "contender": label, "seed": seed}
            line |= {"right": run(label, regime, seed), "provenance": asdict(provenance())}
            with args.output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(f"{label}, seed {seed}: done", flush=True)


if __name__ == "__main__":
    main()

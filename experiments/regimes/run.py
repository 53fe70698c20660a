"""Where does IFT help? Contenders against SFT on the testbed, in several regimes (docs/regimes.md).

`python experiments/regimes/run.py --regime few --seeds 8 --output few.jsonl` trains every contender with every seed and
adds a line for each run: which answers to `test` and `longer` problems are right, after a part of the steps and at the
end. All contenders have one learning rate, so nothing is searched. A run whose line is there is not trained again:
after Ctrl-C or a kill the same command resumes. `python experiments/regimes/run.py --pack few.jsonl noisy.jsonl
--output docs/records/regimes.jsonl` writes the record that docs/fill_tables.py reads. `--contenders "sft,sft early
stopping"` names others than those of `CONTENDERS`.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from contenders import CONTENDERS, VARIANTS, Contender
from transformers import TrainerCallback

from ift.files import numbered_lines
from ift.generation.decoding import continue_prompts
from ift.lab.report import provenance
from ift.lab.testbed import base_path, families, setting_problems, settings
from ift.lab.testbed.problems import LARGEST
from ift.lab.testbed.scoring import generate_answers, right_answers, score
from ift.runs import train_method

BATCH, PROBLEMS, FIRST_SEED = 16, 300, 20  # no earlier study has the seeds from 20 on
VALIDATION, CHECKS = 100, 6  # of early stopping: problems scored, and how often, the last step included


@dataclass(frozen=True)
class Regime:
    """What the contenders are trained on.

    Attributes:
        setting: Of the testbed.
        rows: The first so many of the setting's rows.
        steps: Of `BATCH` rows.
        early: The step after which a first score is taken; 0: none.
        curve: More steps after which scores are taken, for a learning curve. A contender with 4/3 of the steps is
            scored after 4/3 as many, so that this SFT and IFT are scored at equal FLOPs.
        sampled: Whether answers drawn at temperature 1 are scored too, at the end.
        planted: Whether answers that go on after a wrong first line are scored too, at the end.
        learning_rate: The same for all.
        optim: Of transformers.
        rounded: Whether the weights are rounded to bfloat16 after each step, as where a model is trained in bfloat16.
        after_sft: Whether all start from the base after SFT with as many steps on as many other rows.
    """

    setting: str = "arithmetic-small-clean"
    rows: int = 48
    steps: int = 72
    early: int = 24
    curve: tuple[int, ...] = ()
    sampled: bool = False
    planted: bool = False
    learning_rate: float = 5e-5
    optim: str = "adamw_torch_fused"
    rounded: bool = False
    after_sft: bool = False


CURVE = (10, 20, 40, 60)
REGIMES = {
    "few": Regime(),
    "30 rows": Regime(rows=30, steps=80, early=0, curve=CURVE),  # 40 passes
    "60 rows": Regime(rows=60, steps=80, early=0, curve=CURVE),  # 20
    "120 rows": Regime(rows=120, steps=80, early=0, curve=CURVE),  # 10
    "many": Regime(rows=400, steps=100, early=25, sampled=True),
    "noisy": Regime(setting="arithmetic-small-noisy", rows=400, steps=100, early=25),
    "relation": Regime(setting="relation-small-clean", rows=400, steps=100, early=25),
    "good": Regime(rows=400, steps=100, early=25, after_sft=True),
    "planted": Regime(rows=400, steps=100, early=25, planted=True),
    # the paper's optimiser, and its rate relative to the weights (5e-7 at 0.02; these have 0.055); then ten times that
    "rounded": Regime(rows=400, steps=100, early=25, optim="rmsprop", learning_rate=1.5e-6, rounded=True),
    "rounded, fast": Regime(
        rows=400, steps=100, early=25, optim="rmsprop", learning_rate=1.5e-5, rounded=True
    ),
    "not rounded": Regime(
        rows=400, steps=100, early=25, optim="rmsprop", learning_rate=1.5e-5
    ),  # their control
}


class CalledAt(TrainerCallback):
    """Calls a function with a moment's name, the model and the tokenizer after its step."""

    def __init__(self, moments: dict[str, int], tokenizer: Any, function: Callable[[str, Any, Any], None]):
        self.moments, self.tokenizer, self.function = moments, tokenizer, function

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Calls it once for each moment."""
        for name, step in self.moments.items():
            if state.global_step == step:
                self.function(name, model, self.tokenizer)


class KeepsBest(TrainerCallback):
    """Early stopping: the model ends with the weights of the step that scored best, the first of equals."""

    def __init__(self, steps: set[int], tokenizer: Any, score: Callable[[Any, Any], float]) -> None:
        self.steps, self.tokenizer, self.score = steps, tokenizer, score
        self.best, self.step = -math.inf, 0
        self.weights: dict[str, torch.Tensor] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Scores, and keeps a copy of the weights if they are the best so far."""
        if state.global_step in self.steps and (value := self.score(model, self.tokenizer)) > self.best:
            self.best, self.step = value, state.global_step
            self.weights = {name: one.detach().clone() for name, one in model.state_dict().items()}

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Restores the best weights."""
        model.load_state_dict(self.weights)
        print(f"early stopping: step {self.step} of {state.global_step} is the best, {self.best:.1%}")


class RoundsWeights(TrainerCallback):
    """Rounds the weights to bfloat16 before training and after each step; a step below half a unit is lost."""

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Rounds in place."""
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.bfloat16())

    def on_optimizer_step(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        """Rounds in place."""
        self.on_train_begin(args, state, control, model)


def right_by_split(
    model: Any, tokenizer: Any, family: str, *, sampling_seed: int | None = None, planted: bool = False
) -> dict[str, str]:
    """For each split a text of `1` and `0`, one for each problem: whether the answer is right."""
    found = {}
    for split in ("test", "longer"):
        problems = families.family_problems(family, split, PROBLEMS)
        if planted:
            answers = answers_after_an_error(model, tokenizer, problems)
        elif sampling_seed is None:
            answers = score(model, tokenizer, problems).answers
        else:
            prompts = [one.messages[:1] for one in problems]
            answers = generate_answers(model, tokenizer, prompts, sampling_seed=sampling_seed)[0]
        found[split] = "".join("01"[one] for one in right_answers(problems, answers))
    return found


def answers_after_an_error(model: Any, tokenizer: Any, problems: Any) -> list[str]:
    """What the model writes after a first line whose result is wrong by one: a right answer has come back from it."""
    starts = []
    for one in problems:
        first = one.steps[0]
        line = str(replace(first, result=first.result + (1 if first.result < LARGEST else -1)))
        prompt = tokenizer.apply_chat_template(one.messages[:1], tokenize=False, add_generation_prompt=True)
        starts.append(f"{prompt}{line} {one.unit}\n")
    ids = tokenizer(starts, add_special_tokens=False)["input_ids"]
    found = continue_prompts(model, ids, {tokenizer.eos_token_id}, tokenizer.pad_token_id, max_new_tokens=96)
    return [tokenizer.decode(one.ids, skip_special_tokens=True) for one in found]


def run(contender: Contender, regime: Regime, seed: int, starts: Path) -> dict[str, Any]:
    """Trains one contender with one seed, and scores it; `starts` is a folder for what regimes start from."""
    found: dict[str, Any] = {}
    family = settings()[regime.setting].family

    def during(when: str, model: Any, tokenizer: Any) -> None:
        found[when] = right_by_split(model, tokenizer, family)

    model, tokenizer = trained(contender, regime, seed, starts, during)
    found["end"] = right_by_split(model, tokenizer, family)
    if regime.sampled:
        found["sampled"] = right_by_split(model, tokenizer, family, sampling_seed=1_000 + seed)
    if regime.planted:
        found["planted"] = right_by_split(model, tokenizer, family, planted=True)
    return found


def trained(
    contender: Contender, regime: Regime, seed: int, starts: Path, during: Callable[[str, Any, Any], None]
) -> tuple[Any, Any]:
    """The model and tokenizer after training; `during` is called with `early` or `step N` and both at these steps."""
    setting = settings()[regime.setting]
    base = str(base_path(setting.family))
    if regime.after_sft:
        base = str(starts / f"{regime.setting}-{seed}")
        if not Path(base, "config.json").exists():
            other = [one.row for one in setting_problems(setting, seed + 1_000)[: regime.rows]]
            train_method("sft", base_path(setting.family), other, base, fixed_settings(regime, seed))
    rows = [one.row for one in setting_problems(setting, seed)[: regime.rows]]
    given = fixed_settings(regime, seed) | contender.settings
    given["max_steps"] = math.ceil(regime.steps * contender.more_steps)
    given["learning_rate"] *= contender.faster
    trainers: list[Any] = []

    def attach(trainer: Any) -> None:
        trainers.append(trainer)
        tokenizer, steps = trainer.processing_class, given["max_steps"]
        curve = {f"step {step}": math.ceil(step * contender.more_steps) for step in regime.curve}
        trainer.add_callback(CalledAt({"early": regime.early, **curve}, tokenizer, during))
        if contender.best_step:
            problems = families.family_problems(setting.family, "validation", VALIDATION)
            checked = {math.ceil(steps * part / CHECKS) for part in range(1, CHECKS + 1)}
            trainer.add_callback(
                KeepsBest(checked, tokenizer, lambda *model: score(*model, problems).exact_match)
            )
        if regime.rounded:
            trainer.add_callback(RoundsWeights())
        if contender.change is not None:
            contender.change(trainer)

    with tempfile.TemporaryDirectory() as folder:
        train_method(contender.method, base, rows, folder, given, attach=attach)
    return trainers[0].model, trainers[0].processing_class


def fixed_settings(regime: Regime, seed: int) -> dict[str, Any]:
    """What is the same for all contenders."""
    return {
        "learning_rate": regime.learning_rate, "max_steps": regime.steps, "per_device_train_batch_size": BATCH,
        "seed": seed, "optim": regime.optim, "lr_scheduler_type": "cosine", "warmup_steps": 0.1, "max_length": 512,
        "save_strategy": "no", "disable_tqdm": True, "logging_steps": 10,
    }  # fmt: skip


def lines_of(file: Path) -> list[dict[str, Any]]:
    """The runs in a file; none if it is not there."""
    return [json.loads(line) for _, line in numbered_lines(file)] if file.exists() else []


def pack(files: list[Path], output: Path) -> None:
    """Adds the runs of `files` to the record of the study, which has a line for each contender of a regime.

    Of each run it keeps how many answers are right, by moment and split, in the order of `seeds`. The settings stand
    once for each regime, with its first contender.
    """
    found = {(one["regime"], one["contender"]): one for one in lines_of(output)}
    described = {regime for regime, _ in found}
    for one in (line for file in files for line in lines_of(file)):
        line = found.setdefault(
            (one["regime"], one["contender"]),
            {"regime": one["regime"], "contender": one["contender"], "seeds": [], "right": {}},
        )
        if one["regime"] not in described:
            described.add(one["regime"])
            line |= {name: one[name] for name in (*asdict(Regime()), "provenance") if name in one}
            line["n"] = PROBLEMS
        if one["seed"] in line["seeds"]:
            continue
        line["seeds"].append(one["seed"])
        for when, of in one["right"].items():
            for split, bits in of.items():
                line["right"].setdefault(when, {}).setdefault(split, []).append(bits.count("1"))
    output.write_text(
        "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in found.values()), encoding="utf-8"
    )


def main() -> None:
    """Trains what is missing, or packs files of runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pack", type=Path, nargs="+", help="Files of runs to pack; nothing is trained.")
    parser.add_argument("--regime", choices=REGIMES)
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="Labels, separated by commas.")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--first_seed", type=int, default=FIRST_SEED)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    if args.pack:
        pack(args.pack, args.output)
        return
    regime = REGIMES[args.regime]
    starts = args.output.with_suffix(".starts")
    done = {(one["regime"], one["contender"], one["seed"]) for one in lines_of(args.output)}
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        for label in args.contenders.split(","):
            if (args.regime, label, seed) in done:
                continue
            begin = time.perf_counter()
            line = {"regime": args.regime, **asdict(regime), "contender": label, "seed": seed}
            line |= {"right": run((CONTENDERS | VARIANTS)[label], regime, seed, starts)}
            line |= {"provenance": asdict(provenance())}
            with args.output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(f"{args.regime}, {label}, seed {seed}: {time.perf_counter() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()

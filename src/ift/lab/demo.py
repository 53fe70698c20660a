"""`ift demo`: the included base model, SFT and IFT on the same rows, all scored on held-out problems."""

import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from tqdm import tqdm
from transformers import TrainerCallback

from ift.files import numbered_lines
from ift.lab.compare.estimate import FORWARDS, span
from ift.runs.extras import missing_extra
from ift.text import visible
from ift.training.checkpoints import Stopped

TRAIN_ROWS, VALIDATION_ROWS, TEST_ROWS = 400, 200, 500
LEARNING_RATES = ("3e-4", "1e-3")  # each method uses the one that scores best on validation
EPOCHS, BATCH = 2, 16
SMALLER = "ift demo --train_rows 64 --test_rows 50"
MEASURED_STEPS = 4  # of the first training, after which the time of the whole demo is said
SETTINGS = [f"--num_train_epochs={EPOCHS}", f"--per_device_train_batch_size={BATCH}", "--max_length=256"]
SETTINGS += ["--lr_scheduler_type=cosine", "--warmup_steps=0.1", "--logging_steps=10", "--save_strategy=no"]
SETTINGS += ["--gradient_checkpointing=false", "--loss_reduction=sequence", "--final_answers=0"]
METHODS = {"sft": ["--residual_lambda=0", "--propagation=none"], "ift": []}  # IFT: the paper's defaults


def main(output_dir: str, seed: int, train_rows: int | None, test_rows: int | None) -> int:
    """Run the demo; returns the exit code. All its files, `record.json` among them, are in `output_dir`."""
    from ift.lab.testbed import problems, tiny_base_path

    out, console = Path(output_dir).expanduser(), Console(highlight=False)
    out.mkdir(parents=True, exist_ok=True)
    train = problems("train", train_rows or TRAIN_ROWS, seed)
    test = problems("test", test_rows or TEST_ROWS)
    validation = problems("validation", min(VALIDATION_ROWS, len(test)))
    rows = out / "train.jsonl"
    rows.write_text("".join(json.dumps(problem.row) + "\n" for problem in train))
    base = str(tiny_base_path())
    console.print(
        f"A tiny base model, {len(train)} word problems with solutions to train on, {len(test)} to test; seed {seed}."
    )
    console.print(what_follows(len(train), len(validation), len(test)))

    began = time.monotonic()
    results = {"base": _scored(base, test, "base")}
    estimate = TimeEstimate(time.monotonic() - began, len(train), len(validation), len(test))
    for method, flags in METHODS.items():
        console.rule(method.upper())
        try:
            settings = [*SETTINGS, *flags, f"--seed={seed}"]
            results[method] = _best(base, rows, out, method, settings, validation, estimate)
        except Stopped as stop:
            console.print("stopped: the next demo starts from scratch", markup=False)
            return stop.code
        results[method] |= _scored(str(out / results[method]["folder"]), test, method)

    console.rule("Results")
    _table(console, results)
    difference, low, high = paired_difference(results["ift"]["right"], results["sft"]["right"])
    console.print(
        f"IFT - SFT, paired over problems: {difference:+.1%} (95 % interval {low:+.1%} to {high:+.1%}). "
        "One seed: training noise is not in the interval."
    )
    _samples(console, results, test)
    hint = missing_extra("report", "matplotlib")
    if hint:
        console.print(f"curves.png was not drawn: {hint}", markup=False)
    else:
        curves(out, {method: results[method]["folder"] for method in METHODS})
    _write_record(out, results, seed, (len(train), len(validation)), (difference, low, high))
    made = "models and record.json" if hint else "models, record.json and curves.png"
    console.print(f"\n{made} are in {out}. Next: ift chat {out / results['ift']['folder']}", markup=False)
    return 0


def what_follows(train: int, validation: int, test: int) -> str:
    """Lists the trainings and the scoring of a demo of this size, and the command of a smaller one, if any."""
    trainings = len(METHODS) * len(LEARNING_RATES)
    shorter = f" Shorter: {SMALLER}" if train > 64 or test > 50 else ""
    return (
        f"{trainings} trainings follow, {' and '.join(METHODS)} each with {len(LEARNING_RATES)} learning "
        f"rate{'s' if len(LEARNING_RATES) > 1 else ''}: {_steps(train)} steps of {BATCH} rows, then answers to "
        f"{validation} problems. The better training of each method, and the base, answer {test} more. "
        f"An estimate of the time follows after the first steps.{shorter}"
    )


def _steps(train: int) -> int:
    return EPOCHS * math.ceil(train / BATCH)


class TimeEstimate(TrainerCallback):
    """Reports the estimated time of the whole demo after a few steps of the first training.

    Created when the base is scored, which took `seconds` for `test` problems, and before the first training.
    """

    def __init__(self, seconds: float, train: int, validation: int, test: int) -> None:
        self.began, self.first, self.said = time.monotonic(), 0.0, False
        answers = len(METHODS) * (len(LEARNING_RATES) * validation + test)
        self.scoring, self.steps = seconds * (1 + answers / test), _steps(train)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measures, and says the estimate once."""
        now = time.monotonic()
        if state.global_step == 1:
            self.first = self.first or now
        elif state.global_step == min(MEASURED_STEPS, state.max_steps) and not self.said:
            self.said = True
            step = (now - self.first) / (state.global_step - 1)
            forwards = sum(FORWARDS.get(method, 3) / 3 for method in METHODS)  # steps of all, in those of SFT
            preparing = len(METHODS) * (self.first - self.began)
            training = len(LEARNING_RATES) * (preparing + forwards * self.steps * step)
            tqdm.write(f"the whole demo takes about {span(training + self.scoring)}")


def paired_difference(first: list[bool], second: list[bool]) -> tuple[float, float, float]:
    """Difference of two shares on the same problems, with its 95 % interval (normal, paired): (mean, low, high)."""
    from ift.lab.report import mean_interval

    found = mean_interval([int(a) - int(b) for a, b in zip(first, second, strict=True)], normal=True)
    half = found.half or 0.0
    return found.mean, found.mean - half, found.mean + half


def curves(out: Path, folders: dict[str, str]) -> None:
    """Write `curves.png` from the metrics.jsonl of each method's folder in `out`."""
    from matplotlib.figure import Figure

    panels = ("nll", "lookahead_accuracy", "eos_nll", "propagation_negative_share")
    figure = Figure(figsize=(4 * len(panels), 3.4), layout="constrained")
    axes = figure.subplots(1, len(panels))
    for number, (method, folder) in enumerate(folders.items()):
        lines = [json.loads(line) for _, line in numbered_lines(out / folder / "metrics.jsonl")]
        for axis, name in zip(axes, panels, strict=True):
            points = [(line["step"], line[name]) for line in lines if name in line]
            if points:  # SFT has no look-ahead
                axis.plot(*zip(*points, strict=True), label=method.upper(), color=f"C{number}")
    for axis, name in zip(axes, panels, strict=True):
        axis.set(title=name, xlabel="step")
        axis.legend()
    figure.savefig(out / "curves.png", dpi=120)


def _best(
    base: str,
    rows: Path,
    out: Path,
    method: str,
    flags: list[str],
    validation: list[Any],
    estimate: TrainerCallback,
) -> dict[str, Any]:
    """Train once per learning rate and keep what scores best on validation; the first of equals."""
    tried: dict[str, dict[str, Any]] = {}
    scores: dict[str, float] = {}
    for rate in LEARNING_RATES:
        folder = f"{method}-{rate}"
        tried[rate] = _trained(base, rows, out / folder, [*flags, f"--learning_rate={rate}"], estimate)
        tried[rate] |= {"folder": folder, "learning_rate": rate}
        scores[rate] = _scored(str(out / folder), validation, folder)["exact_match"]
    best = max(scores, key=lambda rate: scores[rate])
    return tried[best] | {"validation": scores}


def _trained(base: str, rows: Path, out: Path, flags: list[str], estimate: TrainerCallback) -> dict[str, Any]:
    """Train as `ift train` does."""
    from ift.runs.arguments import parse
    from ift.runs.progress import TerminalReporter
    from ift.runs.train_run import train_run

    words = [f"--model_name_or_path={base}", f"--dataset_name={rows}", f"--output_dir={out}", *flags]
    run_args = parse(words)
    result = train_run(
        run_args,
        TerminalReporter(),
        supervised=True,
        attach=lambda trainer: trainer.add_callback(estimate),
    )
    tokens = round(result.report.trained_tokens * run_args.config.num_train_epochs)
    command = " ".join(["ift train", *words]).replace(base, "TINY_BASE")  # the record holds no local path
    return {"seconds": result.seconds, "trained_tokens": tokens, "command": command}


def _scored(folder: str, problems: list[Any], name: str) -> dict[str, Any]:
    from ift.lab.testbed.scoring import score
    from ift.models.loading import LoadOptions, load_model

    model, tokenizer, *_ = load_model(folder, LoadOptions(dtype="float32"))
    with Progress(transient=True, disable=not Console().is_interactive) as progress:
        task = progress.add_task(f"scoring {name}", total=len(problems))
        found = score(model, tokenizer, problems, progress=lambda n: progress.advance(task, n))
    return {**found.summary(), "answers": found.answers, "right": found.right}


def _table(console: Console, results: dict[str, dict[str, Any]]) -> None:
    heads = ("exact match", "95 % interval", "stops with its end token", "answer tokens", "seconds", "tokens")
    table = Table("", *heads)
    for name, found in results.items():
        low, high = found["interval"]
        table.add_row(
            name,
            f"{found['exact_match']:.1%}",
            f"{low:.1%} - {high:.1%}",
            f"{found['stopped']:.1%}",
            f"{found['mean_length']:.1f}",
            f"{found['seconds']:.0f}" if "seconds" in found else "-",
            f"{found['trained_tokens']:,}" if "trained_tokens" in found else "-",
        )
    console.print(table)
    for name in METHODS:
        tried = ", ".join(f"{rate} {share:.1%}" for rate, share in results[name]["validation"].items())
        console.print(f"{name}: learning rate {results[name]['learning_rate']}, by validation ({tried})")


def _samples(console: Console, results: dict[str, dict[str, Any]], problems: list[Any]) -> None:
    for index in range(min(3, len(problems))):
        problem = problems[index]
        console.print(f"\n[bold]{problem.question}[/bold]  (right: {problem.answer})")
        for name, found in results.items():
            mark = "right" if found["right"][index] else "wrong"
            answer = visible(found["answers"][index]).replace("\n", " / ")
            console.print(f"  {name:<5}{mark:<7}{answer}", markup=False)


def _write_record(
    out: Path,
    results: dict[str, dict[str, Any]],
    seed: int,
    rows: tuple[int, int],
    difference: tuple[float, float, float],
) -> None:
    from ift.lab.report import provenance
    from ift.lab.report.json_files import write_json

    record = asdict(provenance()) | {"seed": seed, "train_rows": rows[0], "validation_rows": rows[1]}
    record["ift_minus_sft"] = dict(zip(("mean", "low", "high"), difference, strict=True))
    kept = {name: dict(found) for name, found in results.items()}
    for found in kept.values():
        del found["answers"], found["right"]
    write_json(out / "record.json", record | {"results": kept}, indent=2)

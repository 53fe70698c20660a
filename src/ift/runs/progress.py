"""What `ift train` shows: the plan before it starts, progress with the time left, and what to type next."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch
from rich.console import Console
from tqdm.auto import tqdm
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerCallback

from ift.generation.final_answers import FinalAnswers
from ift.methods.start import start_options
from ift.models.loading import load_config
from ift.runs.arguments import TrainArguments
from ift.training.config import IFTConfig
from ift.training.end_watch import EndWatch

SHOWN = ("loss", "nll", "residual_nll", "lookahead_accuracy", "lambda", "eos_nll", "tokens_per_second")
RELEASED = (
    "propagation_detach none is the released code: it makes confident tokens late in a row less likely, the end token "
    "first, and answers may never end (docs/differences.md, D1). Leave it out for Algorithm 1 as printed"
)
SHOWN_ELSE = (
    "loss",
    "mean_token_accuracy",
    "rewards/accuracies",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
)


class Display(TrainerCallback):
    """The plan, the progress and the closing lines of one training run, on the main process only."""

    def __init__(self, told: TrainArguments, notes: Iterable[str]) -> None:
        self.told = told
        self.notes = list(notes)
        self.console = Console(soft_wrap=True, highlight=False)
        self.first: dict[str, float] = {}
        self.last: dict[str, float] = {}
        self.bar: Any = None
        self.trainer: Any = None
        self.shows_nll = True
        self.watch: EndWatch | None = None
        self.answers: FinalAnswers | None = None

    def attach(self, trainer: Any) -> None:
        """Take the place of transformers' own progress display."""
        self.trainer = trainer
        self.shows_nll = isinstance(
            trainer.args, IFTConfig
        )  # trl's other trainers have no metric of that name
        for kind in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(kind)
        trainer.add_callback(self)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show the plan."""
        if not state.is_world_process_zero:
            return
        for name, text in self.plan(args, state):
            self.console.print(f"[bold]{name:<8}[/bold]", end="")
            self.console.print(text, markup=False)
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", dynamic_ncols=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One step further."""
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """One line for each log entry."""
        key, shown = ("nll", SHOWN) if self.shows_nll else ("loss", SHOWN_ELSE)
        prefix = "eval_" if logs and f"eval_{key}" in logs else ""
        if not state.is_world_process_zero or not logs or prefix + key not in logs or self.bar is None:
            return
        found = {name: float(logs[prefix + name]) for name in shown if prefix + name in logs}
        if not prefix:
            self.first = self.first or found
            self.last = found
        values = "  ".join(f"{name} {_short(value)}" for name, value in found.items())
        self.bar.write(
            f"{'evaluation' if prefix else 'step'} {state.global_step}/{state.max_steps}  {values}"
        )

    def write(self, text: str) -> None:
        """A line above the bar."""
        if self.bar is not None:
            self.bar.write(text)

    def close(self) -> None:
        """Close the bar, whatever ended the run."""
        if self.bar is not None:
            self.bar.close()

    def plan(self, args: Any, state: Any) -> list[tuple[str, str]]:
        """What will happen, as (topic, text)."""
        model, told = self.trainer.model, self.told
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        total = sum(p.numel() for p in model.parameters())
        share = "all trained" if trained == total else f"{_count(trained)} trained ({trained / total:.2%})"
        batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        reports = self.trainer.data_reports
        rows = [("data", note) for note in self.notes]
        rows += [("data", line) for report in reports.values() for line in report.lines()]
        precision = "bf16 autocast" if args.bf16 else "fp16 autocast" if args.fp16 else "no autocast"
        rate = f"learning rate {args.learning_rate:g} ({getattr(args.lr_scheduler_type, 'value', '')})"
        return [
            ("model", f"{told.model.model_name_or_path}: {_count(total)} parameters, {share}"),
            *rows,
            ("device", f"{args.device}, weights {next(model.parameters()).dtype}, {precision}, {args.world_size} "
             f"process{'es' if args.world_size > 1 else ''}"),
            ("dtype", dtype_line(told, model, str(getattr(args.optim, "value", args.optim)))),
            ("steps", f"{state.max_steps} of {batch} rows ({args.train_batch_size} per device x "
             f"{args.gradient_accumulation_steps} accumulated x {args.world_size}), {rate}"),
            ("method", self.method_line(args)),
            *([("warning", RELEASED)] if released(args) else []),
            ("output", str(args.output_dir)),
        ]  # fmt: skip

    def method_line(self, args: Any) -> str:
        """The method and its settings in a line."""
        method = self.told.method
        if isinstance(args, IFTConfig):
            return ("" if method.name == "ift" else f"{method.name}: ") + method_line(args)
        settings = {name: getattr(args, name) for name in method.settings}
        shown = ", ".join(f"{name} {value}" for name, value in settings.items())
        return f"{method.name}: {method.description}{'; ' + shown if shown else ''}"

    def finish(self, seconds: float) -> None:
        """Say where the model lies and what to type next."""
        if not self.trainer.is_world_process_zero():
            return
        folder, base = self.trainer.args.output_dir, self.told.model.model_name_or_path
        key = "nll" if self.shows_nll else "loss"
        change = f", {key} {_short(self.first[key])} -> {_short(self.last[key])}" if self.last else ""
        adapter = os.path.exists(os.path.join(folder, "adapter_config.json"))
        self.console.print(f"[bold green]done[/bold green] in {timedelta(seconds=round(seconds))}{change}")
        for warning in self.end_warnings():
            self.console.print(warning, style="yellow", markup=False)
        answers = [("answers", self.answers.summary(folder))] if self.answers is not None else []
        for name, text in (
            ("model", f"{folder}{f' (an adapter on {base})' if adapter else ''}; {self.trainer.read_back}"),
            ("metrics", os.path.join(folder, "metrics.jsonl")),
            *answers,
            ("chat", f"ift chat {shlex.quote(folder)}"),
            ("evaluate", f"pip install 'intuitive-fine-tuning[eval]' && ift evaluate {shlex.quote(folder)}"),
            ("push", f"hf upload USER/{os.path.basename(os.path.normpath(folder))} {shlex.quote(folder)}"),
        ):  # fmt: skip
            self.console.print(f"  {name:<9}", end="")
            self.console.print(text, markup=False)

    def end_warnings(self) -> list[str]:
        """What to say of the end of the answers after training: less likely than before, or than not."""
        if self.watch is None:
            return []
        if not self.watch.rows:
            return [
                "no training row ends with an end token: the model is not taught to stop (ift check says more)"
            ]
        return [warning for warning in (self.watch.less_likely(), self.watch.unlikely()) if warning]


def dtype_line(stage: Any, model: Any, optimizer: str) -> str:
    """Dtypes of the weights, of the optimiser's states and of the files that will be saved."""
    used = _name(next(p.dtype for p in model.parameters() if p.is_floating_point()))
    trained = _name(next((p.dtype for p in model.parameters() if p.requires_grad), torch.float32))
    try:
        there = _name(load_config(stage.model.model_name_or_path, start_options(stage)).dtype or used)
    except (OSError, ValueError):
        there = used
    kept = "" if there == used else f" ({there} in its files: --dtype auto keeps that)"
    states = "8 bit" if "8bit" in optimizer else trained
    adapter = hasattr(model, "peft_config")
    saved = f"the adapter is saved in {trained}" if adapter else f"saved in {used}"
    return f"weights {used}{kept}, optimiser states {states}, {saved}"


def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def released(args: Any) -> bool:
    """Whether a run has the released code's gradient."""
    return isinstance(args, IFTConfig) and args.propagation == "bellman" and args.propagation_detach == "none"


def method_line(args: Any) -> str:
    """The method's settings in a line."""
    if args.residual_lambda == 0:
        mixed = "lambda 0 (no look-ahead)"
    else:
        mixed = f"lambda {args.residual_lambda:g}, {args.lookahead} look-ahead"
    if args.residual_warmup_ratio:
        mixed += f", warmed up from {args.residual_lambda_start or 0:g} over {args.residual_warmup_ratio:.0%}"
    if args.residual_noise_std:
        mixed += f", noise {args.residual_noise_std:g}"
    gamma = "" if args.propagation == "none" else f", gamma {args.propagation_gamma:g}"
    if args.propagation == "bellman" and args.propagation_detach != "scale":
        released = "nothing detached (the released code)"
        gamma += f", {released if args.propagation_detach == 'none' else 'weights detached'}"
    return f"{mixed}; propagation {args.propagation}{gamma}; mean per {args.loss_reduction}"


def _count(number: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def _short(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"

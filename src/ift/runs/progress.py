"""Reporters of a run: a silent one, and one that prints the plan, the progress and the result to the terminal."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.text import Text
from tqdm import tqdm
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerCallback

from ift.check.finding import Finding
from ift.check.packages import install_command
from ift.generation.during_training import ANSWERED
from ift.methods.stage import PreparedRows, Stage
from ift.models.loading import without_transformers_bars
from ift.runs.plan import plan
from ift.runs.results import StageResult
from ift.training.config import IFTConfig

STYLES = {"refused": "bold red", "warning": "yellow", "note": "dim"}
METRICS: tuple[str, ...] = (
    "loss", "nll", "residual_nll", "lookahead_accuracy", "lambda", "eos_nll", "tokens_per_second",
)  # fmt: skip
TRL_METRICS = (
    "loss", "mean_token_accuracy", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected",
)  # fmt: skip
# of the files of a run, those with texts of its rows, and what only a resumed run reads
NOT_PUSHED = (
    "--exclude 'checkpoint-*' --exclude '*answers.jsonl' --exclude training_args.bin --exclude run.json"
)
LOCAL_BASE = "adapter_config.json names the base by its path on this machine: write the base's Hub id there"
NO_BREAK = "\xa0"  # a space at which `wrap` does not break a line; printed as an ordinary space


class Reporter:
    """Receives the messages of a run. This one discards them: for `train_method`, the lab, and other processes."""

    def message(self, text: str, style: str = "") -> None:
        """Reports one line, in a style of rich."""

    def finding(self, finding: Finding) -> None:
        """Reports a finding of the check before the run."""

    @contextmanager
    def training(self, trainer: Any, stage: Stage, rows: PreparedRows) -> Iterator[None]:
        """While active, replaces transformers' display of the training."""
        for kind in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(kind)
        yield

    def summary(self, result: StageResult, seconds: float) -> None:
        """Reports where the trained model is and what to do next; `seconds` are those of the whole command."""


SILENT = Reporter()


class TerminalReporter(Reporter):
    """Prints to the terminal, with at most one progress bar at a time."""

    def __init__(self) -> None:
        self.console = Console(soft_wrap=True, highlight=False)
        self.display: TrainingDisplay | None = None
        self.findings = False  # whether any were printed

    def message(self, text: str, style: str = "") -> None:
        """Prints one line, above the progress bar if there is one."""
        if self.display is not None and self.display.bar is not None:
            self.display.bar.write(wrap(text))
        else:
            self.console.print(Text(wrap(text), style))

    def finding(self, finding: Finding) -> None:
        """Prints a finding, with its level in colour."""
        self.findings = True
        self.labelled(finding.level, f"{finding.about}: {finding.text}", STYLES[finding.level])

    def labelled(self, label: str, text: str, style: str = "bold", width: int = 8) -> None:
        """Prints a label of `width` columns, followed by the text."""
        lines = wrap(text, width)
        self.console.print(Text.assemble((f"{label:<{width}}", style), lines))

    @contextmanager
    def training(self, trainer: Any, stage: Stage, rows: PreparedRows) -> Iterator[None]:
        """Prints the plan at the first step, then a progress bar and a line for each log entry."""
        with super().training(trainer, stage, rows), without_transformers_bars():
            self.display = TrainingDisplay(self, trainer, stage, rows)
            trainer.add_callback(self.display)
            try:
                yield
            finally:
                self.display.close()

    def summary(self, result: StageResult, seconds: float) -> None:
        """Prints the time, the change of the loss, warnings, files and next commands."""
        folder, base = str(result.folder), result.start
        change = "" if self.display is None else self.display.change()
        change += f" (that of step {result.steps})" if change and result.best else ""
        span = timedelta(seconds=round(seconds))
        self.console.print(f"[bold green]done[/bold green] in {span}{resumed(result)}{change}")
        for warning in result.warnings:
            self.labelled("warning", warning, STYLES["warning"], 10)
        adapter = os.path.exists(os.path.join(folder, "adapter_config.json"))
        merge = f"ift merge {shlex.quote(folder)} --output_dir {shlex.quote(f'{folder}-merged')}"
        lines = {
            "model": "; ".join(
                [
                    f"{folder}{f' (an adapter on {base})' if adapter else ''}",
                    *([f"the weights of {result.best}"] if result.best else []),
                    result.read_back,
                ]
            ),
            "metrics": os.path.join(folder, "metrics.jsonl"),
            "answers": "" if result.answers is None else result.answers.summary(folder),
            "merge": merge if adapter else "",
            **next_commands(folder, NOT_PUSHED),
        }
        if adapter and os.path.isdir(os.path.expanduser(base)):
            lines["push"] = f"{LOCAL_BASE}, then {lines['push']}"
        for label, text in lines.items():
            if text:
                self.labelled(label, text, width=10)


def next_commands(folder: str, not_pushed: str = "") -> dict[str, str]:
    """Commands that use a finished model, by label; `not_pushed` are options of `hf upload` that leave files out."""
    quoted, name = shlex.quote(folder), os.path.basename(os.path.normpath(folder))
    return {
        "chat": f"ift chat {quoted}",
        "evaluate": f"{install_command('eval')} && ift evaluate {quoted}",
        "push": f"hf upload USER/{name} {quoted} {not_pushed}".rstrip(),
    }


def resumed(result: StageResult) -> str:
    """For the closing line of a resumed run: which steps this part took, and the time of all; "" for other runs."""
    if not result.resumed_at:
        return ""
    whole = result.training_seconds
    time = "not known" if whole is None else timedelta(seconds=round(whole))
    return (
        f" (steps {result.resumed_at + 1} to {result.steps}; time of all {result.steps} steps, without starting and "
        f"saving the model: {time})"
    )


class TrainingDisplay(TrainerCallback):
    """The plan, the progress bar and the log lines of one training."""

    def __init__(self, reporter: TerminalReporter, trainer: Any, stage: Stage, rows: PreparedRows) -> None:
        self.reporter, self.trainer, self.stage, self.rows = reporter, trainer, stage, rows
        is_ift = isinstance(trainer.args, IFTConfig)  # trl's other trainers log no metric "nll"
        self.key = "nll" if is_ift else "loss"
        self.metrics: tuple[str, ...] = METRICS if is_ift else TRL_METRICS
        self.values: list[float] = []
        self.bar: Any = None
        self.began = (0.0, 0)  # time and step

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Prints the plan and starts the bar; a resumed run remembers the loss of its earlier steps."""
        self.values = [float(entry[self.key]) for entry in state.log_history if self.key in entry]
        for label, lines in plan(self.trainer, self.stage, self.rows, state, self.reporter.findings).items():
            for number, line in enumerate(lines):
                self.reporter.labelled("" if number else label, line)
        self.began = (time.monotonic(), state.global_step)
        # leave=False: the bar disappears at the end, the log lines stay; disable=None: no bar if the output is a file
        self.bar = tqdm(
            total=state.max_steps, initial=state.global_step, unit="step", dynamic_ncols=True, leave=False, delay=0,
            disable=None,
        )  # fmt: skip

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advances the bar."""
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Prints one line for each checkpoint."""
        if self.bar is not None:
            self.reporter.message(f"saved checkpoint-{state.global_step}")

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Prints one line for each log entry of the training or an evaluation, and one for the scores of answers."""
        if self.bar is not None and logs and ANSWERED in logs:
            scores = {
                name.removeprefix("eval_"): value for name, value in logs.items() if name.startswith("eval_")
            }
            values = "  ".join(f"{name}{NO_BREAK}{_short(float(value))}" for name, value in scores.items())
            self.reporter.message(f"evaluation {state.global_step}/{state.max_steps}  answers: {values}")
            return
        prefix = "eval_" if logs and f"eval_{self.key}" in logs else ""
        if self.bar is None or not logs or prefix + self.key not in logs:
            return
        found = {name: float(logs[prefix + name]) for name in self.metrics if prefix + name in logs}
        if not prefix:
            self.values.append(found[self.key])
        values = "  ".join(f"{name}{NO_BREAK}{_short(value)}" for name, value in found.items())
        kind = "evaluation" if prefix else "step"
        self.reporter.message(f"{kind} {state.global_step}/{state.max_steps}  {values}{self._left(state)}")

    def _left(self, state: Any) -> str:
        """The remaining time, where no bar shows it, as in a log; "" before the first and after the last step."""
        if not getattr(self.bar, "disable", False):
            return ""
        began, first = self.began
        steps, done = state.max_steps - state.global_step, state.global_step - first
        if steps <= 0 or done <= 0:
            return ""
        return f"  about {timedelta(seconds=round(steps * (time.monotonic() - began) / done))} left"

    def change(self) -> str:
        """How the loss changed from the first log entry to the last; its only value if there is one."""
        ends = self.values[:1] + self.values[1:][-1:]
        return f", {self.key} {' -> '.join(map(_short, ends))}" if ends else ""

    def close(self) -> None:
        """Removes the bar and drops the reference to the trainer."""
        if self.bar is not None:
            self.bar.close()
        self.bar = self.trainer = None


def wrap(text: str, indent: int = 0) -> str:
    """Wraps one line to the width of the terminal; unchanged if the output is not a terminal.

    `indent` columns stay free before further lines, which also repeat the leading spaces of `text`.
    """
    if not sys.stdout.isatty():
        return text.replace(NO_BREAK, " ")
    width = shutil.get_terminal_size().columns - indent
    own = " " * (len(text) - len(text.lstrip()) + 2)
    lines = textwrap.wrap(
        text, max(width, 20), subsequent_indent=own, break_long_words=False, break_on_hyphens=False
    )
    return f"\n{' ' * indent}".join(lines).replace(NO_BREAK, " ")


def _short(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"

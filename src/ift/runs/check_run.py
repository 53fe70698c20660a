"""The check before a run: what it prints, what it refuses; the model tried for a few steps."""

from __future__ import annotations

import sys
import tempfile
from typing import Any

from rich.console import Console
from rich.text import Text

from ift.check.findings import Preflight, preflight
from ift.data import DataError
from ift.models.model_folder import check_model_path
from ift.runs.arguments import TrainArguments
from ift.runs.launch import is_launched

TIMED_STEPS = 3  # the first one warms up
STYLES = {"refused": "bold red", "warning": "yellow", "note": "dim"}


def check_model(told: TrainArguments) -> None:
    """Refuse a model folder that cannot be loaded, and say it where code of the model will run.

    Raises:
        DataError: see `check_model_path`.
    """
    name = told.model.model_name_or_path
    check_model_path(name, allow_pickle=told.run.allow_pickle_weights)
    if told.config.trust_remote_code and not is_launched():
        print(
            f"trust_remote_code is on: Python code that comes with {name} runs here, with your rights",
            file=sys.stderr,
        )


class Refused(DataError):
    """A run that the check before it does not let start."""


def refuse_or_warn(told: TrainArguments, prepared: Any) -> Preflight:
    """The check that `ift train` and `ift compare` run first: prints findings; raises Refused unless it is forced."""
    console = Console(soft_wrap=True, highlight=False)
    found = preflight(told, prepared, allow_truncation=told.run.allow_truncation)
    for one in found.findings:
        if one.level != "note":
            print_finding(console, one)
    if found.refused and not told.run.force:
        reasons = " ".join(f"{one.about}: {one.text}." for one in found.findings if one.level == "refused")
        raise Refused(f"not started: {reasons} (--force starts all the same; ift check says more)")
    if found.refused:
        console.print("started all the same: --force", style="bold red")
    return found


def print_finding(console: Console, finding: Any) -> None:
    """A finding in a line, its level in colour."""
    console.print(
        Text.assemble((f"{finding.level:<8}", STYLES[finding.level]), f"{finding.about}: {finding.text}")
    )


def timed(told: TrainArguments, prepared: Any) -> float:
    """Seconds of a step, of three that are trained and thrown away."""
    import copy

    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    from ift.methods.stage import build_trainer
    from ift.training.timing import StepClock

    with tempfile.TemporaryDirectory() as folder:
        stage = copy.copy(told)
        stage.config = copy.copy(told.config)
        stage.config.max_steps, stage.config.output_dir = TIMED_STEPS, folder
        stage.config.save_strategy = stage.config.eval_strategy = "no"
        stage.config.report_to, stage.config.load_best_model_at_end = [], False
        trainer, clock = build_trainer(stage, prepared), StepClock()
        for kind in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(kind)
        trainer.add_callback(clock)
        trainer.train()
    return clock.seconds


def guesser(told: TrainArguments) -> Any:
    """A function from ids to the model's argmax after each of them."""
    import torch

    from ift.methods.start import start_options
    from ift.models.loading import load_network

    model = load_network(told.model.model_name_or_path, start_options(told)).eval()
    if not hasattr(model, "hf_device_map"):
        model = model.to(told.config.device)

    @torch.no_grad()
    def guess(ids: list[int]) -> list[int]:
        found: list[int] = model(torch.tensor([ids], device=model.device)).logits[0].argmax(-1).tolist()
        return found

    return guess

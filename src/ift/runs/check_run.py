"""The check before a run: what it reports and what it refuses; the model tried for a few steps."""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from ift.check.findings import Preflight, preflight
from ift.data import DataError
from ift.models.model_folder import check_model_path
from ift.runs.arguments import TrainArguments
from ift.runs.launch import is_launched, running_engine
from ift.runs.progress import SILENT, Reporter, TerminalReporter

TIMED_STEPS = 3  # the first one warms up


class Refused(DataError):
    """A run that the check before it does not let start."""


def check_model(run_args: TrainArguments) -> None:
    """Refuse a model folder that cannot be loaded, and warn where code of the model will run.

    Raises:
        DataError: see `check_model_path`.
    """
    name = run_args.model.model_name_or_path
    check_model_path(name, allow_pickle=run_args.run.allow_pickle_weights)
    if run_args.config.trust_remote_code and not is_launched():
        print(
            f"trust_remote_code is on: Python code that comes with {name} runs here, with your rights",
            file=sys.stderr,
        )


def refuse_or_warn(run_args: TrainArguments, prepared: Any, reporter: Reporter | None = None) -> Preflight:
    """Report what the check before a run finds; `reporter` is the terminal unless it is given.

    Raises:
        Refused: The check refuses the run, and --force was not given.
    """
    reporter = reporter or TerminalReporter()
    allowed = run_args.run.allow_truncation
    found = preflight(run_args, prepared, allow_truncation=allowed, engine=running_engine())
    for one in found.findings:
        if one.level != "note":
            reporter.finding(one)
    if found.refused and not run_args.run.force:
        reasons = " ".join(f"{one.about}: {one.text}." for one in found.findings if one.level == "refused")
        raise Refused(f"not started: {reasons} (--force starts anyway; ift check shows more)")
    if found.refused:
        reporter.message("starting despite failed checks (--force)", "bold red")
    return found


def time_steps(run_args: TrainArguments, prepared: Any) -> float:
    """Seconds of a step, measured on a few steps whose result is thrown away."""
    from ift.methods.stage import build_trainer
    from ift.training.timing import StepClock

    with tempfile.TemporaryDirectory() as folder:
        stage = copy.copy(run_args)
        stage.config = copy.copy(run_args.config)
        stage.config.max_steps, stage.config.output_dir = TIMED_STEPS, folder
        stage.config.save_strategy = stage.config.eval_strategy = "no"
        stage.config.report_to, stage.config.load_best_model_at_end = [], False
        trainer, clock = build_trainer(stage, prepared), StepClock()
        with SILENT.training(trainer, stage, prepared):
            trainer.add_callback(clock)
            trainer.train()
    return clock.seconds


def load_guesser(run_args: TrainArguments) -> Callable[[list[int]], list[int]]:
    """Load the model; returns a function from token ids to the model's argmax after each of them."""
    import torch

    from ift.methods.start import start_options
    from ift.models.loading import load_network

    model = load_network(run_args.model.model_name_or_path, start_options(run_args)).eval()
    if not hasattr(model, "hf_device_map"):
        model = model.to(run_args.config.device)

    @torch.no_grad()
    def guess(ids: list[int]) -> list[int]:
        found: list[int] = model(torch.tensor([ids], device=model.device)).logits[0].argmax(-1).tolist()
        return found

    return guess

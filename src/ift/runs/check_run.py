"""Checks a run before it starts; for `ift check` also times a few steps and loads the model for its predictions."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from transformers.utils import is_torch_tf32_available

from ift.check.finding import Finding
from ift.check.findings import Preflight, preflight
from ift.check.packages import missing_packages, wanted_packages
from ift.data import DataError
from ift.models.loading import warn_of_remote_code
from ift.models.model_folder import NoWeights, check_model_path, warn_of_unfinished_run
from ift.runs.arguments import TrainArguments, parse_stages
from ift.runs.argv import UsageError, drop_flags, split_equals
from ift.runs.launch import engine_here, is_launched, running_engine, wanted_engine
from ift.runs.output_folder import AlreadyFinished, prepare_output_folder
from ift.runs.plan import epochs_unused, without_effect_lines
from ift.runs.progress import SILENT, Reporter, TerminalReporter
from ift.step.equations import try_weights
from ift.text import sentence
from ift.user_code import load_function

TIMED_STEPS = 3  # the first one is a warm-up
MORE = "ift check shows more"
LONG = 3  # seconds of a computation before a run that is announced


class Refused(DataError):
    """The check before a run does not let it start."""


def check_model(run_args: TrainArguments, weights: bool = True) -> None:
    """Refuses a model folder that cannot be loaded (see `check_model_path`), and warns if the model's code will run."""
    name = run_args.model.model_name_or_path
    try:
        check_model_path(name, allow_pickle=run_args.run.allow_pickle_weights, weights=weights)
    except NoWeights as error:
        raise NoWeights(
            f"{sentence(str(error))} To plan a run on paper, config.json and the tokenizer are enough: ift check "
            "--gpu_memory 24"
        ) from error
    if not is_launched():
        warn_of_unfinished_run(name)
        if run_args.config.trust_remote_code:
            warn_of_remote_code(name)


def check_token_weights(run_args: TrainArguments) -> None:
    """Loads the function of --token_weights and tries it (see `try_weights`), before any row is read.

    A command that starts other processes only loads it: they try it, on their device.

    Raises:
        ValueError: The file or function is missing, or the function does not return weights.
    """
    spec = getattr(run_args.config, "token_weights", None)
    if spec is not None:
        function = load_function(spec, "--token_weights")
        if is_launched() or not run_args.launch:
            try_weights(function, run_args.config.device)


def stages_elsewhere(words: list[str]) -> list[TrainArguments]:
    """As `parse_stages`, for a plan of another machine: settings that only a device there has are not refused here.

    That is `tf32`, which transformers refuses as soon as the settings are read without a GPU that has it.
    """
    if is_torch_tf32_available():
        return parse_stages(words)
    return parse_stages(drop_flags(split_equals(words), {"--tf32"}), other_keys=("tf32",))


def missing_here(run_args: TrainArguments, planned: bool) -> dict[str, Finding]:
    """What a run on a GPU needs and this machine lacks: its name -> a warning with the fix.

    `planned`: the run is planned for another machine, so that weights that are not here are among it.
    """
    found = {}
    name, engine = run_args.model.model_name_or_path, wanted_engine(run_args.launch)
    if planned:
        try:
            check_model_path(name, allow_pickle=run_args.run.allow_pickle_weights)
        except DataError as error:
            found["the model's weights"] = Finding("warning", "model", str(error))
    here = "ddp" if planned else engine_here(run_args.launch)
    stages = [run_args] if planned else []  # of a run here, the check refuses what its settings lack
    if here == "ddp" and (packages := wanted_packages(stages, engine.name)):
        found[" and ".join(packages)] = Finding("warning", "settings", missing_packages(stages, engine.name))
    return found


def check_plan(run_args: TrainArguments, length: int | None, rows: int | None) -> None:
    """Raises UsageError for --plan_length and --plan_rows that rows or steps cannot have; None is no such flag."""
    config = run_args.config
    if rows is not None and config.max_steps > 0:
        raise UsageError(
            "--plan_rows has no effect, because max_steps sets the number of steps. Fix: leave one of the two out"
        )
    streams = run_args.script.dataset_streaming or run_args.mixture.streaming
    if rows is not None and streams and getattr(config, "packing", False):
        raise UsageError(
            "--plan_rows: the packed sequences of a stream cannot be counted beforehand. Fix: leave one of the two out"
        )
    if length is None:
        return
    if getattr(config, "packing", False):
        raise UsageError("--plan_length: packed sequences have --max_length tokens. Fix: leave it out")
    if config.max_length and length > config.max_length:
        raise UsageError(
            f"--plan_length {length}: rows are truncated to --max_length {config.max_length}. "
            "Fix: raise --max_length too"
        )


def output_findings(run_args: TrainArguments) -> list[Finding]:
    """What `ift train` would report about the output folder."""
    try:
        return [Finding("note", "output", line) for line in prepare_output_folder(run_args)]
    except AlreadyFinished as done:
        return [Finding("note", "output", str(done))]
    except DataError as error:
        return [Finding("refused", "output", str(error), forcible=False)]


def report_lines(
    run_args: TrainArguments, found: Preflight, rows: Any, seconds: float | None, tflops: float | None
) -> list[str]:
    """What `ift check` prints before the findings.

    `seconds` are those of a step, None where it was not timed; `tflops` is --gpu_tflops.
    """
    lines = [*without_effect_lines(run_args), *rows.notes]
    for one in rows.sets.values():
        lines += one.report.lines(findings=True, lengths=True)
    lines += [line] if (line := found.memory_line()) else []
    lines += [f"disk: {found.disk.line()}"] if found.disk is not None else []
    span = timedelta(seconds=round((found.work.steps or 0) * (seconds or 0)))
    time = (
        [f"time: {seconds:.2f} seconds a step, {span} in all without evaluation and saving"]
        if seconds
        else []
    )
    steps = f"steps: {found.work.line()}{epochs_unused(run_args)}"
    return [*lines, steps, *time, found.compute_line(tflops)]


def closing_line(found: list[dict[str, Any]]) -> tuple[str, str]:
    """The last line of `ift check` and its style, from the JSON of each stage."""
    if any(one["refused"] for one in found):
        refusals = [finding for one in found for finding in one["findings"] if finding["level"] == "refused"]
        forced = " (--force starts anyway)" if all(one["forcible"] for one in refusals) else ""
        return f"refused: ift train would not start{forced}", "bold red"
    if missing := list(dict.fromkeys(name for one in found for name in one.get("missing", ()))):
        memory = (
            "; a step would very likely run out of memory"
            if any(one["fits"] is False for one in found)
            else ""
        )
        return (
            f"plan only: ift train would not start on this machine without {' and '.join(missing)}{memory}",
            "bold yellow",
        )
    if not any(one["fits"] is False for one in found):
        return "ok: ift train would start with the same arguments", "bold green"
    remedy = next((one["remedy"] for stage in found for one in stage["findings"] if one["remedy"]), "")
    fix = f"First fix to try: {remedy}" if remedy else "The warning lists the remaining options"
    return f"ift train would start, and then very likely run out of memory. {fix}", "bold yellow"


def refuse_or_warn(
    run_args: TrainArguments, prepared: Any, reporter: Reporter | None = None, more: str = MORE
) -> Preflight:
    """Reports the findings of the check before a run (to the terminal by default); `more` says what shows more.

    Raises:
        Refused: The check refuses the run, and --force was not given.
    """
    reporter = reporter or TerminalReporter()
    allowed = run_args.run.allow_truncation

    def working(text: str, seconds: float) -> None:
        if seconds >= LONG:
            reporter.message(f"{text}, about {seconds:.0f} seconds")

    found = preflight(run_args, prepared, allow_truncation=allowed, engine=running_engine(), working=working)
    stops = found.refused and not run_args.run.force
    for one in found.findings:
        if one.level == "warning" or (one.level == "refused" and not stops):  # the error has the refusals
            reporter.finding(one)
    if stops:
        refusals = [one for one in found.findings if one.level == "refused"]
        reasons = " ".join(f"{one.about}: {sentence(one.text)}" for one in refusals)
        forced = "--force starts anyway; " if all(one.forcible for one in refusals) else ""
        raise Refused(f"not started: {reasons} ({forced}{more})")
    if found.refused:
        reporter.message("starting despite failed checks (--force)", "bold red")
    return found


def time_steps(run_args: TrainArguments, prepared: Any) -> float:
    """Seconds per step, measured on a few discarded steps."""
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
    """Loads the model; returns a function from token ids to the model's greedy prediction after each of them."""
    import torch

    from ift.methods.start import start_options
    from ift.models.loading import load_network, to_device

    model = load_network(run_args.model.model_name_or_path, start_options(run_args)).eval()
    model = to_device(model, run_args.config.device)

    @torch.no_grad()
    def guess(ids: list[int]) -> list[int]:
        found: list[int] = model(torch.tensor([ids], device=model.device)).logits[0].argmax(-1).tolist()
        return found

    return guess

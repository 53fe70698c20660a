"""`ift check`: what a run would train, its cost, and its problems, before it starts."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import typer

from ift.cli.check_study import check_study, study_names
from ift.cli.exit_codes import EXPECTED
from ift.runs.argv import UsageError, UsageParser, split_equals
from ift.runs.known_flags import refuse_unknown_names

if TYPE_CHECKING:
    from ift.check.findings import Preflight
    from ift.methods.stage import PreparedRows
    from ift.runs.arguments import TrainArguments
    from ift.runs.progress import TerminalReporter


def command(context: typer.Context) -> int:
    """Check a run before it starts: rows, masks, memory and steps (takes the flags of `ift train`)."""
    return main(context.args)


def make_parser() -> argparse.ArgumentParser:
    """The parser of the check's flags; those of `ift train` pass through."""
    parser = UsageParser(
        "ift check",
        usage="ift check [flags] [flags of ift train or ift compare, --config FILE too]",
        description="Read the rows as the model will see them, and report what a run would train, what is wrong with "
        "it and how much memory and how many steps it needs. Nothing is trained. Exit codes: 0 no objection, 1 ift "
        "train would refuse the run, 2 wrong usage. --debug shows tracebacks.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--show", type=int, metavar="N", help="Print N rows with their trained tokens; loads the model."
    )
    parser.add_argument(
        "--time", action="store_true", help="Train three steps, discard them, and report the time of a step."
    )
    parser.add_argument(
        "--gpu_memory",
        type=float,
        metavar="GB",
        help="Memory of the GPU that the run is planned for, as 24 for a 24 GB card; none need be here.",
    )
    parser.add_argument(
        "--plan_length",
        type=int,
        metavar="N",
        help="Tokens of the rows that memory is estimated for (default: the longest row after --max_length).",
    )
    parser.add_argument("--json", action="store_true", help="Print JSON instead of text.")
    return parser


def main(arguments: list[str]) -> int:
    """Runs `ift check`, of a training or of a study; returns the exit code, 0 or 1."""
    options, words = make_parser().parse_known_args(split_equals(arguments))
    for flag, least in (("show", 1), ("gpu_memory", 1), ("plan_length", 2)):
        value = getattr(options, flag)
        if value is not None and not value >= least:
            raise UsageError(f"--{flag} {value:g}: give {least} or more")
    if names := study_names(words):
        return check_study(words, names, options)
    refuse_unknown_names(words)  # before imports that take seconds
    from ift.runs.arguments import parse_stages
    from ift.runs.progress import TerminalReporter

    reporter, stages = TerminalReporter(), parse_stages(words)
    try:
        found = [_check(run_args, options, reporter) for run_args in stages]
    except EXPECTED as error:
        if options.json:
            print(json.dumps({"refused": True, "error": str(error)}))
        raise
    refused = any(one["refused"] for one in found)
    if options.json:
        print(json.dumps(found[0] if len(found) == 1 else {"refused": refused, "stages": found}, indent=1))
    elif refused:
        reporter.message("refused: ift train would not start (--force starts anyway)", "bold red")
    else:
        reporter.message("ok: ift train would start with the same arguments", "bold green")
    return int(refused)


def _check(
    run_args: TrainArguments, options: argparse.Namespace, reporter: TerminalReporter
) -> dict[str, Any]:
    """Checks one stage; prints all findings unless JSON is wanted."""
    from ift.methods.stage import load_data, prepare_stage
    from ift.runs.check_run import check_model, check_plan_length, output_findings, time_steps

    check_plan_length(run_args, options.plan_length)
    # a run elsewhere is planned: the weights need not be here
    check_model(run_args, weights=options.gpu_memory is None or bool(options.time or options.show))
    rows = prepare_stage(run_args, load_data(run_args))
    found = _preflight(run_args, rows, options)
    found = replace(found, findings=[*output_findings(run_args), *found.findings])
    seconds = time_steps(run_args, rows) if options.time else None
    if not options.json:
        _print(found, rows, seconds, reporter)
        if options.show:
            from ift.cli.show_rows import show_rows

            show_rows(run_args, rows, options.show, reporter.console)
    data = {name: asdict(one.report) for name, one in rows.sets.items()}
    return {"method": run_args.method.name, "data": data, **found.as_dict(), "step_seconds": seconds}


def _preflight(run_args: TrainArguments, rows: PreparedRows, options: argparse.Namespace) -> Preflight:
    """The check of the rows and the memory, under a progress bar."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ift.check.findings import preflight
    from ift.runs.launch import wanted_engine

    columns = (TextColumn("checking rows"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=sum(one.report.rows_kept for one in rows.sets.values()) or None)
        return preflight(
            run_args, rows, allow_truncation=run_args.run.allow_truncation, engine=wanted_engine(run_args.launch),
            gpu_memory=options.gpu_memory, plan_length=options.plan_length,
            progress=lambda count: progress.advance(task, count),
        )  # fmt: skip


def _print(found: Preflight, rows: PreparedRows, seconds: float | None, reporter: TerminalReporter) -> None:
    lines = list(rows.notes)
    for one in rows.sets.values():
        lines += one.report.lines(findings=True)
        for name in ("prompt", "answer"):
            median, high, top = getattr(one.report, f"{name}_lengths")
            if top:
                lines.append(f"  tokens per {name}: median {median:,}, 95 % up to {high:,}, longest {top:,}")
    lines += [line] if (line := found.memory_line()) else []
    span = timedelta(seconds=round((found.steps or 0) * (seconds or 0)))
    time = f", {seconds:.2f} seconds each: {span} without evaluation and saving" if seconds else ""
    unknown = "not known, because the rows of a stream are not counted; --max_steps sets them"
    lines.append(f"steps: {unknown if found.steps is None else f'{found.steps:,}{time}'}")
    for line in lines:
        reporter.message(line)
    for finding in found.findings:
        reporter.finding(finding)

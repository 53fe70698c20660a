"""`ift check`: what a run would train, its cost, and its problems, before it starts."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
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
        "it and how much memory and how many steps it needs. Nothing is trained. Exit codes: 0 ift train would start "
        "(also where a step does not seem to fit), 1 it would refuse the run, 2 wrong usage. --debug shows tracebacks.",
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
    from ift.runs.check_run import closing_line
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
    else:
        reporter.message(*closing_line(found))
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
        _print(run_args, found, rows, seconds, reporter)
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
    from ift.runs.check_run import LONG
    from ift.runs.launch import wanted_engine

    console = Console(stderr=True)
    hidden = not console.is_interactive  # rich ends a bar in a file with an empty line

    def working(text: str, seconds: float) -> None:
        progress.update(task, description=f"{text}, about {seconds:.0f} s")
        if seconds >= LONG and hidden:
            console.print(f"{text}, about {seconds:.0f} seconds", soft_wrap=True)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task(
            "checking rows", total=sum(one.report.rows_kept for one in rows.sets.values()) or None
        )
        return preflight(
            run_args, rows, allow_truncation=run_args.run.allow_truncation, engine=wanted_engine(run_args.launch),
            gpu_memory=options.gpu_memory, plan_length=options.plan_length, working=working,
            progress=lambda count: progress.advance(task, count),
        )  # fmt: skip


def _print(
    run_args: TrainArguments,
    found: Preflight,
    rows: PreparedRows,
    seconds: float | None,
    reporter: TerminalReporter,
) -> None:
    from ift.runs.check_run import report_lines

    for line in report_lines(run_args, found, rows, seconds):
        reporter.message(line)
    for finding in found.findings:
        reporter.finding(finding)

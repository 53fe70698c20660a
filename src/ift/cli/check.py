"""`ift check`: what a run would train, its cost, and its problems, before it starts."""

from __future__ import annotations

import argparse
import json
from contextlib import suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import typer

from ift.cli.check_options import parse_options
from ift.cli.check_study import check_study, study_names
from ift.cli.exit_codes import EXPECTED
from ift.runs.known_flags import refuse_unknown_names

if TYPE_CHECKING:
    from ift.check.findings import Preflight
    from ift.methods.stage import PreparedRows
    from ift.runs.arguments import TrainArguments
    from ift.runs.progress import TerminalReporter


def command(context: typer.Context) -> int:
    """Check a run before it starts: rows, masks, memory and steps (takes the flags of `ift train`)."""
    return main(context.args)


def main(arguments: list[str]) -> int:
    """Runs `ift check`, of a training or of a study; returns the exit code, 0 or 1."""
    options, words = parse_options(arguments)
    if names := study_names(words):
        return check_study(words, names, options)
    refuse_unknown_names(words)  # before imports that take seconds
    from ift.runs.arguments import parse_stages
    from ift.runs.check_run import closing_line, stages_elsewhere
    from ift.runs.progress import TerminalReporter

    reporter = TerminalReporter()
    stages = stages_elsewhere(words) if _planned(options) else parse_stages(words)
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


def _planned(options: argparse.Namespace) -> bool:
    """Whether a run on another machine is planned, and nothing is computed with its model here."""
    return options.gpu_memory is not None and not options.time


def _check(
    run_args: TrainArguments, options: argparse.Namespace, reporter: TerminalReporter
) -> dict[str, Any]:
    """Checks one stage; prints all findings unless JSON is wanted."""
    from ift.methods.stage import load_data, prepare_stage
    from ift.runs.check_run import (
        check_model,
        check_plan,
        check_token_weights,
        missing_here,
        output_findings,
        report_lines,
        time_steps,
    )

    check_plan(run_args, options.plan_length, options.plan_rows)
    planned = _planned(options)  # the weights need not be here
    check_model(run_args, weights=not planned)
    check_token_weights(run_args)
    missing = missing_here(run_args, planned)
    if run_args.answers.eval_score:
        from ift.lab.scores.during_training import answer_scorer
        from ift.runs.extras import MissingExtra

        answers = run_args.answers
        with suppress(MissingExtra):  # a finding of its own
            answers.scorer = answer_scorer(str(answers.eval_score), answers.eval_score_db)
    rows = prepare_stage(run_args, load_data(run_args))
    found = _preflight(run_args, rows, options)
    found = replace(
        found,
        findings=[*output_findings(run_args), *found.findings, *missing.values()],
        missing=tuple(missing) if planned else (),
    )
    seconds = time_steps(run_args, rows) if options.time else None
    if not options.json:
        for line in report_lines(run_args, found, rows, seconds, options.gpu_tflops):
            reporter.message(line)
        for finding in found.findings:
            reporter.finding(finding)
        if options.show:
            from ift.cli.show_rows import show_rows

            show_rows(
                run_args, rows, options.show, reporter.console, guesses="the model's weights" not in missing
            )
    data = {name: asdict(one.report) for name, one in rows.sets.items()}
    return {"method": run_args.method.name, "data": data, **found.as_dict(), "step_seconds": seconds,
            "hours": found.hours(options.gpu_tflops)}  # fmt: skip


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
            gpu_memory=options.gpu_memory, plan_length=options.plan_length, plan_rows=options.plan_rows,
            operations=True, working=working, progress=lambda count: progress.advance(task, count),
        )  # fmt: skip

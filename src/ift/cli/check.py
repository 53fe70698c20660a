"""`ift check`: what a run would train and take, and what is wrong with it, before it starts."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from ift.check.findings import Finding, Preflight, preflight
from ift.cli.endings import EXPECTED
from ift.data import DataError
from ift.runs.arguments import TrainArguments, parse_stages
from ift.runs.argv import UsageError, UsageParser, split_equals
from ift.runs.check_run import check_model, guesser, print_finding, timed
from ift.runs.output_folder import Finished, open_folder


def make_parser() -> argparse.ArgumentParser:
    """The check's own flags; those of `ift train` pass through."""
    parser = UsageParser(
        "ift check",
        usage="ift check [flags] [any flag of ift train, --config FILE.yaml too]",
        description="Read the rows as the model will see them, and say what a run would train, what is wrong with it "
        "and what it would take. Nothing is trained. Exit code 0: fine, 1: ift train would refuse, 2: usage. "
        "--debug shows tracebacks.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--show", type=int, metavar="N", help="Print N rows with what is trained; loads the model."
    )
    parser.add_argument(
        "--time", action="store_true", help="Train three steps, keep nothing, say how long it takes."
    )
    parser.add_argument("--json", action="store_true", help="Print JSON for machines instead.")
    return parser


def main(arguments: list[str]) -> int:
    """Run `ift check`; returns the exit code (0 fine, 1 refused). `ift.cli.endings` answers what it raises."""
    console = Console(highlight=False, soft_wrap=True)
    own, words = make_parser().parse_known_args(split_equals(arguments))
    if own.show is not None and own.show < 1:
        raise UsageError(f"--show {own.show}: give 1 or more")
    stages = parse_stages(words)
    try:
        found = [_check(told, own, console) for told in stages]
    except EXPECTED as error:
        if own.json:
            print(json.dumps({"refused": True, "error": str(error)}))
        raise
    refused = any(one["refused"] for one in found)
    if own.json:
        print(json.dumps(found[0] if len(found) == 1 else {"refused": refused, "stages": found}, indent=1))
    else:
        end = (
            "[bold red]refused[/bold red]: ift train would not start"
            if refused
            else "[bold green]fine[/bold green]"
        )
        console.print(f"{end}. next: ift train with the same arguments{' and --force' if refused else ''}")
    return int(refused)


def _check(told: TrainArguments, own: argparse.Namespace, console: Console) -> dict[str, Any]:
    """One stage: everything found, printed unless JSON is wanted."""
    from ift.data import load_train_and_eval
    from ift.methods.stage import check_data, prepare_stage

    check_model(told)
    data = load_train_and_eval(told.script, told.mixture, told.config, columns=told.columns)
    check_data(told, data)
    prepared = prepare_stage(told, data)
    rows = sum(one.report.rows_kept for one in prepared.sets.values())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("looking at rows", total=rows or None)
        found = preflight(
            told,
            prepared,
            allow_truncation=told.run.allow_truncation,
            progress=lambda count: progress.advance(task, count),
        )
    found = replace(found, findings=[*_of_folder(told), *found.findings])
    seconds = timed(told, prepared) if own.time else None
    if not own.json:
        for note in data.notes:
            console.print(note, markup=False)
        _print(found, prepared, told, seconds, console)
        if own.show:
            show_rows(told, prepared, own.show, console)
    return {
        "method": told.method.name,
        "refused": found.refused,
        "findings": [asdict(one) for one in found.findings],
        "data": {name: asdict(one.report) for name, one in prepared.sets.items()},
        "memory": None if found.memory is None else {**asdict(found.memory), "total": found.memory.total},
        "available_memory": found.available,
        "steps": found.steps,
        "step_seconds": seconds,
    }


def _of_folder(told: TrainArguments) -> list[Finding]:
    """What `ift train` would say of the output folder."""
    try:
        return [Finding("note", "output", line) for line in open_folder(told)]
    except DataError as error:
        return [Finding("refused", "output", str(error))]
    except Finished as done:
        return [Finding("note", "output", str(done))]


def _print(
    found: Preflight, prepared: Any, told: TrainArguments, seconds: float | None, console: Console
) -> None:
    for one in prepared.sets.values():
        report = one.report
        for line in report.lines():
            console.print(line, markup=False)
        for name, (median, high, largest) in (
            ("prompt", report.prompt_lengths),
            ("answer", report.answer_lengths),
        ):
            if largest:
                text = f"  tokens per {name}: median {median:,}, 95 % up to {high:,}, longest {largest:,}"
                console.print(text, markup=False)
    if found.memory is not None:
        parts = ("weights", "reference", "gradients", "optimizer", "activations", "head")
        sizes = [(name, getattr(found.memory, name)) for name in parts]
        unit, name_of_unit = (2**30, "GiB") if found.memory.total >= 2**30 else (2**20, "MiB")
        shown = ", ".join(f"{name} {size / unit:.2f}" for name, size in sizes if size)
        console.print(
            f"memory: about {found.memory.total / unit:.1f} {name_of_unit} ({shown}); "
            f"{found.available / 2**30:.1f} GiB free",
            markup=False,
        )
    if found.steps is not None:
        time = ""
        if seconds is not None:
            hours = found.steps * seconds / 3600
            span = f"{hours:.1f} hours" if hours >= 2 else f"{hours * 60:.0f} minutes"
            time = f", {seconds:.2f} seconds each: about {span}, evaluation and saving beside"
        console.print(f"steps: {found.steps:,}{time}", markup=False)
    for finding in found.findings:
        print_finding(console, finding)


def show_rows(told: TrainArguments, prepared: Any, count: int, console: Console) -> None:
    """Print rows as the model sees them: prompt dim, trained tokens bright, its own guess where it differs."""
    import itertools

    from ift.text import visible

    tokenizer, one = prepared.tokenizer, prepared.sets["train"]
    guess = guesser(told)
    special = set(tokenizer.all_special_ids)
    console.print(
        "\nprompt dim, [green]trained[/green], [magenta]special token[/magenta], [red]‹the model's guess›[/red]"
    )
    for number, row in enumerate(itertools.islice(one.dataset, count), start=1):
        ids = row.get("input_ids", row.get("chosen_input_ids"))
        labels = row.get("labels", row.get("chosen_labels"))
        guesses, text = guess(ids), Text()
        for place, (token, label) in enumerate(zip(ids, labels, strict=True)):
            piece = visible(tokenizer.decode([token], clean_up_tokenization_spaces=False))
            shown = repr(piece)[1:-1] if token in special else piece
            style = "green" if label != -100 else "dim"
            text.append(shown, f"magenta {'bold' if label != -100 else 'dim'}" if token in special else style)
            if label != -100 and place and guesses[place - 1] != token:
                guessed = visible(tokenizer.decode([guesses[place - 1]]))
                text.append(f"‹{guessed}›".replace("\n", "\\n"), "red")
        console.print(f"[bold]row {number}[/bold] of those kept, {len(ids)} tokens")
        console.print(text)

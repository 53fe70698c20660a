"""`ift compare` and `ift ablate`: several methods on the same rows, over seeds, with their costs."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from ift.cli.exit_codes import INTERRUPTED
from ift.cli.judge import agree
from ift.lab.compare.study_args import StudyArgs
from ift.runs.argv import UsageError, UsageParser, normalised_words, value_of
from ift.text import did_you_mean, visible

if TYPE_CHECKING:
    from ift.lab.compare.run_study import StudyResult

DESCRIPTIONS = {
    "compare": "Compare methods on the same rows: scores, paired differences, costs. Settings are chosen on "
    "validation rows.",
    "ablate": "Take IFT apart: lambda, gamma, propagation, look-ahead and controls, one change at a time.",
}


def make_parser(verb: str) -> UsageParser:
    """The parser of the study's flags; those of `ift train` pass through."""
    parser = UsageParser(
        f"ift {verb}",
        usage=f"ift {verb} [flags]\n       ift {verb} [flags] --model_name_or_path MODEL --dataset_name DATA\n"
        "           [any flag of ift train, also --config FILE.yaml]",
        description=DESCRIPTIONS[verb] + " Without a model and data, the study runs on the shipped testbed.",
        allow_abbrev=False,
    )
    folder = f"ift-{verb}"
    parser.add_argument("--output_dir", "--output-dir", default=folder, help=f"Folder of the study; a repeated "
                        f"command resumes in it [{folder}].")  # fmt: skip
    group = parser.add_argument_group("with your own model and data")
    for place, user_data in ((parser, False), (group, True)):
        for name, options in StudyArgs.flags(verb, user_data=user_data):
            place.add_argument(f"--{name}", **options)
    return parser


def main(verb: str, arguments: Sequence[str]) -> int:
    """Runs `ift compare` or `ift ablate`; returns the exit code (0, or 130 if stopped)."""
    console = Console(highlight=False, soft_wrap=True)

    say, began = partial(console.print, markup=False), time.monotonic()
    args, train_words = parse(verb, arguments)
    say(f"loading torch{', the tokenizer and the rows' if train_words else ''}")  # the imports take seconds
    from ift.lab.compare.run_study import report_study, run_study
    from ift.lab.compare.testbed import study_on_testbed
    from ift.lab.compare.user_study import user_study
    from ift.lab.judge.settings import parse_prices
    from ift.lab.progress import WorkProgress
    from ift.lab.ray_tasks import ray_tasks

    prices, agreed = parse_prices(args.prices), args.yes
    try:
        study = user_study(args, train_words, say) if train_words else study_on_testbed(args)
        with ray_tasks(args.ray, args.jobs) as tasks, WorkProgress(console, seconds=0) as progress:
            study = replace(study, executor=tasks or study.executor)
            run_study(study, args.jobs, progress, say, prices, (lambda: None) if agreed else agree, began)
    except KeyboardInterrupt:
        kept = f"Finished runs are kept in {args.output_dir}; repeat the command to resume."
        print(f"\nift {verb}: stopped. {kept}", file=sys.stderr)
        return INTERRUPTED
    _show(report_study(study), console)
    return 0


def parse(verb: str, arguments: Sequence[str]) -> tuple[StudyArgs, list[str]]:
    """The study's arguments, and the flags of `ift train` (none for a study on the testbed).

    The YAML file of --config may hold both; a flag takes precedence over its key.

    Raises:
        UsageError: An unknown flag, a value out of range, or conflicting flags.
    """
    parser = make_parser(verb)
    words = normalised_words(list(arguments))
    from_file, of_training = StudyArgs.in_file(verb, value_of(words, "--config"), parser)
    parsed, train_words = parser.parse_known_args([*from_file, *words])
    if not of_training and len(train_words) == len(("--config", "FILE")):
        train_words = []
    if not train_words:
        for name, _ in StudyArgs.flags(verb, user_data=True):
            if getattr(parsed, name) is not None:
                raise UsageError(
                    f"--{name} is for your own data: give --model_name_or_path and --dataset_name too"
                )
    elif not {"--model_name_or_path", "--dataset_name", "--config"} & {*train_words}:
        options = [name for name in parser._option_string_actions if name.startswith("--")]
        raise UsageError(
            f"unknown flag {train_words[0]}{did_you_mean(train_words[0], options) or ';'} "
            "Flags of ift train need --model_name_or_path and --dataset_name (or --config) as well"
        )
    elif parsed.setting is not None:
        raise UsageError("--setting is one of the testbed's; leave it out to compare on your own data")
    return StudyArgs.from_namespace(verb, sys.argv[1:], parsed), train_words


def _show(result: StudyResult, console: Console) -> None:
    """Prints the tables of scores and costs, and where the records and the report are."""
    from ift.lab.report.tables import cost_cells, score_cells

    comparison = result.comparison
    for split in comparison.splits:
        heads, lines = score_cells(comparison, split, result.metric)
        seeds = heads.index("by seed")  # for the report alone: a terminal is narrow
        rows = [row[:seeds] + row[seeds + 1 :] for row in (heads, *lines)]
        _print_table(console, split, [row[: seeds + 1] for row in rows])
        for begin in range(seeds + 1, len(rows[0]), 3):
            other = [[row[0], *row[begin : begin + 3]] for row in rows]
            _print_table(console, f"{split}: other scores", other)
    heads, lines = cost_cells(comparison)
    _print_table(console, "cost of one training", [heads, *lines])
    for line in result.lines:
        console.print(line, markup=False)


def _print_table(console: Console, title: str, rows: list[list[str]]) -> None:
    from rich.box import SIMPLE
    from rich.markup import escape
    from rich.table import Table

    if len(rows[0]) > 1:
        table = Table(*rows[0], title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
        table.columns[0].no_wrap = True
        for row in rows[1:]:
            table.add_row(*(escape(visible(cell)) for cell in row))
        console.print(table, soft_wrap=False)


def compare(context: typer.Context) -> int:
    """Compare methods on the same rows: scores, paired differences and costs."""
    return main("compare", context.args)


def ablate(context: typer.Context) -> int:
    """Vary the parts of IFT one at a time: lambda, gamma, propagation, look-ahead, controls."""
    return main("ablate", context.args)

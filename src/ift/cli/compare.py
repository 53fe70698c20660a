"""`ift compare` and `ift ablate`: several methods on the same rows, over seeds, with what they cost."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ift.cli.exit_codes import INTERRUPTED
from ift.lab.compare.from_flags import MOST_JOBS, plan_of
from ift.runs.argv import UsageError, UsageParser, split_equals
from ift.runs.extras import missing_extra
from ift.text import did_you_mean

TRIAL_SECONDS = {
    "pairs": 15,
    "search": 35,
    "run": 60,
}  # on the testbed, about, on one core; the bar corrects it
GIB_PER_JOB = 2
FIRST_SETTING = "arithmetic-small-clean"
DESCRIPTIONS = {
    "compare": "Compare methods on the same rows: scores, paired differences, costs; settings chosen on validation.",
    "ablate": "Take IFT apart: lambda, gamma, propagation, look-ahead, controls, one change at a time.",
}
OWN_DATA = (  # what only makes sense there
    "train_rows", "validation_rows", "test_rows", "learning_rates", "pair_learning_rates", "metric", "answer_pattern",
    "max_new_tokens",
)  # fmt: skip


def make_parser(verb: str) -> argparse.ArgumentParser:
    """The study's own flags; those of `ift train` pass through."""
    parser = UsageParser(
        f"ift {verb}",
        usage=f"ift {verb} [flags]\n       ift {verb} [flags] --model_name_or_path MODEL --dataset_name DATA "
        "[any flag of ift train, --config FILE.yaml too]",
        description=DESCRIPTIONS[verb] + " On the embedded testbed, or on a model and data of your own.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    folder = f"ift-{verb}"
    add(
        "--output_dir",
        "--output-dir",
        default=folder,
        help=f"Where everything goes, and is found again [{folder}].",
    )
    if verb == "compare":
        add("--methods", help="Such as sft,ift,dpo,sft+ift [the budget's own].")
    else:
        add("--variants", help="Such as 'ift lambda 0.4,ift as released' [the budget's own].")
    add(
        "--budget",
        default="quick",
        help="quick (minutes here) or full (hours): methods, seeds and trials [quick].",
    )
    add("--seeds", type=int, help="Runs of each method [the budget's own].")
    add("--jobs", type=int, help="Processes side by side [as many as cores and memory allow].")
    add("--setting", help=f"Of the testbed: family, size and noise [{FIRST_SETTING}].")
    own = parser.add_argument_group("on a model and data of your own")
    add = own.add_argument
    add("--train_rows", type=int, help="Train on so many rows [all that are not held out].")
    add("--validation_rows", type=int, help="Rows that settings are chosen on [a tenth, at most 200].")
    add(
        "--test_rows",
        type=int,
        help="Rows that are scored [a fifth, at most 500; the test split if there is one].",
    )
    add("--learning_rates", help="To choose from, such as 1e-5,3e-5 [around --learning_rate].")
    add("--pair_learning_rates", help="The same for methods of pairs [around a tenth of it].")
    add(
        "--metric",
        help="To choose settings by: exact_match, target_log_likelihood_per_token or choice_accuracy.",
    )
    add(
        "--answer_pattern",
        help="Where the final answer stands: ####, boxed, a regex, or none [#### or boxed].",
    )
    add(
        "--max_new_tokens",
        type=int,
        help="Longest generated answer [a quarter more than the longest target].",
    )
    return parser


def main(verb: str, arguments: Sequence[str]) -> int:
    """Run `ift compare` or `ift ablate`; returns the exit code (0 done, 130 stopped).

    `ift.cli.exit_codes` answers what it raises.
    """
    console = Console(highlight=False, soft_wrap=True)
    told, words = make_parser(verb).parse_known_args(split_equals(list(arguments)))
    if told.seeds is not None and told.seeds < 2:
        raise UsageError(f"--seeds {told.seeds}: an interval needs at least 2")
    try:
        study = _own_study(verb, told, words, console) if words else _testbed_study(verb, told)
        perform(study, console, told.jobs)
    except KeyboardInterrupt:
        print(f"\nift {verb}: stopped. Repeat the command to go on where it was.", file=sys.stderr)
        return INTERRUPTED
    _closing(study, console)
    return 0


def _testbed_study(verb: str, told: argparse.Namespace) -> Any:
    from ift.lab.compare.study import Study
    from ift.lab.testbed import base_path, settings

    for name in OWN_DATA:
        if getattr(told, name) is not None:
            raise UsageError(
                f"--{name} is for data of your own: give --model_name_or_path and --dataset_name too"
            )
    setting = told.setting or FIRST_SETTING
    if setting not in settings():
        raise UsageError(f"--setting {setting}: choose from {', '.join(settings())}")
    plan = plan_of(verb, told, setting, None)
    base = base_path(settings()[setting].family)
    study = Study(plan, Path(told.output_dir), base, told.jobs or usual_jobs(), sys.argv[1:])
    study.open()
    return study


def _own_study(verb: str, told: argparse.Namespace, words: list[str], console: Console) -> Any:
    from ift.lab.compare.own_study import own_study

    named = ("--model_name_or_path", "--dataset_name", "--config")
    if not any(name in words for name in named):
        options = [name for name in make_parser(verb)._option_string_actions if name.startswith("--")]
        raise UsageError(
            f"unknown flag {words[0]}{did_you_mean(words[0], options) or ';'} "
            "Flags of ift train need --model_name_or_path and --dataset_name (or --config) beside them"
        )
    if told.setting is not None:
        raise UsageError("--setting is one of the testbed's; leave it out to compare on your own data")
    return own_study(verb, told, words, console)


def perform(study: Any, console: Console, jobs: int | None = None) -> None:
    """Announce and do everything that is not done yet, under a progress bar; `jobs` as the user gave them."""
    plan = study.plan
    trials = sum(len(plan.candidates(entrant)) for entrant in plan.searched())
    runs = 1 + len(plan.entrants) * plan.seeds
    counts = {"probe": len(study.probe()), "pairs": len(study.pairs()), "search": trials, "run": runs}
    console.print(f"{plan.setting}: {', '.join(entrant.label for entrant in plan.entrants)}", markup=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        bar = progress.add_task("", total=sum(counts.values()))

        def done(task: Any) -> None:
            progress.update(bar, advance=1)

        def started(titles: list[str]) -> None:
            progress.update(bar, description=", ".join(titles))

        if plan.own is not None:
            from ift.lab.compare.own_study import estimate, fitting_jobs

            study.perform(study.probe(), done, started)
            study = replace(study, jobs=jobs or fitting_jobs(study))
            about = estimate(study)
        else:
            minutes = (
                sum(TRIAL_SECONDS.get(kind, 0) * count for kind, count in counts.items()) / study.jobs / 60
            )
            about = f"about {minutes:.0f} minutes on CPU cores like ours"
        console.print(
            f"{trials} trials to choose settings, {runs} runs over {plan.seeds} seeds, {study.jobs} at a time: "
            f"{about}. Ctrl-C loses nothing: repeat the command to go on.",
            markup=False,
        )
        study.perform(study.pairs(), done, started)
        study.perform(study.searches(sequences=False), done, started)
        study.perform(study.searches(sequences=True), done, started)
        study.perform(study.runs(), done, started)


def usual_jobs() -> int:
    """As many as there are cores, as far as memory reaches; on the testbed."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):
        memory = 8.0
    return max(1, min(os.cpu_count() or 1, int(memory / GIB_PER_JOB), MOST_JOBS))


def _closing(study: Any, console: Console) -> None:
    from ift.lab.report import find
    from ift.lab.report.comparisons import compare as compared
    from ift.lab.report.tables import cost_table, score_table
    from ift.lab.report.writing import write

    runs, plan = study.folder / "runs", study.plan
    metric = "exact_match" if plan.own is None or plan.own["pattern"] else plan.own["metric"]
    (comparison,) = compared(
        find([runs]), "sft" if any(e.label == "sft" for e in plan.entrants) else None, []
    )
    for split in comparison.splits:
        console.print(f"\n[bold]{split}[/bold]")
        console.print(score_table(comparison, split, metric), markup=False)
    console.print("\n[bold]cost[/bold]")
    console.print(cost_table(comparison), markup=False)
    console.print()
    hint = missing_extra("report", "matplotlib")
    for line in (
        [f"no report: {hint}"] if hint else write([str(runs)], study.folder / "report", None, None, metric)
    ):
        console.print(line, markup=False)
    if (study.folder / "answers").exists():
        console.print(f"answers   {study.folder / 'answers'}", markup=False)
    following = f"ift report {runs}" if hint else f"open {study.folder / 'report' / 'report.html'}"
    console.print(f"records   {runs}\nnext: {following}", markup=False)


def compare(context: typer.Context) -> int:
    """Compare methods on the same rows: scores, paired differences and costs."""
    return main("compare", context.args)


def ablate(context: typer.Context) -> int:
    """Vary the parts of IFT one at a time: lambda, gamma, propagation, look-ahead, controls."""
    return main("ablate", context.args)

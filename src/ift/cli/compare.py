"""`ift compare` and `ift ablate`: several methods on the same rows, over seeds, with what they cost."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

TRIAL_SECONDS = {"pairs": 15, "search": 35, "run": 60}  # about, on one core; the bar corrects it
MOST_JOBS = 8
GIB_PER_JOB = 2


def compare(
    output_dir: str, setting: str, methods: str | None, budget: str, seeds: int | None, jobs: int | None
) -> int:
    """Run `ift compare`; returns the exit code."""
    from ift.compare.plan import BUDGETS, compare_plan

    def plan() -> Any:
        chosen = _budget(BUDGETS, budget)
        names = [name.strip() for name in (methods or chosen["methods"]).split(",") if name.strip()]
        return compare_plan(
            setting, names, seeds or chosen["seeds"], chosen["trials"], fairer=budget == "full"
        )

    return _study("compare", plan, output_dir, jobs)


def ablate(output_dir: str, setting: str, budget: str, seeds: int | None, jobs: int | None) -> int:
    """Run `ift ablate`; returns the exit code."""
    from ift.compare.plan import BUDGETS, ablate_plan

    def plan() -> Any:
        chosen = _budget(BUDGETS, budget)
        return ablate_plan(setting, seeds or chosen["seeds"], chosen["trials"], quick=budget == "quick")

    return _study("ablate", plan, output_dir, jobs)


def _budget(budgets: Any, name: str) -> Any:
    if name not in budgets:
        raise ValueError(f"--budget {name}: choose from {', '.join(budgets)}")
    return budgets[name]


def _study(verb: str, make_plan: Callable[[], Any], output_dir: str, jobs: int | None) -> int:
    from ift.compare.study import Study, StudyError
    from ift.testbed import settings, tiny_base_path

    console = Console(highlight=False, soft_wrap=True)
    try:
        plan = make_plan()
        if plan.setting not in settings():
            raise ValueError(f"--setting {plan.setting}: choose from {', '.join(settings())}")
        if plan.seeds < 2:
            raise ValueError(f"--seeds {plan.seeds}: an interval needs at least 2")
    except ValueError as problem:
        print(f"ift {verb}: {problem}", file=sys.stderr)
        return 2
    study = Study(plan, Path(output_dir), tiny_base_path(), jobs or usual_jobs(), sys.argv[1:])
    try:
        study.open()
        perform(study, console)
    except (StudyError, OSError) as problem:
        print(f"ift {verb}: {problem}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nift {verb}: stopped. Repeat the command to go on where it was.", file=sys.stderr)
        return 130
    _closing(study, console)
    return 0


def perform(study: Any, console: Console) -> None:
    """Announce and do everything that is not done yet, under a progress bar."""
    plan = study.plan
    trials = len(plan.searched()) * plan.trials
    runs = 1 + len(plan.entrants) * plan.seeds
    counts = {"pairs": len(study.pairs()), "search": trials, "run": runs}
    minutes = sum(TRIAL_SECONDS[kind] * count for kind, count in counts.items()) / study.jobs / 60
    console.print(f"{plan.setting}: {', '.join(entrant.label for entrant in plan.entrants)}")
    console.print(
        f"{trials} trials to choose settings, {runs} runs over {plan.seeds} seeds, {study.jobs} at a time: "
        f"about {minutes:.0f} minutes on CPU cores like ours. Ctrl-C loses nothing: repeat the command to go on."
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        bar = progress.add_task("", total=sum(counts.values()))

        def done(task: Any) -> None:
            progress.update(bar, advance=1, description=task.title)

        study.perform(study.pairs(), done)
        study.perform(study.searches(sequences=False), done)
        study.perform(study.searches(sequences=True), done)
        study.perform(study.runs(), done)


def usual_jobs() -> int:
    """As many as there are cores, as far as memory reaches."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):
        memory = 8.0
    return max(1, min(os.cpu_count() or 1, int(memory / GIB_PER_JOB), MOST_JOBS))


def _closing(study: Any, console: Console) -> None:
    from ift.cli.report import write
    from ift.report import find
    from ift.report.comparisons import compare as compared
    from ift.report.tables import cost_table, score_table

    runs = study.folder / "runs"
    (comparison,) = compared(
        find([runs]), "sft" if any(e.label == "sft" for e in study.plan.entrants) else None, []
    )
    for split in ("test", "longer"):
        console.print(f"\n[bold]{split}[/bold]")
        console.print(score_table(comparison, split), markup=False)
    console.print("\n[bold]cost[/bold]")
    console.print(cost_table(comparison), markup=False)
    console.print()
    for line in write([str(runs)], study.folder / "report", None, None, "exact_match"):
        console.print(line, markup=False)
    console.print(f"records   {runs}\nnext: open {study.folder / 'report' / 'report.html'}", markup=False)

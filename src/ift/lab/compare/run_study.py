"""A study from its first measurement to its report: search trials, final runs, records, tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ift.lab.compare.estimate import estimate, fitting_jobs
from ift.lab.compare.study import Study, Task
from ift.lab.progress import WorkProgress
from ift.runs.extras import missing_extra

Say = Callable[[str], object]


@dataclass(frozen=True)
class StudyResult:
    """A finished study.

    Attributes:
        comparison: Of the records in `runs/`; see `ift.lab.report.comparisons`.
        metric: The score that differences are taken of.
        lines: Where report, answers and records are.
    """

    comparison: Any
    metric: str
    lines: list[str]


def run_study(study: Study, jobs: int | None, progress: WorkProgress, say: Say) -> None:
    """Run everything that has no result yet.

    Args:
        study: Its folder is open.
        jobs: Processes at the same time; None: as many as fit.
        progress: Its total is set here, and it advances with each task.
        say: Called with the lines that announce the study.

    Raises:
        StudyError: a process failed.
        KeyboardInterrupt: after the processes are stopped.
    """
    plan = study.plan
    trials = sum(len(plan.candidates(entrant)) for entrant in plan.searched())
    runs = 1 + len(plan.entrants) * plan.seeds
    progress.total = len(study.probe()) + len(study.pairs()) + trials + runs
    say(f"{plan.setting}: {', '.join(entrant.label for entrant in plan.entrants)}")

    def done(task: Task) -> None:
        progress.advance(task.title)

    def started(titles: list[str]) -> None:
        progress.describe(", ".join(titles))

    study.perform(study.probe(), done, started)
    study = replace(study, jobs=jobs or fitting_jobs(study))
    search = f"{trials} trials to choose settings" if trials else "no search (one candidate for each method)"
    say(f"{search}, {runs} runs over {plan.seeds} seeds, {study.jobs} at a time: {estimate(study)}.")
    say("Ctrl-C loses no finished run: repeat the command to resume.")
    study.perform(study.pairs(), done, started)
    study.perform(study.searches(sequences=False), done, started)
    study.perform(study.searches(sequences=True), done, started)
    study.perform(study.runs(), done, started)


def report_study(study: Study) -> StudyResult:
    """Compare the records of a finished study and write its report."""
    from ift.lab.report import find
    from ift.lab.report.comparisons import compare
    from ift.lab.report.writing import write

    runs, plan = study.folder / "runs", study.plan
    user_data = plan.user_data
    metric = "exact_match"
    if user_data is not None and (user_data.get("scoring") or not user_data["pattern"]):
        metric = user_data["metric"]
    baseline = "sft" if any(entrant.label == "sft" for entrant in plan.entrants) else None
    (comparison,) = compare(find([runs]), baseline, [])
    hint = missing_extra("report", "matplotlib")
    report = study.folder / "report"
    lines = [f"no report: {hint}"] if hint else write([str(runs)], report, None, None, metric)
    if (answers := study.folder / "answers").exists():
        lines.append(f"answers   {answers}")
    following = f"ift report {runs} --metric {metric}" if hint else f"open {report / 'report.html'}"
    return StudyResult(comparison, metric, [*lines, f"records   {runs}", f"next: {following}"])

"""A study from its first measurement to its report: search trials, final runs, records, tables."""

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ift.lab.compare.budget import fit_to_budget
from ift.lab.compare.estimate import estimate, foresight, too_small
from ift.lab.compare.plan import Entrant, Plan
from ift.lab.compare.study import Study, Task
from ift.lab.progress import WorkProgress
from ift.lab.report.wording import SHARES, label, number
from ift.lab.scores.judged import JUDGE, agree_to_cost
from ift.runs.extras import install_command, missing_extra

Say = Callable[[str], object]


@dataclass(frozen=True)
class StudyResult:
    """A finished study: comparison of its records, the metric that differences are taken of, lines on its files."""

    comparison: Any
    metric: str
    lines: list[str]


def run_study(
    study: Study,
    jobs: int | None,
    progress: WorkProgress,
    say: Say,
    prices: tuple[float, float] | None = None,
    agree: Callable[[], object] = lambda: None,
) -> None:
    """Run everything that has no result yet.

    The study's folder is open; `jobs` are processes at the same time (None: as many as fit). The total of `progress` is
    set here; `say` is called with the lines that announce the study. `agree` is called before a judge is paid, at
    `prices` per million tokens in and out; it raises an error to refuse.

    Raises:
        StudyError: a process failed.
        UsageError: the study does not fit its time.
        KeyboardInterrupt: after the processes are stopped.
    """
    say(f"{study.plan.setting}: {', '.join(entrant.label for entrant in study.plan.entrants)}")

    def done(task: Task) -> None:
        progress.advance(f"{task.title}{_score(task, study.plan)}", _label(task))

    def started(titles: list[str]) -> None:
        progress.describe(", ".join(titles))

    def ask() -> None:
        with progress.paused():
            agree()

    progress.total = _total(study)
    if not all(task.result.exists() for task in study.probe()):
        say("Three steps and a batch of scoring are measured first: a process loads torch and the model.")
    study.perform(study.probe(), done, started)
    study = fit_to_budget(study, jobs, say)
    plan = study.plan
    trials = sum(len(plan.candidates(entrant)) for entrant in plan.searched())
    runs = 1 + len(plan.entrants) * plan.seeds
    progress.total = _total(study)
    search = f"{trials} trials to choose settings" if trials else "no search (one candidate for each method)"
    at_once = study.executor.at_once(study.jobs)
    say(f"{search}, {runs} runs over {plan.seeds} seeds, {at_once} at a time: {estimate(study)}.")
    say(foresight(plan))
    if warning := too_small(study):
        say(warning)
    say("Ctrl-C loses no finished run: repeat the command to resume.")
    progress.add_groups(_work(study))
    _agree_to_judge(study, prices, say, ask)
    single, sequences = (partial(study.searches, sequences=one) for one in (False, True))
    stages = (study.pairs, single, sequences, study.runs)
    for tasks in stages:  # each stage reads the results of the one before
        study.perform(tasks(), done, started)


def _total(study: Study) -> int:
    return len(study.probe()) + len(study.pairs()) + 1 + sum(_work(study).values())


def _work(study: Study) -> dict[str, int]:
    """Trainings of each entrant: trials of its search, and runs."""
    plan, searched = study.plan, [one.label for one in study.plan.searched()]
    return {
        one.label: plan.seeds + (len(plan.candidates(one)) if one.label in searched else 0)
        for one in plan.entrants
    }


def _label(task: Task) -> str:
    """Of the entrant of a trial or a run; empty for other tasks."""
    entrant = task.content.get("entrant")
    return Entrant(**entrant).label if entrant else ""


def _score(task: Task, plan: Plan) -> str:
    """What a trial or a run scored, for its line, with the name of the metric; empty where it has no score."""
    if "entrant" not in task.content or not task.result.exists():
        return ""
    result = json.loads(task.result.read_text())
    if "scores" in result:
        metric = plan.metric
        value = result["scores"].get("test", {}).get(metric)
    else:
        metric = "exact_match" if plan.user_data is None else plan.user_data["metric"]
        value = result.get("score")
    higher = "" if metric in SHARES else " (higher is better)"
    return "" if value is None else f": {label(metric)} {number(value, metric)}{higher}"


def _agree_to_judge(
    study: Study, prices: tuple[float, float] | None, say: Say, agree: Callable[[], object]
) -> None:
    """Ask about the cost of the trials and runs that have no result yet, where a judge scores."""
    plan = study.plan
    scoring = (plan.user_data or {}).get("scoring") or {}
    if "judge" not in scoring:
        return
    trials = sum(len(plan.candidates(entrant)) for entrant in plan.searched())
    chosen = trials - len([*(study.folder / "search").glob("*.json")])
    chosen += plan.seeds * sum(len(entrant.rate_factors) for entrant in plan.entrants)
    runs = 1 + len(plan.entrants) * plan.seeds - len([*(study.folder / "runs").glob("*.json")])
    by_judge = plan.metric == JUDGE
    requests = runs * plan.test_rows + (chosen * plan.validation_rows if by_judge and runs else 0)
    tokens = requests * scoring["prompt_tokens"]
    agree_to_cost(scoring["judge"], requests, tokens, prices, say, agree)


def report_study(study: Study) -> StudyResult:
    """Compare the records of a finished study and write its report."""
    from ift.lab.report import find
    from ift.lab.report.answers import with_answers
    from ift.lab.report.comparisons import compare
    from ift.lab.report.verdict import verdict
    from ift.lab.report.writing import write

    runs, plan = study.folder / "runs", study.plan
    metric = plan.metric
    baseline = "sft" if any(entrant.label == "sft" for entrant in plan.entrants) else None
    (comparison,) = compare(with_answers(find([runs])), baseline, [])
    hint = missing_extra("report", "matplotlib")
    report = study.folder / "report"
    lines = [f"no report: {hint}"] if hint else write([str(runs)], report, None, None, metric)
    if (answers := study.folder / "answers").exists():
        lines.append(f"answers   {answers}")
    later = f"{install_command('report')} && ift report {shlex.quote(str(runs))} --metric {metric}"
    following = later if hint else f"open {report / 'report.html'}"
    found = verdict(comparison, metric)
    return StudyResult(comparison, metric, [*found, *lines, f"records   {runs}", f"next: {following}"])

"""A study from its first measurement to its report: search trials, final runs, records, tables."""

import json
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ift.lab.compare.budget import fit_to_budget
from ift.lab.compare.estimate import estimate, foresight, prospect, too_small, training_steps
from ift.lab.compare.growth import kept_and_new, names_to_type
from ift.lab.compare.measurement import measure
from ift.lab.compare.pace import Pace
from ift.lab.compare.plan import Entrant, Plan
from ift.lab.compare.study import Study, Task
from ift.lab.processes import LocalProcesses
from ift.lab.progress import WorkProgress
from ift.lab.report.chosen import chosen_line, rates_flag
from ift.lab.report.wording import SHARES, label, number
from ift.lab.scores.judged import JUDGE, agree_to_cost
from ift.runs.argv import UsageError, drop_flags, split_equals
from ift.runs.extras import install_command, missing_extra
from ift.text import counted

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
    began: float | None = None,
) -> None:
    """Run everything that has no result yet.

    The study's folder is open; `jobs` are processes at the same time (None: as many as fit). The total of `progress` is
    set here; `say` is called with the lines that announce the study. `agree` is called before a judge is paid, at
    `prices` per million tokens in and out; it raises an error to refuse. `began` is when the command began, by
    `time.monotonic` (None: now): the time that has passed counts for a budget.

    Raises:
        StudyError: a process failed.
        UsageError: the study does not fit its time.
        KeyboardInterrupt: after the processes are stopped.
    """
    say(f"{study.plan.setting}: {', '.join(entrant.label for entrant in study.plan.entrants)}")
    began = time.monotonic() if began is None else began

    def done(task: Task) -> None:
        progress.advance(f"{task.title}{_score(task, study.plan)}", _label(task))

    def started(titles: list[str]) -> None:
        progress.describe(", ".join(titles))

    def ask() -> None:
        with progress.paused():
            agree()

    progress.total, said = _total(study), list[str]()
    progress.seconds_left = lambda: 0.0  # until it is measured
    if not all(task.result.exists() for task in study.probe()):
        said = prospect(study.plan)
        for line in said:
            say(line)
        say("measuring three steps and the scoring of a batch, in a process that loads the model first")
    measure(study, jobs, done, started)
    study = _fitted(study, jobs, say, time.monotonic() - began)
    progress.total = _total(study)
    for line in [*kept_and_new(study), *(_ahead(study) if any(_left(study)) else [])]:
        if line not in said:
            say(line)
    progress.add_groups(_work(study))
    _agree_to_judge(study, prices, say, ask)
    single, sequences = (partial(study.searches, sequences=one) for one in (False, True))
    stages = (study.pairs, single, sequences, study.runs)
    pace = Pace(study, say, began)
    progress.seconds_left = pace.left
    timed = pace.timed if isinstance(study.executor, LocalProcesses) else _untimed
    for tasks in stages:  # each stage reads the results of the one before
        if tasks == study.runs:
            for line in _chosen(study):
                say(line)
        study.perform(tasks(), done, started, timed)


def _fitted(study: Study, jobs: int | None, say: Say, spent: float) -> Study:
    """`fit_to_budget`; a study that its time refuses leaves the folder to another one."""
    try:
        return fit_to_budget(study, jobs, say, spent)
    except UsageError:
        study.discard()
        raise


def _chosen(study: Study) -> list[str]:
    """What the searches chose, a line for each method."""
    own = study.plan.user_data is not None
    return [
        chosen_line(one.label, study.tried(one), rates_flag(one.method) if own else None)
        for one in study.plan.searched()
    ]


def _untimed(task: Task, seconds: float) -> None:
    """Ray does not tell when it launches a task."""


def _ahead(study: Study) -> list[str]:
    """What is left to do, its time, what the study is likely to find, and a warning where it is too small."""
    warning = too_small(study.plan, training_steps(study))
    resume = "Ctrl-C loses no finished run: repeat the command to resume."
    return [_work_ahead(study), foresight(study.plan), *([warning] if warning else []), resume]


def _work_ahead(study: Study) -> str:
    """What is left to do, and its time."""
    plan, trials, runs = study.plan, *_left(study)
    all_runs = 1 + len(plan.entrants) * plan.seeds
    search = (
        f"{counted(trials, 'trial')} to choose settings"
        if trials
        else "no search (one candidate for each method)"
    )
    if not trials and plan.searched():
        search = "no trials left"
    left = "" if runs == all_runs else f" of {all_runs}"
    at_once = study.executor.at_once(study.jobs)
    shown = f"{runs}{left} runs" if left else counted(runs, "run")
    return f"{search}, {shown} over {counted(plan.seeds, 'seed')}, {at_once} at a time: {estimate(study)}."


def _left(study: Study) -> tuple[int, int]:
    """Trials and runs without a result, the base among the runs."""
    entrants = study.plan.entrants
    trials = sum(map(study.trials_left, entrants))
    return trials, sum(len(study.seeds_left(one)) for one in (Entrant("base"), *entrants))


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
    chosen, runs = _left(study)
    chosen += sum(len(study.seeds_left(entrant)) * len(entrant.rate_factors) for entrant in plan.entrants)
    by_judge = plan.metric == JUDGE
    requests = runs * plan.test_rows + (chosen * plan.validation_rows if by_judge and runs else 0)
    tokens = requests * scoring["prompt_tokens"]
    agree_to_cost(scoring["judge"], requests, tokens, prices, say, agree)


def report_study(study: Study) -> StudyResult:
    """Compare the records of a finished study and write its report."""
    from ift.lab.report import find
    from ift.lab.report.answers import with_answers
    from ift.lab.report.chosen import chosen_lines
    from ift.lab.report.comparisons import compare
    from ift.lab.report.verdict import seeds_to_add, verdict
    from ift.lab.report.writing import write

    runs, plan = study.folder / "runs", study.plan
    metric = plan.metric
    baseline = "sft" if any(entrant.label == "sft" for entrant in plan.entrants) else None
    (comparison,) = compare(with_answers(find([runs])), baseline, [])
    hint = missing_extra("report", "matplotlib")
    report = study.folder / "report"
    said = [*verdict(comparison, metric, [str(runs)]), *chosen_lines(comparison)]
    lines = [*said, f"no report: {hint}"] if hint else write([str(runs)], report, None, None, metric)
    if (answers := study.folder / "answers").exists():
        lines.append(f"answers   {answers}")
    later = f"{install_command('report')} && ift report {shlex.quote(str(runs))} --metric {metric}"
    following = later if hint else f"open {report / 'report.html'}"
    lines = [*lines, f"records   {runs}", f"next: {following}"]
    if (seeds := seeds_to_add(comparison, metric)) is not None:
        lines.append(f"or add seeds (finished runs are kept): {_with_seeds(study, seeds)}")
    return StudyResult(comparison, metric, lines)


def _with_seeds(study: Study, seeds: int) -> str:
    """The study's command line with another number of seeds, and with all methods of the report, to be typed again."""
    words = drop_flags(split_equals(study.command), {"--seeds"})
    if not study.finished().keys() <= {one.label for one in study.plan.entrants}:
        flag = "--methods" if study.plan.experiment == "compare" else "--variants"
        words = [*drop_flags(words, {flag}), flag, ",".join(names_to_type(study))]
    return shlex.join(["ift", *words, "--seeds", str(seeds)])

"""Runs a study from its first measurement to its report: search trials, final runs, records, tables."""

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
from ift.runs.argv import UsageError, drop_flags, normalised_words
from ift.runs.extras import install_command, missing_extra
from ift.text import counted

Say = Callable[[str], object]


@dataclass(frozen=True)
class StudyResult:
    """A finished study: the comparison of its records, the metric of the differences, and lines about its files."""

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
    """Run all tasks that have no result yet, and report the study.

    The study's folder is open. `jobs` is the number of processes at the same time (None: as many as fit). This function
    sets the total of `progress`, and calls `say` with the lines that announce the study. Before a judge is paid, it
    calls `agree`, with `prices` per million input and output tokens; `agree` raises an error to refuse. `began` is the
    time at which the command began, by `time.monotonic` (None: now); the time since then counts for a time budget.

    Raises:
        StudyError: A process failed.
        UsageError: The study does not fit into its time.
        KeyboardInterrupt: Raised again after the processes have been stopped.
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
    """Call `fit_to_budget`; if the study does not fit into its time, leave the folder free for another study."""
    try:
        return fit_to_budget(study, jobs, say, spent)
    except UsageError:
        study.discard()
        raise


def _chosen(study: Study) -> list[str]:
    """One line per method with the settings that its search has chosen."""
    own = study.plan.user_data is not None
    return [
        chosen_line(one.label, study.tried(one), rates_flag(one.method) if own else None)
        for one in study.plan.searched()
    ]


def _untimed(task: Task, seconds: float) -> None:
    """Do nothing: Ray does not report when it launches a task."""


def _ahead(study: Study) -> list[str]:
    """Lines on the remaining work, its time, the smallest detectable difference, and a study that is too small."""
    warning = too_small(study.plan, training_steps(study))
    resume = "Ctrl-C loses no finished run: repeat the command to resume."
    return [_work_ahead(study), foresight(study.plan), *([warning] if warning else []), resume]


def _work_ahead(study: Study) -> str:
    """One line on the remaining work and its time."""
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
    """The numbers of trials and of runs without a result; the base model is one of the runs."""
    entrants = study.plan.entrants
    trials = sum(map(study.trials_left, entrants))
    return trials, sum(len(study.seeds_left(one)) for one in (Entrant("base"), *entrants))


def _total(study: Study) -> int:
    return len(study.probe()) + len(study.pairs()) + 1 + sum(_work(study).values())


def _work(study: Study) -> dict[str, int]:
    """The number of trainings of each entrant: the trials of its search, and its runs."""
    plan, searched = study.plan, [one.label for one in study.plan.searched()]
    return {
        one.label: plan.seeds + (len(plan.candidates(one)) if one.label in searched else 0)
        for one in plan.entrants
    }


def _label(task: Task) -> str:
    """The label of the entrant of a trial or a run; "" for other tasks."""
    entrant = task.content.get("entrant")
    return Entrant(**entrant).label if entrant else ""


def _score(task: Task, plan: Plan) -> str:
    """The score of a trial or a run with the name of the metric, for its line; "" if it has none."""
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
    """Ask whether to pay for the trials and runs without a result, if a judge scores."""
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
    """The command that repeats the study with another number of seeds and with all methods of the report."""
    words = drop_flags(normalised_words(study.command), {"--seeds"})
    if not study.finished().keys() <= {one.label for one in study.plan.entrants}:
        flag = "--methods" if study.plan.experiment == "compare" else "--variants"
        words = [*drop_flags(words, {flag}), flag, ",".join(names_to_type(study))]
    return shlex.join(["ift", *words, "--seeds", str(seeds)])

"""Evaluates several models on the same benchmarks: a record of each, and its differences to the first."""

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ift.generation.errors import EvaluationError
from ift.lab.evaluation.harness import Harness, Setting, TaskResult, ask, is_asked
from ift.lab.evaluation.summary import Score, difference, paper_average, record, score
from ift.lab.evaluation.tasks import Benchmark, benchmarks, task_manager
from ift.lab.processes import Executor, Job
from ift.lab.report import save
from ift.lab.report.intervals import Interval
from ift.lab.report.json_files import write_json
from ift.models.loading import PLAIN_TEXT, LoadOptions, identity, load_model, short_name
from ift.models.model_folder import check_model_path, warn_of_unfinished_run
from ift.models.record import read_record
from ift.runs.parent_process import stop_with_parent
from ift.text import counted

Say = Callable[[str], object]


@dataclass(frozen=True)
class Evaluation:
    """The models and benchmarks of one `ift evaluate` command."""

    models: list[str]  # folders or Hub ids
    names: list[str]  # of the models, as tables show them
    benchmarks: tuple[Benchmark, ...]  # what is asked
    setting: Setting  # how it is asked
    output_dir: Path  # where results, samples and records go
    options: LoadOptions  # how the models are loaded


@dataclass(frozen=True)
class Evaluated:
    """One model's scores, with its results by benchmark."""

    name: str
    scores: list[Score]
    results: dict[str, list[TaskResult]]


def plan_evaluation(
    models: list[str], tasks: str, shots: int | None, setting: Setting, output_dir: Path, options: LoadOptions
) -> Evaluation:
    """Check what the user typed before anything is loaded.

    Raises:
        EvaluationError: no task, two models of one name, a missing folder, a number out of range.
        OSError: a model's folder lacks a file.
    """
    asked, names = benchmarks(tasks, shots), [short_name(model) for model in models]
    if double := {name for name in names if names.count(name) > 1}:
        same = ", ".join(model for model, name in zip(models, names, strict=True) if name in double)
        raise EvaluationError(f"{same}: two models of one name; give their folders different names")
    if setting.data is not None and not setting.data.is_dir():
        raise EvaluationError(f"--data {setting.data}: no such folder; name one that holds data sets")
    if setting.limit is not None and setting.limit < 1:
        raise EvaluationError(f"--limit: found {setting.limit}; give 1 or more questions per task")
    size = setting.batch_size
    if size != "auto" and not (size.isdigit() and int(size)):
        raise EvaluationError(f"--batch_size: found {size!r}; give auto or a whole number from 1")
    for model in models:
        check_model_path(model, allow_pickle=options.allow_pickle_weights)
        warn_of_unfinished_run(model)
    return Evaluation(models, names, asked, setting, output_dir, options)


def evaluate(evaluation: Evaluation, say: Say, executor: Executor | None = None) -> list[Evaluated]:
    """Ask every model every benchmark and save a record of each model, `MODEL/record.json`.

    `say` is called with a line for each step. With an executor each model and benchmark without a result is a job of
    its own; otherwise one is asked after the other in this process.

    Raises:
        EvaluationError: a task or its rows are missing, or a job has failed.
        OSError: a model is missing.
    """
    manager = task_manager(evaluation.benchmarks)
    if executor is not None:
        _ask_in_jobs(evaluation, manager, executor, say)
    return [
        _evaluate_model(evaluation, manager, model, name, say)
        for model, name in zip(evaluation.models, evaluation.names, strict=True)
    ]


def _evaluate_model(evaluation: Evaluation, manager: Any, model: str, name: str, say: Say) -> Evaluated:
    setting, folder = evaluation.setting, evaluation.output_dir / name
    results = _ask_model(evaluation, manager, model, name, say)
    scores = [score(benchmark, results[benchmark.label]) for benchmark in evaluation.benchmarks]
    rows = "local rows" if setting.data else "rows of the Hub"
    limited = f", {counted(setting.limit, 'question')} a task" if setting.limit else ""
    form = PLAIN_TEXT if _is_plain(model) else "chat template"
    where = f"lm-eval {version('lm-eval')}, {form}, {rows}{limited}"
    config: dict[str, Any] = {"batch_size": setting.batch_size, "dtype": setting.dtype}
    save(record(name, scores, results, where, folder, config), folder / "record.json")
    return Evaluated(name, scores, results)


def _ask_model(
    evaluation: Evaluation, manager: Any, model: str, name: str, say: Say
) -> dict[str, list[TaskResult]]:
    """The results of a model by benchmark."""

    def say_of_model(line: str) -> None:
        say(f"{name}: {line}")

    def load() -> tuple[Any, Any]:
        network, tokenizer, _, note = load_model(model, evaluation.options)
        if note:
            say_of_model(note)
        return network, tokenizer

    setting, folder, state = evaluation.setting, evaluation.output_dir / name, _state(model)
    harness = Harness(load, setting.batch_size, template=not _is_plain(model))
    return {
        one.label: ask(harness, manager, one, setting, state, folder, say_of_model)
        for one in evaluation.benchmarks
    }


def _is_plain(model: str) -> bool:
    return bool(read_record(model).prompts == PLAIN_TEXT)


def _state(model: str) -> str:
    """Tells a state of the model, and how it is prompted, from others."""
    return identity(model) + PLAIN_TEXT * _is_plain(model)


def _ask_in_jobs(evaluation: Evaluation, manager: Any, executor: Executor, say: Say) -> None:
    """Ask each model each benchmark that has no result, in a job of its own."""
    asked, work = [], []
    for model, name in zip(evaluation.models, evaluation.names, strict=True):
        folder, state = evaluation.output_dir / name, _state(model)
        for one in evaluation.benchmarks:
            if is_asked(manager, one, evaluation.setting, state, folder):
                continue
            part = replace(evaluation, models=[model], names=[name], benchmarks=(one,))
            file = folder / "logs" / f"{one.task}.json"
            write_json(file, asdict(part), default=str)
            places = (Path(model).expanduser(), evaluation.setting.data)
            reads = (file, *(place for place in places if place is not None and place.exists()))
            asked.append(f"{name}: {one.label}")
            work.append(Job(("ift.lab.evaluation.run", str(file)), file.with_suffix(".log"), None, reads))
    with closing(executor.run(work, 1)) as ended:
        for count, (place, problem) in enumerate(ended, start=1):
            if problem is not None:
                hint = f"Its output is in {work[place].log}; repeat the command to resume"
                raise EvaluationError(f"{asked[place]} {problem}\n{hint}")
            say(f"{asked[place]}: finished in a task of its own ({count} of {len(work)})")


def main(file: str) -> None:
    """Ask the one model the one benchmark of a job's file."""
    part = json.loads(Path(file).read_text(encoding="utf-8"))
    data = part["setting"].pop("data")
    evaluation = Evaluation(
        models=part["models"],
        names=part["names"],
        benchmarks=tuple(Benchmark(**one) for one in part["benchmarks"]),
        setting=Setting(data=None if data is None else Path(data), **part["setting"]),
        output_dir=Path(part["output_dir"]),
        options=LoadOptions(**part["options"]),
    )
    manager = task_manager(evaluation.benchmarks)
    _ask_model(evaluation, manager, evaluation.models[0], evaluation.names[0], print)


def differences(found: Sequence[Evaluated]) -> dict[str, dict[str, Interval]]:
    """Differences of each model to the first, by model and benchmark, with the paper's average where it is available.

    Raises:
        EvaluationError: The models were asked different questions.
    """
    first, *others = found
    gaps: dict[str, dict[str, Interval]] = {}
    for model in others:
        pairs = {base.label: ([one], [base]) for one, base in zip(model.scores, first.scores, strict=True)}
        five, bases = paper_average(model.scores), paper_average(first.scores)
        if five and bases:
            pairs["average"] = (five, bases)
        gaps[model.name] = {label: difference(*pair) for label, pair in pairs.items()}
    return gaps


def save_differences(gaps: dict[str, dict[str, Interval]], first: str, path: Path) -> None:
    """Write the differences, shares of 1, as JSON."""
    values = {model: {label: gap._asdict() for label, gap in row.items()} for model, row in gaps.items()}
    write_json(path, {"ahead_of": first, "differences": values})


if __name__ == "__main__":
    stop_with_parent()
    main(sys.argv[1])

"""`ift evaluate MODEL...`: the paper's benchmarks, or any of lm-eval's tasks, on one model or several."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ift.cli.model_options import ALLOW_PICKLE, DEVICE, DTYPE, TRUST_REMOTE_CODE
from ift.runs.extras import needs_extra

if TYPE_CHECKING:
    from rich.table import Table

    from ift.lab.evaluation.harness import Setting, TaskResult
    from ift.lab.evaluation.summary import Difference, Score
    from ift.lab.evaluation.tasks import Benchmark
    from ift.models.loading import LoadOptions


@dataclass(frozen=True)
class Evaluated:
    """One model's scores, with its results by benchmark."""

    name: str
    scores: list[Score]
    results: dict[str, list[TaskResult]]


def main(
    models: list[str], tasks: str, data: str | None, limit: int | None, shots: int | None, batch_size: str,
    output_dir: str, options: LoadOptions,
) -> int:  # fmt: skip
    """Ask, save and show; returns the exit code."""
    needs_extra("eval", "lm_eval")
    from ift.generation.errors import EvaluationError
    from ift.lab.evaluation.harness import Setting
    from ift.lab.evaluation.tasks import benchmarks
    from ift.lab.report import ReportError
    from ift.models.loading import short_name
    from ift.models.model_folder import check_model_path

    try:
        asked = benchmarks(tasks, shots)
        names = [short_name(model) for model in models]
        _check(models, names, data, limit, batch_size)
        for model in models:
            check_model_path(model, allow_pickle=options.allow_pickle_weights)
        setting = Setting(None if data is None else Path(data), limit, batch_size, options.dtype)
        began = time.perf_counter()
        found = evaluate(models, names, asked, setting, Path(output_dir), options)
        show(found, limit, Path(output_dir), time.perf_counter() - began)
    except (EvaluationError, ReportError, ValueError, OSError) as error:
        print(f"ift evaluate: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nStopped. The same command goes on with the tasks that {output_dir} lacks.", file=sys.stderr)
        return 130
    return 0


def _check(
    models: Sequence[str], names: Sequence[str], data: str | None, limit: int | None, batch_size: str
) -> None:
    from ift.generation.errors import EvaluationError

    twice = {name for name in names if names.count(name) > 1}
    if twice:
        same = ", ".join(model for model, name in zip(models, names, strict=True) if name in twice)
        raise EvaluationError(f"{same}: two models of one name; give their folders different names")
    if data is not None and not Path(data).is_dir():
        raise EvaluationError(f"--data {data}: no such folder; name one that holds data sets")
    if limit is not None and limit < 1:
        raise EvaluationError(f"--limit: found {limit}; give 1 or more questions per task")
    if batch_size != "auto" and not (batch_size.isdigit() and int(batch_size)):
        raise EvaluationError(f"--batch_size: found {batch_size!r}; give auto or a whole number from 1")


def evaluate(
    models: Sequence[str],
    names: Sequence[str],
    asked: Sequence[Benchmark],
    setting: Setting,
    out: Path,
    options: LoadOptions,
) -> list[Evaluated]:
    """Asks every model every benchmark and saves a record per model, `out/MODEL/record.json`.

    Args:
        models: Folders or Hub ids.
        names: Of the models, as tables call them.
        asked: The benchmarks.
        setting: How they are asked.
        out: Where results, samples and records go.
        options: See `load_model`.

    Returns:
        Per model, in the given order.

    Raises:
        EvaluationError: A task or its rows are missing.
        OSError: A model is.
    """
    from importlib.metadata import version

    from ift.lab.evaluation.harness import Harness, ask
    from ift.lab.evaluation.summary import record, score
    from ift.lab.evaluation.tasks import task_manager
    from ift.lab.report import save
    from ift.models.loading import PLAIN_TEXT, identity
    from ift.models.record import read_record

    manager = task_manager(asked)
    every = []
    for model, name in zip(models, names, strict=True):
        plain = read_record(model).prompts == PLAIN_TEXT
        harness = Harness(partial(_load, model, name, options), setting.batch_size, template=not plain)
        state, say = identity(model) + PLAIN_TEXT * plain, partial(_say, name)
        results = {one.label: ask(harness, manager, one, setting, state, out / name, say) for one in asked}
        scores = [score(benchmark, results[benchmark.label]) for benchmark in asked]
        rows = "local rows" if setting.data else "rows of the Hub"
        limited = f", {setting.limit} questions a task" if setting.limit else ""
        config: dict[str, Any] = {"batch_size": setting.batch_size, "dtype": setting.dtype}
        style = PLAIN_TEXT if plain else "chat template"
        where = f"lm-eval {version('lm-eval')}, {style}, {rows}{limited}"
        save(record(name, scores, results, where, out / name, config), out / name / "record.json")
        every.append(Evaluated(name, scores, results))
    return every


def _load(model: str, name: str, options: LoadOptions) -> tuple[Any, Any]:
    from ift.models.loading import load_model

    network, tokenizer, _, note = load_model(model, options)
    if note:
        _say(name, note)
    return network, tokenizer


def _say(name: str, line: str) -> None:
    print(f"{name}: {line}")


def show(found: Sequence[Evaluated], limit: int | None, out: Path, seconds: float) -> None:
    """Print the tables: scores with standard errors, differences to the first model, the paper's beside them."""
    from rich.console import Console

    console = Console()
    console.print(scores_table(found))
    if len(found) > 1:
        gaps = differences(found)
        save_differences(gaps, found[0].name, out / "comparison.json")
        console.print(differences_table(gaps, found[0].name))
    if (paper := paper_table(found)) is not None:
        console.print(paper)
    for model in found:
        for one in (score for score in model.scores if score.cut):
            console.print(
                f"{model.name}: {one.label}: {one.cut} of {one.asked} prompts did not fit the context and lost their "
                "beginning"
            )
    if limit is not None:
        console.print(f"--limit {limit}: not the benchmarks' scores, which need all questions")
    console.print(f"{seconds:.0f} s; answers in {out}/MODEL/samples, records in {out}/MODEL/record.json")


def scores_table(found: Sequence[Evaluated]) -> Table:
    """A row per benchmark, a column per model: per cent and standard error."""
    from rich.table import Table

    from ift.lab.evaluation.summary import paper_average

    table = Table("benchmark", "shots", "n", title="Scores, % ± standard error")
    for model in found:
        table.add_column(model.name, justify="right")
    for number, one in enumerate(found[0].scores):
        cells = [model.scores[number] for model in found]
        table.add_row(
            one.label, str(found[0].results[one.label][0].shots), str(len(one.items)),
            *(f"{cell.value:.2%}" + ("" if cell.stderr is None else f" ± {cell.stderr:.2%}") for cell in cells),
        )  # fmt: skip
    if (averages := [paper_average(model.scores) for model in found])[0]:
        table.add_section()
        means = [sum(one.value for one in five or []) / 5 for five in averages]
        table.add_row("average, as in the paper", "", "", *(f"{mean:.2%}" for mean in means))
    return table


def differences(found: Sequence[Evaluated]) -> dict[str, dict[str, Difference]]:
    """How far each model is ahead of the first: by model and benchmark, with the paper's average where it can be had.

    Raises:
        EvaluationError: The models were asked different questions.
    """
    from ift.lab.evaluation.summary import difference, paper_average

    first, *others = found
    gaps: dict[str, dict[str, Difference]] = {}
    for model in others:
        pairs = {base.label: ([one], [base]) for one, base in zip(model.scores, first.scores, strict=True)}
        five, bases = paper_average(model.scores), paper_average(first.scores)
        if five and bases:
            pairs["average"] = (five, bases)
        gaps[model.name] = {label: difference(*pair) for label, pair in pairs.items()}
    return gaps


def save_differences(gaps: dict[str, dict[str, Difference]], first: str, path: Path) -> None:
    """Write the differences, shares of 1, as JSON."""
    values = {model: {label: asdict(gap) for label, gap in row.items()} for model, row in gaps.items()}
    path.write_text(json.dumps({"ahead_of": first, "differences": values}, indent=1) + "\n", encoding="utf-8")


def differences_table(gaps: dict[str, dict[str, Difference]], first: str) -> Table:
    """The differences in points, with their intervals."""
    from rich.table import Table

    table = Table("benchmark", title=f"Points ahead of {first} [95 % interval, questions paired]")
    for name in gaps:
        table.add_column(name, justify="right")
    for label in next(iter(gaps.values())):
        row = [gaps[name][label] for name in gaps]
        table.add_row(
            label, *(f"{100 * gap.value:+.2f} [{100 * gap.low:+.2f}, {100 * gap.high:+.2f}]" for gap in row)
        )
    return table


def paper_table(found: Sequence[Evaluated]) -> Table | None:
    """The paper's numbers on the same benchmarks; None where there is none in common."""
    from rich.table import Table

    from ift.lab.evaluation.paper import AVERAGES, BENCHMARKS, COLUMNS

    labels = {one.label for one in found[0].scores}
    shown = [number for number, label in enumerate(COLUMNS) if label in labels]
    if not shown:
        return None
    table = Table(title="The paper's, %: Mistral-7B-v0.1 (arXiv:2405.11870v3)")
    table.add_column("method", no_wrap=True)
    for number in shown:
        table.add_column(COLUMNS[number], justify="right")
    table.add_column("average", justify="right")
    for method, values in BENCHMARKS.items():
        table.add_row(method, *(f"{values[number]:.2f}" for number in shown), f"{AVERAGES[method]:.2f}")
    return table


def command(
    models: Annotated[list[str], typer.Argument(help="Run folders, checkpoints, adapters or Hub ids.")],
    tasks: str = typer.Option(
        "paper", help="paper (all tasks of the paper), or a comma-separated list of lm-eval's tasks."
    ),
    data: str = typer.Option(
        None, help="Folder of local data sets, laid out as on the Hub (default: the Hub)."
    ),
    limit: int = typer.Option(None, help="Number of questions per task, to try it out (default: all)."),
    num_fewshot: int = typer.Option(
        None,
        "--num_fewshot",
        help="Number of examples before a question (default: the paper's).",
    ),
    batch_size: str = typer.Option("auto", "--batch_size", help="auto, or a number."),
    output_dir: str = typer.Option(
        "ift-evaluate", "--output_dir", help="Folder for results, answers and records."
    ),
    dtype: str = DTYPE,
    device: str = DEVICE,
    trust_remote_code: bool = TRUST_REMOTE_CODE,
    allow_pickle: bool = ALLOW_PICKLE,
) -> int:
    """Evaluate models on the paper's benchmarks, or on any task of lm-eval, and compare them."""
    from ift.models.loading import LoadOptions

    options = LoadOptions(dtype, device, trust_remote_code, allow_pickle)
    return main(models, tasks, data, limit, num_fewshot, batch_size, output_dir, options)

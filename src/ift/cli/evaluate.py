"""`ift evaluate MODEL...`: the paper's benchmarks, or any of lm-eval's tasks, for one or several models."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ift.cli.exit_codes import INTERRUPTED
from ift.cli.model_options import ALLOW_PICKLE, DEVICE, DTYPE, TRUST_REMOTE_CODE
from ift.cli.ray_option import RAY
from ift.runs.extras import needs_extra
from ift.text import counted

if TYPE_CHECKING:
    from ift.lab.evaluation.run import Evaluated, Evaluation
    from ift.models.loading import LoadOptions


def main(
    models: list[str], tasks: str, data: str | None, limit: int | None, shots: int | None, batch_size: str,
    output_dir: str, options: LoadOptions, ray: str | None = None,
) -> int:  # fmt: skip
    """Evaluates the models, saves and shows their scores; returns the exit code."""
    needs_extra("eval", "lm_eval")
    from ift.lab.evaluation.harness import Setting
    from ift.lab.evaluation.run import evaluate, plan_evaluation
    from ift.lab.ray_tasks import check_ray, ray_tasks

    check_ray(ray)
    console, started = Console(highlight=False), time.perf_counter()
    setting = Setting(None if data is None else Path(data).expanduser(), limit, batch_size, options.dtype)
    evaluation = plan_evaluation(models, tasks, shots, setting, Path(output_dir).expanduser(), options)
    try:
        with ray_tasks(ray) as executor:
            found = evaluate(evaluation, partial(console.print, markup=False, soft_wrap=True), executor)
    except KeyboardInterrupt:
        print(
            f"\nift evaluate: stopped. Repeat the command to run the tasks that are missing in {output_dir}.",
            file=sys.stderr,
        )
        return INTERRUPTED
    _show(found, evaluation, console)
    out = evaluation.output_dir
    for line in (
        f"answers   {out}/MODEL/samples",
        f"records   {out}/MODEL/record.json",
        f"done in {time.perf_counter() - started:.0f} s",
    ):
        console.print(line, markup=False, soft_wrap=True)
    return 0


def _show(found: Sequence[Evaluated], evaluation: Evaluation, console: Console) -> None:
    """Prints scores with standard errors, differences from the first model, and the paper's numbers."""
    from ift.lab.evaluation.run import differences, save_differences
    from ift.lab.evaluation.tables import differences_table, paper_table, scores_table

    console.print(scores_table(found))
    if len(found) > 1:
        gaps = differences(found)
        save_differences(gaps, found[0].name, evaluation.output_dir / "comparison.json")
        console.print(differences_table(gaps, found[0].name))
    if (paper := paper_table(found)) is not None:
        console.print(paper)
    for model in found:
        for one in (score for score in model.scores if score.cut):
            console.print(
                f"{model.name}: {one.label}: {one.cut} of {counted(one.asked, 'prompt')} did not fit the context and "
                f"lost {'its' if one.cut == 1 else 'their'} beginning",
                markup=False,
                soft_wrap=True,
            )
    if (limit := evaluation.setting.limit) is not None:
        console.print(f"--limit {limit}: not the benchmarks' scores, which need all questions")


def command(
    models: Annotated[list[str], typer.Argument(help="Run folders, checkpoints, adapters or Hub ids.")],
    tasks: str = typer.Option(
        "paper", help="paper (all its tasks), or a comma-separated list of lm-eval's tasks."
    ),
    data: str = typer.Option(
        None, help="Folder of local data sets, laid out as on the Hub (default: the Hub)."
    ),
    limit: int = typer.Option(None, help="Number of questions per task, for a trial (default: all)."),
    num_fewshot: int = typer.Option(
        None, "--num_fewshot", help="Number of examples before a question (default: the paper's)."
    ),
    batch_size: str = typer.Option("auto", "--batch_size", help="auto, or a number."),
    output_dir: str = typer.Option("ift-evaluate", "--output_dir", help="Folder for results and records."),
    ray: str = RAY,
    dtype: str = DTYPE,
    device: str = DEVICE,
    trust_remote_code: bool = TRUST_REMOTE_CODE,
    allow_pickle: bool = ALLOW_PICKLE,
) -> int:
    """Evaluate models on the paper's benchmarks, or on any task of lm-eval, and compare them."""
    from ift.models.loading import LoadOptions

    options = LoadOptions(dtype, device, trust_remote_code, allow_pickle)
    return main(models, tasks, data, limit, num_fewshot, batch_size, output_dir, options, ray)

"""`ift generate MODEL PROMPTS`: a model's answers to a file of prompts."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from ift.cli.column_option import COLUMNS
from ift.cli.exit_codes import INTERRUPTED
from ift.cli.model_options import ALLOW_PICKLE, DEVICE, DTYPE, TRUST_REMOTE_CODE
from ift.cli.ray_option import RAY
from ift.runs.argv import UsageError

if TYPE_CHECKING:
    from ift.generation.answers import Settings
    from ift.models.loading import LoadOptions


def _check(settings: Settings, batch_size: int, form: str | None, limit: int | None) -> None:
    from ift.generation.answer_files import FORMATS
    from ift.generation.errors import EvaluationError

    if form is not None and form not in FORMATS:
        raise EvaluationError(f"--format: found {form!r}; give one of {', '.join(FORMATS)}")
    least = {"--batch_size": batch_size, "--max_new_tokens": settings.max_new_tokens, "--limit": limit}
    for flag, value in least.items():
        if value is not None and value < 1:
            raise EvaluationError(f"{flag}: found {value}; give 1 or more")
    if settings.temperature < 0:
        raise EvaluationError(f"--temperature: found {settings.temperature}; give 0 (greedy) or more")
    if not 0 < settings.top_p <= 1:
        raise EvaluationError(f"--top_p: found {settings.top_p}; give a number above 0, up to 1")


def _check_place(model: str, endpoint: str | None, ray: str | None, options: LoadOptions) -> None:
    """Raises EvaluationError, UsageError or DataError where the model cannot answer there."""
    from ift.generation.errors import EvaluationError
    from ift.lab.ray_tasks import check_ray
    from ift.models.loading import LoadOptions
    from ift.models.model_folder import check_model_path, warn_of_unfinished_run

    check_ray(ray)
    if endpoint is not None and ray is not None:
        raise EvaluationError("--endpoint: the server does the work. Fix: leave out --ray")
    if endpoint is None:
        check_model_path(model, allow_pickle=options.allow_pickle_weights)
        warn_of_unfinished_run(model)
    elif options != LoadOptions():
        raise EvaluationError(
            "--endpoint: the server has loaded the model. Fix: leave out --dtype, --device, "
            "--trust_remote_code and --allow_pickle_weights"
        )


def command(
    model: str = typer.Argument(
        help="A run folder, checkpoint, adapter or Hub id; with --endpoint, a name there."
    ),
    prompts: str = typer.Argument(help="A .jsonl, .json, .csv or .tsv file of prompts."),
    output: str = typer.Option(None, help="File to write (default: MODEL-PROMPTS.jsonl or .json)."),
    form: str = typer.Option(
        None, "--format", help="Output format: jsonl, alpaca-eval or mt-bench (default: that of the prompts)."
    ),
    max_new_tokens: int = typer.Option(1024, "--max_new_tokens", help="Longest answer, in tokens."),
    temperature: float = typer.Option(0.0, help="Sampling temperature; 0 is greedy."),
    top_p: float = typer.Option(1.0, "--top_p", help="Nucleus sampling threshold."),
    seed: int = typer.Option(0, help="Seed of the sampling."),
    batch_size: int = typer.Option(
        8, "--batch_size", help="Prompts per batch; with --endpoint, requests at once."
    ),
    system: str = typer.Option(None, help="System prompt for every prompt that has none."),
    limit: int = typer.Option(None, help="Answer only the first N prompts."),
    columns: list[str] = COLUMNS,
    endpoint: str = typer.Option(
        None,
        help="Ask an OpenAI-compatible server, such as http://localhost:8000/v1, instead of loading the model.",
    ),
    ray: str = RAY,
    dtype: str = DTYPE,
    device: str = DEVICE,
    trust_remote_code: bool = TRUST_REMOTE_CODE,
    allow_pickle: bool = ALLOW_PICKLE,
) -> int:
    """Write a model's answers to a file of prompts: AlpacaEval's, MT-Bench's, or your own."""
    from ift.data import DataError, parse_columns
    from ift.generation.answers import Settings
    from ift.lab.generate import generate
    from ift.lab.ray_tasks import ray_tasks
    from ift.models.loading import LoadOptions

    settings = Settings(max_new_tokens, temperature, top_p, seed)
    options = LoadOptions(dtype, device, trust_remote_code, allow_pickle)
    _check(settings, batch_size, form, limit)
    try:
        renamed = parse_columns(columns)
    except DataError as error:
        raise UsageError(str(error)) from error
    _check_place(model, endpoint, ray, options)
    try:
        with ray_tasks(ray) as tasks:
            lines = generate(
                model, prompts, output, form, settings, batch_size, system, limit, options, endpoint, tasks, renamed
            )  # fmt: skip
    except KeyboardInterrupt:
        print("\nift generate: stopped. Repeat the command to resume.", file=sys.stderr)
        return INTERRUPTED
    print("\n".join(lines))
    return 0

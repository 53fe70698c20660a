"""`ift generate MODEL PROMPTS`: a model's answers to a file of prompts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ift.cli.exit_codes import INTERRUPTED
from ift.cli.model_options import ALLOW_PICKLE, DEVICE, DTYPE, TRUST_REMOTE_CODE

if TYPE_CHECKING:
    from ift.generation.answers import AnswerStore, Settings
    from ift.generation.prompts import Prompt
    from ift.models.loading import LoadedModel, LoadOptions


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


def generate(
    model: str, prompts: str, output: str | None, form: str | None, settings: Settings, batch_size: int,
    system: str | None, limit: int | None, options: LoadOptions,
) -> list[str]:  # fmt: skip
    """Answers all prompts and writes the file; returns a summary in lines.

    Raises:
        EvaluationError: The prompts cannot be read or answered.
        OSError: The model is missing.
    """
    from ift.data import ensure_chat_template
    from ift.files import check_target
    from ift.generation.answer_files import check_format, choose_format, write_answers
    from ift.generation.answers import AnswerStore, fingerprint
    from ift.generation.prompts import read_prompts
    from ift.models.loading import CHAT_TEMPLATE, PLAIN_TEXT, identity, load_model, short_name

    source = Path(prompts).expanduser()
    asked = read_prompts(source, system)[:limit]
    form = form or choose_format(asked)
    check_format(form, asked)
    name = short_name(model)
    suffix = "json" if form == "alpaca-eval" else "jsonl"
    path = Path(output).expanduser() if output else Path(f"{name}-{source.stem}.{suffix}")
    stored = path.with_name(f"{path.name}.answers")
    for target in (path, stored):
        check_target(target, [source, Path(model).expanduser()])
    loaded = load_model(model, options)
    style, note = loaded.prompts, loaded.note
    if style == PLAIN_TEXT and (several := sum(len(one.messages) > 1 or bool(one.further) for one in asked)):
        ensure_chat_template(loaded.tokenizer)
        style = CHAT_TEMPLATE
        note = f"trained on plain text, but {several} prompts have several turns: "
        note += "using a chat template that it was not trained with"
    if note:
        print(note)
    template = PLAIN_TEXT if style == PLAIN_TEXT else loaded.tokenizer.chat_template
    store = AnswerStore(stored, fingerprint(identity(model), template, settings))
    _answer(loaded, asked, settings, store, batch_size, style)
    found = [[store.get(one, turn) for turn in range(1 + len(one.further))] for one in asked]
    answers = [[turn for turn in turns if turn is not None] for turns in found]
    write_answers(path, form, name, asked, answers)
    stopped = sum(turn.stopped for turns in answers for turn in turns)
    store.path.unlink()
    return [
        f"{sum(map(len, answers))} answers to {len(asked)} prompts, {stopped} of them stopped with an end token",
        f"{form:<12} {path}",
    ]


def _answer(
    loaded: LoadedModel, prompts: Sequence[Prompt], settings: Settings, store: AnswerStore, batch_size: int, style: str
) -> None:  # fmt: skip
    """Generates the missing answers, with a progress bar."""
    from rich.progress import track

    from ift.generation.answers import answer_all

    turns = [(one, turn) for one in prompts for turn in range(1 + len(one.further))]
    before = sum(store.get(one, turn) is not None for one, turn in turns)
    if before:
        print(f"{before} of {len(turns)} answers were generated before")
    bar = iter(track(range(len(turns) - before), description="answers"))

    def progress(count: int) -> None:
        for _ in range(count):
            next(bar, None)

    answer_all(loaded.model, loaded.tokenizer, prompts, settings, store, batch_size, progress, style)
    next(bar, None)


def command(
    model: str = typer.Argument(help="A run folder, checkpoint, adapter or Hub id."),
    prompts: str = typer.Argument(help="A .jsonl or .json file of prompts."),
    output: str = typer.Option(None, help="File to write (default: MODEL-PROMPTS.jsonl or .json)."),
    form: str = typer.Option(
        None, "--format", help="Output format: jsonl, alpaca-eval or mt-bench (default: that of the prompts)."
    ),
    max_new_tokens: int = typer.Option(1024, "--max_new_tokens", help="Longest answer, in tokens."),
    temperature: float = typer.Option(0.0, help="Sampling temperature; 0 is greedy."),
    top_p: float = typer.Option(1.0, "--top_p", help="Nucleus sampling threshold."),
    seed: int = typer.Option(0, help="Seed of the sampling."),
    batch_size: int = typer.Option(8, "--batch_size", help="Number of prompts per batch."),
    system: str = typer.Option(None, help="System prompt for every prompt that has none."),
    limit: int = typer.Option(None, help="Answer only the first N prompts."),
    dtype: str = DTYPE,
    device: str = DEVICE,
    trust_remote_code: bool = TRUST_REMOTE_CODE,
    allow_pickle: bool = ALLOW_PICKLE,
) -> int:
    """Write a model's answers to a file of prompts: AlpacaEval's, MT-Bench's, or your own."""
    from ift.generation.answers import Settings
    from ift.models.loading import LoadOptions
    from ift.models.model_folder import check_model_path

    settings = Settings(max_new_tokens, temperature, top_p, seed)
    options = LoadOptions(dtype, device, trust_remote_code, allow_pickle)
    _check(settings, batch_size, form, limit)
    check_model_path(model, allow_pickle=allow_pickle)
    try:
        lines = generate(model, prompts, output, form, settings, batch_size, system, limit, options)
    except KeyboardInterrupt:
        print("\nift generate: stopped. Repeat the command to resume.", file=sys.stderr)
        return INTERRUPTED
    print("\n".join(lines))
    return 0

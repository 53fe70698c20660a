"""`ift generate MODEL PROMPTS`: a model's answers to a file of prompts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ift.generation.answers import Settings


def main(
    model: str, prompts: str, output: str | None, form: str | None, settings: Settings, batch_size: int,
    system: str | None, limit: int | None, dtype: str, device: str | None,
) -> int:  # fmt: skip
    """Answer, save and say where; returns the exit code."""
    from ift.models.model_folder import check_model_path

    try:
        _check(settings, batch_size, form, limit)
        check_model_path(model)
        lines = generate(model, prompts, output, form, settings, batch_size, system, limit, dtype, device)
    except (ValueError, OSError) as error:
        print(f"ift generate: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on with what is missing.", file=sys.stderr)
        return 130
    print("\n".join(lines))
    return 0


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
    system: str | None, limit: int | None, dtype: str, device: str | None,
) -> list[str]:  # fmt: skip
    """Answers all prompts and writes the file; returns the lines that say what was made.

    Raises:
        EvaluationError: The prompts cannot be read or answered.
        OSError: The model is missing.
    """
    from rich.progress import track

    from ift.files import check_target
    from ift.generation.answer_files import check_format, format_of, write_answers
    from ift.generation.answers import AnswerStore, answer_all, fingerprint
    from ift.generation.prompts import read_prompts
    from ift.models.loading import identity, load_model, short_name

    source = Path(prompts).expanduser()
    asked = read_prompts(source, system)[:limit]
    form = form or format_of(asked)
    check_format(form, asked)
    name = short_name(model)
    suffix = "json" if form == "alpaca-eval" else "jsonl"
    path = Path(output).expanduser() if output else Path(f"{name}-{source.stem}.{suffix}")
    kept = path.with_name(f"{path.name}.answers")
    for target in (path, kept):
        check_target(target, [source, Path(model).expanduser()])
    network, tokenizer, default = load_model(model, dtype, device)
    if default:
        print("its tokenizer has no chat template; ift's default one is used")
    decided = fingerprint(identity(model), tokenizer.chat_template, settings)
    store = AnswerStore(kept, decided)
    turns = [(one, turn) for one in asked for turn in range(1 + len(one.further))]
    before = sum(store.get(one, turn) is not None for one, turn in turns)
    if before:
        print(f"{before} of {len(turns)} answers are there from before")
    bar = iter(track(range(len(turns) - before), description="answers"))

    def progress(count: int) -> None:
        for _ in range(count):
            next(bar, None)

    answer_all(network, tokenizer, asked, settings, store, batch_size, progress)
    next(bar, None)
    found = [[store.get(one, turn) for turn in range(1 + len(one.further))] for one in asked]
    answers = [[turn for turn in turns if turn is not None] for turns in found]
    write_answers(path, form, name, asked, answers)
    ended = sum(turn.stopped for turns in answers for turn in turns)
    store.path.unlink()
    return [
        f"{sum(map(len, answers))} answers to {len(asked)} prompts, {ended} of them ended by themselves",
        f"{form:<12} {path}",
    ]

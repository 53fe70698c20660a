"""The work of `ift generate`: answers to a file of prompts, by a model that is loaded here or behind a server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

from rich.console import Console

from ift.data.tables import table_notes
from ift.files import check_target
from ift.generation.answer_files import check_format, choose_format, write_answers
from ift.generation.answers import AnswerStore, Settings, Turn, fingerprint
from ift.generation.prompt_checks import leave_out, not_sent, unused_content
from ift.generation.prompts import Prompt, read_prompts
from ift.lab.local_answers import Answer, Source, answer_here, answer_in_jobs
from ift.lab.processes import Executor
from ift.lab.progress import WorkProgress
from ift.models.loading import LoadOptions, short_name
from ift.runs.extras import needs_extra
from ift.text import counted


def generate(
    model: str, prompts: str, output: str | None, form: str | None, settings: Settings, batch_size: int,
    system: str | None, limit: int | None, options: LoadOptions, endpoint: str | None = None,
    executor: Executor | None = None, columns: Mapping[str, str] | None = None,
) -> list[str]:  # fmt: skip
    """Answers all prompts and writes the file; returns a summary in lines.

    Args:
        model: A run folder, checkpoint, adapter or Hub id; with an endpoint, the model's name there.
        prompts: A file, see `read_prompts`.
        output: The file to write; None: named after model and prompts.
        form: One of `FORMATS`; None: that of the prompts.
        settings: How answers are generated.
        batch_size: Prompts per batch; with an endpoint, requests at once.
        system: A system prompt for every prompt that has none.
        limit: Answer only the first so many.
        options: How the model is loaded.
        endpoint: The address of an OpenAI-compatible server, such as http://localhost:8000/v1; None: load the model.
        executor: Runs processes that each answer a part of the prompts; None: this process answers all.
        columns: Columns of the file to rename, old name to new.

    Raises:
        EvaluationError: The prompts cannot be read, or not a single one can be answered.
        JudgeError: The endpoint cannot be used or does not answer.
        OSError: The model is missing.
        ValueError: The output exists.
    """
    source = Path(prompts).expanduser()
    asked = read_prompts(source, system, columns)[:limit]
    form = form or choose_format(asked)
    check_format(form, asked)
    name = short_name(model)
    suffix = "json" if form == "alpaca-eval" else "jsonl"
    path = Path(output).expanduser() if output else Path(f"{name}-{source.stem}.{suffix}")
    stored = path.with_name(f"{path.name}.answers")
    inputs = [source] if endpoint else [source, Path(model).expanduser()]
    check_target(path, inputs, replaces=lambda start: False)
    check_target(stored, inputs)
    local = (model, asked, settings, batch_size, options)
    if executor is not None:
        answers_of = answer_in_jobs(executor, source, stored, system, columns, *local)
    elif endpoint is None:
        answers_of = answer_here(*local)
    else:
        answers_of = _served(endpoint, model, settings, batch_size)
    fit, left_out = leave_out(asked, answers_of.problem_of)
    notes = [*table_notes([source]), left_out, *unused_content(fit), *answers_of.omissions_of(fit)]
    for note in filter(None, notes):
        print(note)
    store = AnswerStore(stored, answers_of.fingerprint)
    _answer(fit, store, answers_of.answer)
    found = [[store.get(one, turn) for turn in range(1 + len(one.further))] for one in fit]
    answers = [[turn for turn in turns if turn is not None] for turns in found]
    write_answers(path, form, name, fit, answers)
    store.path.unlink()
    some = f"{len(fit)} of " if left_out else ""
    return [_counts(answers, f"{some}{counted(len(asked), 'prompt')}"), f"{form:<12} {path}"]


def _counts(answers: Sequence[Sequence[Turn]], prompts: str) -> str:
    turns = [turn for of_prompt in answers for turn in of_prompt]
    stopped, empty = sum(turn.stopped for turn in turns), sum(not turn.text.strip() for turn in turns)
    without = f", {empty} without text" if empty else ""
    stop = "stops with its" if stopped == 1 else "stop with their"
    return f"{counted(len(turns), 'answer')} to {prompts}, {stopped} of them {stop} end token{without}"


def _served(address: str, model: str, settings: Settings, threads: int) -> Source:
    """A model behind a server."""
    needs_extra("judge", "httpx2")
    from ift.lab.served_answers import answer_all_served, open_endpoint

    endpoint = open_endpoint(address, model, settings)

    def answer(prompts: Sequence[Prompt], store: AnswerStore, progress: Callable[[int], None]) -> None:
        with closing(endpoint):
            answer_all_served(endpoint, prompts, settings, store, threads, progress)

    return Source(fingerprint(f"{address} {model}", "the server's", settings), answer, not_sent)


def _answer(prompts: Sequence[Prompt], store: AnswerStore, answer: Answer) -> None:
    """Asks for the missing answers, with a progress bar."""
    turns = [(one, turn) for one in prompts for turn in range(1 + len(one.further))]
    before = sum(store.get(one, turn) is not None for one, turn in turns)
    if before:
        print(
            f"{before} of {counted(len(turns), 'answer')} {'was' if before == 1 else 'were'} generated before"
        )
    with WorkProgress(Console(stderr=True), len(turns) - before) as progress:
        progress.describe("answers")
        answer(prompts, store, lambda count: progress.advance("answers", count=count))

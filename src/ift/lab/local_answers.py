"""Answers of a model that is loaded here, for `ift generate`: in this process, or in several that each have a part."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from glob import escape
from pathlib import Path
from typing import Any

from ift.data import ensure_chat_template
from ift.generation.answers import AnswerStore, Settings, answer_all, fingerprint
from ift.generation.errors import EvaluationError
from ift.generation.plain_decoding import unused_rules
from ift.generation.prompt_checks import omissions, refused_by_template
from ift.generation.prompts import Prompt, prompt_ids, read_prompts
from ift.lab.processes import Executor, Job
from ift.lab.report.json_files import write_json
from ift.models.loading import (
    CHAT_TEMPLATE,
    PLAIN_TEXT,
    LoadOptions,
    identity,
    load_generation_config,
    load_model,
    load_writer,
)
from ift.runs.parent_process import stop_with_parent
from ift.text import counted

# answers what the store lacks; calls its last argument with the number of new answers
Answer = Callable[[Sequence[Prompt], AnswerStore, Callable[[int], None]], None]


@dataclass(frozen=True)
class Source:
    """What answers the prompts of a file.

    Attributes:
        fingerprint: Of its answers.
        answer: Generates what is missing.
        problem_of: Problem and fix of a prompt that it cannot be asked, see `leave_out`.
        omissions_of: Lines about what it does not see of prompts.
    """

    fingerprint: str
    answer: Answer
    problem_of: Callable[[Prompt], tuple[str, str] | None]
    omissions_of: Callable[[Sequence[Prompt]], list[str]] = lambda prompts: []


def answer_here(
    model: str, asked: list[Prompt], settings: Settings, batch_size: int, options: LoadOptions
) -> Source:
    """A model that is loaded here."""
    loaded = load_model(model, options)
    style, template = _written(asked, loaded.tokenizer, loaded.prompts, loaded.note)
    _say_unused_rules(model, options)

    def answer(prompts: Sequence[Prompt], store: AnswerStore, progress: Callable[[int], None]) -> None:
        answer_all(loaded.model, loaded.tokenizer, prompts, settings, store, batch_size, progress, style)

    key = fingerprint(identity(model), template, settings)
    return Source(
        key, answer, refused_by_template(loaded.tokenizer, style), partial(omissions, loaded.tokenizer, style)
    )


def answer_in_jobs(
    executor: Executor, source: Path, path: Path, system: str | None, columns: Mapping[str, str] | None,
    model: str, asked: list[Prompt], settings: Settings, batch_size: int, options: LoadOptions,
) -> Source:  # fmt: skip
    """The same in processes of an executor, each of which loads the model and answers a part of the prompts.

    A part has every n-th of the batches that `answer_all` would make, so first turns get the answers of one process; a
    second turn is in a batch of its part, as with another batch size.

    Args:
        executor: Runs the processes.
        source: The file of prompts.
        path: The file of the parts' answers, with their number appended; parts of an earlier command are taken over.
        system: System prompt of `read_prompts`.
        columns: Renamed columns of `read_prompts`.
        model: See `answer_here`.
        asked: The prompts.
        settings: How answers are generated.
        batch_size: Prompts per batch.
        options: How the model is loaded.
    """
    tokenizer, prompts_as, note = load_writer(model, options)
    style, template = _written(asked, tokenizer, prompts_as, note)
    _say_unused_rules(model, options)
    key = fingerprint(identity(model), template, settings)

    content = {
        "model": model, "prompts": str(source), "system": system, "columns": columns, "settings": asdict(settings),
        "batch_size": batch_size, "options": asdict(options),
    }  # fmt: skip

    def answer(prompts: Sequence[Prompt], store: AnswerStore, progress: Callable[[int], None]) -> None:
        earlier = [one for one in path.parent.glob(f"{escape(path.name)}.*") if one.suffix[1:].isdigit()]
        progress(sum(_take_over(file, prompts, store) for file in earlier))
        missing = [one for one in prompts if _turns(one, store, missing=True)]
        missing.sort(key=lambda one: len(prompt_ids(tokenizer, list(one.messages), style, one.template)))
        batches = [missing[start : start + batch_size] for start in range(0, len(missing), batch_size)]
        parts = min(executor.at_once(1), len(batches))
        files = [path.with_name(f"{path.name}.{part}") for part in range(parts)]
        work = [
            _job(file, [one for batch in batches[part::parts] for one in batch], store, content)
            for part, file in enumerate(files)
        ]
        with closing(executor.run(work, 1)) as ended:
            for part, problem in ended:
                if problem is not None:
                    hint = f"Its output is in {work[part].log}; repeat the command to resume"
                    raise EvaluationError(f"part {part + 1} of the prompts {problem}\n{hint}")
                progress(_take_over(files[part], prompts, store))

    return Source(key, answer, refused_by_template(tokenizer, style), partial(omissions, tokenizer, style))


def _job(file: Path, prompts: Sequence[Prompt], store: AnswerStore, content: dict[str, Any]) -> Job:
    """The process that answers a part of the prompts into a file, which it finds what is answered of them in."""
    known = [
        (one, turn, found)
        for one in prompts
        for turn in _turns(one, store)
        if (found := store.get(one, turn))
    ]
    AnswerStore(file, store.fingerprint).add(known)
    task = Path(f"{file}.json")
    write_json(task, {**content, "keys": [one.key for one in prompts], "answers": str(file)})
    model = Path(content["model"]).expanduser()  # a name on the Hub is no folder
    reads = (task, Path(content["prompts"]), *([model] if model.exists() else []))
    return Job(("ift.lab.local_answers", str(task)), Path(f"{file}.log"), None, reads)


def _take_over(file: Path, prompts: Sequence[Prompt], store: AnswerStore) -> int:
    """Add the answers of a part to the store, and delete its files; returns the number of answers that are new."""
    part = AnswerStore(file, store.fingerprint)
    new = [
        (one, turn, found)
        for one in prompts
        for turn in _turns(one, store, missing=True)
        if (found := part.get(one, turn))
    ]
    store.add(new)
    for one in (file, Path(f"{file}.json"), Path(f"{file}.log")):
        one.unlink(missing_ok=True)
    return len(new)


def _turns(prompt: Prompt, store: AnswerStore, missing: bool = False) -> list[int]:
    """The turns of a prompt that are answered, or those that are missing."""
    turns = range(1 + len(prompt.further))
    return [turn for turn in turns if (store.get(prompt, turn) is None) == missing]


def _written(asked: Sequence[Prompt], tokenizer: Any, style: str, note: str) -> tuple[str, str]:
    """How prompts are written, and the chat template or "plain text"; a note for the user is printed."""
    if style == PLAIN_TEXT and (several := sum(len(one.messages) > 1 or bool(one.further) for one in asked)):
        ensure_chat_template(tokenizer)
        style = CHAT_TEMPLATE
        note = f"trained on plain text, but {counted(several, 'prompt has', 'prompts have')} several turns: "
        note += "using a chat template that it was not trained with"
    if note:
        print(note)
    return style, PLAIN_TEXT if style == PLAIN_TEXT else tokenizer.chat_template


def _say_unused_rules(model: str, options: LoadOptions) -> None:
    if rules := unused_rules(load_generation_config(model, options)):
        print(rules)


def main(file: str) -> None:
    """Answer the prompts of a part."""
    part = json.loads(Path(file).read_text(encoding="utf-8"))
    prompts = {one.key: one for one in read_prompts(Path(part["prompts"]), part["system"], part["columns"])}
    asked = [prompts[key] for key in part["keys"]]
    settings, options = Settings(**part["settings"]), LoadOptions(**part["options"])
    source = answer_here(part["model"], asked, settings, part["batch_size"], options)
    source.answer(asked, AnswerStore(Path(part["answers"]), source.fingerprint), lambda count: None)


if __name__ == "__main__":
    stop_with_parent()
    main(sys.argv[1])

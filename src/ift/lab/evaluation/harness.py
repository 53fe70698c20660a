"""Evaluates one model on one lm-eval task after the other; keeps results, so that a stopped run resumes."""

import dataclasses
import hashlib
import io
import json
import logging
import random
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ift.generation.errors import EvaluationError
from ift.lab.evaluation.tasks import Benchmark, data_folders, load_task, local_rows, single_tasks
from ift.lab.report.decode import ReportError, decode
from ift.lab.report.json_files import write_json, write_json_lines
from ift.text import counted

FEWSHOT_SEED = 1234  # of lm-eval's command
CPU_BATCH_SIZE = 8  # lm-eval finds `auto` by running out of memory, which a CPU does not survive
LOG_SECONDS = 30.0  # between two lines of progress where there is no terminal


@dataclass(frozen=True)
class TaskResult:
    """A model's score on one task with questions of its own."""

    task: str  # lm-eval's name
    version: str  # of the task
    shots: int  # examples before each question
    # lm-eval's numbers by `metric,filter`, the standard errors (`metric_stderr,filter`) among them
    metrics: dict[str, float]
    items: dict[str, list[float]]  # the score of each question, by `metric,filter`
    questions: list[str]  # a hash of each question, in the order of `items`
    cut: int  # prompts that did not fit the model's context and lost their beginning
    asked: int  # prompts in all
    fingerprint: str  # a hash of everything that decides the result


@dataclass(frozen=True)
class Setting:
    """How all models are asked; `data` is a folder of data sets (None: the Hub), `limit` the questions per task."""

    data: Path | None = None
    limit: int | None = None
    batch_size: str = "auto"
    dtype: str = "auto"


class LogLines(tqdm):
    """A progress bar as lines of a log on standard error, one every `LOG_SECONDS`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "mininterval": LOG_SECONDS, "file": io.StringIO()})

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write a line in place of the bar; none at its beginning and end."""
        if 0 < self.n < (self.total or self.n + 1) and msg is None:
            seconds = self.format_interval(self.format_dict["elapsed"])
            name = self.desc.rstrip(": ") or "progress"
            print(f"{name}: {self.n} of {self.total or '?'} in {seconds}", file=sys.stderr, flush=True)


class Harness:
    """lm-eval's model, loaded when the first task is really asked; `template`: questions use the chat template."""

    def __init__(
        self, load: Callable[[], tuple[Any, Any]], batch_size: str, *, template: bool = True
    ) -> None:
        self._load, self._batch_size, self.template = load, batch_size, template

    @cached_property
    def model(self) -> Any:
        """lm-eval's wrapper around the model."""
        from lm_eval.models import huggingface

        # it warns of every cut prompt; `TaskResult.cut` counts them
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        if not sys.stderr.isatty():
            huggingface.tqdm = LogLines
        model, tokenizer = self._load()
        on_cpu = self._batch_size == "auto" and model.device.type == "cpu"
        size = str(CPU_BATCH_SIZE) if on_cpu else self._batch_size
        return huggingface.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=size)


def ask(
    harness: Harness,
    manager: Any,
    benchmark: Benchmark,
    setting: Setting,
    identity: str,
    folder: Path,
    say: Callable[[str], None],
) -> list[TaskResult]:
    """Asks a benchmark's tasks, or reads the results of an earlier run with the same model, rows and settings.

    `manager` is lm-eval's `TaskManager`; `identity` tells the state of the model from others. Results and samples are
    kept in `folder`, `tasks/NAME.json` and `samples/NAME.jsonl`; those of the same task with other rows, another number
    of questions or an earlier state of the model in `earlier`. `say` is called with a line for each step.

    Returns:
        A result per task with questions of its own; of a group, with local data, for those that have rows.

    Raises:
        EvaluationError: There are no rows, or too few examples.
    """
    names = single_tasks(manager, benchmark.task)
    results, absent = [], []
    for number, name in enumerate(names, start=1):
        fingerprint = _fingerprint(manager, name, benchmark, setting, identity)
        _put_in_place(folder, name, fingerprint)
        kept = _kept(folder, name, fingerprint)
        place = f"{name} ({number} of {len(names)})" if len(names) > 1 else name
        if kept is not None:
            say(f"{place}: done before")
            results.append(kept)
            continue
        task = load_task(manager, name, setting.data)
        if task is None:
            absent.append(name)
            continue
        say(f"{place}: asking")
        results.append(_asked(harness, task, name, benchmark.shots, setting, fingerprint, folder))
    if not results:
        raise EvaluationError(_no_rows(manager, names[0], setting.data))
    if absent:
        say(
            f"{benchmark.label}: no rows for {len(absent)} of its {counted(len(names), 'task')}, which are left out"
        )
    return results


def is_asked(manager: Any, benchmark: Benchmark, setting: Setting, identity: str, folder: Path) -> bool:
    """Whether `ask` with these arguments would find all results in the folder."""
    for name in single_tasks(manager, benchmark.task):
        if setting.data is not None and local_rows(manager.task_index[name].cfg, setting.data) is None:
            continue
        one = _fingerprint(manager, name, benchmark, setting, identity)
        if not (_kept(folder, name, one) or _kept(_aside(folder, one), name, one)):
            return False
    return True


def _fingerprint(manager: Any, name: str, benchmark: Benchmark, setting: Setting, identity: str) -> str:
    """Hex digits that differ where the result of a task may differ."""
    facts = [name, identity, benchmark.shots, setting.limit, setting.dtype, version("lm-eval")]
    facts += _rows_identity(manager.task_index[name].cfg, setting.data)
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()


def _aside(folder: Path, fingerprint: str) -> Path:
    """Where the result with a fingerprint is kept while another one of the same task is in `folder`."""
    return folder / "earlier" / fingerprint[:12]


def _put_in_place(folder: Path, name: str, fingerprint: str) -> None:
    """Move a task's files with another fingerprint aside, and those with this one back if they were moved before."""
    files = (Path("tasks", f"{name}.json"), Path("samples", f"{name}.jsonl"))
    found = _read_result(folder / files[0])
    if found is not None and found.fingerprint == fingerprint:
        return
    moves = [] if found is None else [(folder, _aside(folder, found.fingerprint))]
    for origin, goal in [*moves, (_aside(folder, fingerprint), folder)]:
        for file in files:
            if (origin / file).exists():
                (goal / file).parent.mkdir(parents=True, exist_ok=True)
                (origin / file).replace(goal / file)


def _no_rows(manager: Any, name: str, data: Path | None) -> str:
    config = manager.task_index[name].cfg
    places = " or ".join(str(place) for place in data_folders(config, data or Path()))
    return (
        f"--data: no rows for {name}. Fix: put its splits into {places}, in the schema of "
        f"{config['dataset_path']}, or leave the task out of --tasks"
    )


def _rows_identity(config: dict[str, Any], data: Path | None) -> list[Any]:
    folders = [] if data is None else [place for place in data_folders(config, data) if place.is_dir()]
    files = [(file, file.stat()) for file in sorted(folders[0].iterdir())] if folders else []
    return [config.get("metadata"), *[(file.name, found.st_size, found.st_mtime_ns) for file, found in files]]


def _asked(
    harness: Harness,
    task: Any,
    name: str,
    shots: int | None,
    setting: Setting,
    fingerprint: str,
    folder: Path,
) -> TaskResult:
    import torch
    from lm_eval.evaluator import evaluate

    # What lm-eval's command does between loading a task and asking it, but for its inquiry into the machine (`pip
    # list` and more, seconds per task)
    own = task.config.num_fewshot
    shots = own or 0 if shots is None or own == 0 else shots  # lm-eval's rule: a task that says 0 keeps it
    task.set_config(key="num_fewshot", value=shots)
    task.set_fewshot_seed(seed=FEWSHOT_SEED)
    random.seed(0)
    np.random.seed(FEWSHOT_SEED)  # noqa: NPY002
    torch.manual_seed(FEWSHOT_SEED)
    _check_examples(task, name, shots)
    found = evaluate(
        harness.model,
        {"tasks": {name: task}, "groups": {}},
        limit=setting.limit,
        apply_chat_template=harness.template,
        fewshot_as_multiturn=harness.template,
        bootstrap_iters=1000,
        log_samples=True,
    )
    samples = found["samples"][name]
    metrics = {
        key: float(value)
        for key, value in found["results"][name].items()
        if "," in key and isinstance(value, int | float)
    }
    cut, asked = _cut_prompts(samples, harness.model)
    result = TaskResult(
        task=name,
        version=str(found["versions"].get(name)),
        shots=int(found["n-shot"][name]),
        metrics=metrics,
        items=_items(samples, metrics),
        questions=[one["doc_hash"] for one in samples if one["filter"] == samples[0]["filter"]],
        cut=cut,
        asked=asked,
        fingerprint=fingerprint,
    )
    write_json_lines(folder / "samples" / f"{name}.jsonl", samples, default=str, ensure_ascii=False)
    write_json(folder / "tasks" / f"{name}.json", dataclasses.asdict(result), indent=None)
    return result


def _check_examples(task: Any, name: str, shots: int) -> None:
    if not shots:
        return
    config = task.config
    asked = config.test_split or config.validation_split
    validation = config.validation_split if config.test_split else None
    pool = config.fewshot_split or config.training_split or validation
    own = getattr(config.fewshot_config, "samples", None)
    there = len(task.fewshot_docs()) if pool or own else 0
    if there < shots:
        raise EvaluationError(
            f"{name}: its prompts need {counted(shots, 'example')}, and outside of the split {asked!r} there "
            f"{'is' if there == 1 else 'are'} {there}. Fix: add rows to the split that examples come from, or set "
            "--num_fewshot"
        )


def _items(samples: Sequence[dict[str, Any]], metrics: dict[str, float]) -> dict[str, list[float]]:
    """Scores by question: those of a metric that are plain numbers, in the order of the questions."""
    items: dict[str, list[float]] = {}
    for key in metrics:
        metric, _, filtered = key.partition(",")
        values: list[Any] = [one.get(metric) for one in samples if one["filter"] == filtered]
        if values and all(isinstance(one, int | float | bool) or hasattr(one, "item") for one in values):
            items[key] = [float(value) for value in values]
    return items


def _cut_prompts(samples: Sequence[dict[str, Any]], model: Any) -> tuple[int, int]:
    """How many prompts were longer than the context allows (lm-eval drops their beginning), and how many there are."""
    prompts: dict[tuple[str, str], int] = {}
    for sample in samples:
        for context, rest in sample["arguments"]:
            room = model.max_length + 1
            if isinstance(rest, dict):  # of a generation: what it may write must fit too
                room, rest = model.max_length - rest.get("max_gen_toks", model.max_gen_toks), ""
            prompts[context, rest] = room
    cut = sum(len(model.tok_encode(context + rest)) > room for (context, rest), room in prompts.items())
    return cut, len(prompts)


def _read_result(path: Path) -> TaskResult | None:
    with suppress(OSError, ValueError, ReportError):
        return decode(TaskResult, json.loads(path.read_text(encoding="utf-8")))
    return None


def _kept(folder: Path, name: str, fingerprint: str) -> TaskResult | None:
    """The result of a task in a folder, if it has the fingerprint."""
    result = _read_result(folder / "tasks" / f"{name}.json")
    return result if result is not None and result.fingerprint == fingerprint else None

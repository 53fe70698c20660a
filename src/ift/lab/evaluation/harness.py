"""One model asked one task after the other by lm-eval; results are kept, so that a stopped run resumes."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import logging
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ift.generation.errors import EvaluationError
from ift.lab.evaluation.tasks import Benchmark, data_folders, load_task, single_tasks
from ift.lab.report.decode import decode
from ift.lab.report.errors import ReportError
from ift.lab.report.json_files import write_json, write_json_lines

FEWSHOT_SEED = 1234  # of lm-eval's command
CPU_BATCH_SIZE = 8  # lm-eval finds `auto` by running out of memory, which a CPU does not survive
LOG_SECONDS = 30.0  # between two lines of progress where there is no terminal


@dataclass(frozen=True)
class TaskResult:
    """What a model scored on one task with questions of its own.

    Attributes:
        task: lm-eval's name.
        version: Of the task.
        shots: Examples before each question.
        metrics: lm-eval's numbers by `metric,filter`, the standard errors (`metric_stderr,filter`) among them.
        items: The score of each question, by `metric,filter`.
        questions: A hash of each question, in the order of `items`.
        cut: Prompts that did not fit the model's context and lost their beginning.
        asked: Prompts in all.
        fingerprint: Of all that decides the result.
    """

    task: str
    version: str
    shots: int
    metrics: dict[str, float]
    items: dict[str, list[float]]
    questions: list[str]
    cut: int
    asked: int
    fingerprint: str


@dataclass(frozen=True)
class Setting:
    """How all models are asked.

    Attributes:
        data: Folder of local data sets; None: the Hub.
        limit: Questions per task; None: all.
        batch_size: A number or `auto`.
        dtype: Of the weights.
    """

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
    """lm-eval's model and what it needs, loaded when the first task is really asked.

    Attributes:
        template: Whether questions are asked through the chat template; of a model trained on plain text they are not.
    """

    def __init__(
        self, load: Callable[[], tuple[Any, Any]], batch_size: str, *, template: bool = True
    ) -> None:
        self._load, self._batch_size, self.template = load, batch_size, template
        self._loaded: Any = None

    @property
    def model(self) -> Any:
        """lm-eval's wrapper around the model."""
        if self._loaded is None:
            from lm_eval.models import huggingface

            # it warns of every cut prompt; `TaskResult.cut` counts them
            logging.getLogger("lm_eval").setLevel(logging.ERROR)
            if not sys.stderr.isatty():
                huggingface.tqdm = LogLines
            model, tokenizer = self._load()
            size = self._batch_size
            if size == "auto" and model.device.type == "cpu":
                size = str(CPU_BATCH_SIZE)
            self._loaded = huggingface.HFLM(pretrained=model, tokenizer=tokenizer, batch_size=size)
        return self._loaded


def ask(
    harness: Harness,
    manager: Any,
    benchmark: Benchmark,
    setting: Setting,
    identity: str,
    folder: Path,
    say: Callable[[str], None],
) -> list[TaskResult]:
    """Asks a benchmark's tasks, or reads what an earlier run with the same model, rows and settings left.

    Args:
        harness: The model.
        manager: lm-eval's `TaskManager`.
        benchmark: What to ask.
        setting: How.
        identity: Tells the state of the model from others.
        folder: Where results and samples are kept, `tasks/NAME.json` and `samples/NAME.jsonl`.
        say: Called with a line for each step.

    Returns:
        A result per task with questions of its own; of a group, with local data, for those that have rows.

    Raises:
        EvaluationError: There are no rows, or too few examples.
    """
    names = single_tasks(manager, benchmark.task)
    results, absent = [], []
    for number, name in enumerate(names, start=1):
        facts = [name, identity, benchmark.shots, setting.limit, setting.dtype, version("lm-eval")]
        facts += _rows_identity(manager.task_index[name].cfg, setting.data)
        fingerprint = hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()
        kept = _kept(folder / "tasks" / f"{name}.json", fingerprint)
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
        say(f"{benchmark.label}: no rows for {len(absent)} of its {len(names)} tasks, which are left out")
    return results


def _no_rows(manager: Any, name: str, data: Path | None) -> str:
    config = manager.task_index[name].cfg
    places = " or ".join(str(place) for place in data_folders(config, data or Path()))
    return (
        f"--data: no rows for {name}. Fix: put its splits into {places}, in the schema of "
        f"{config['dataset_path']}, or leave the task out of --tasks"
    )


def _rows_identity(config: dict[str, Any], data: Path | None) -> list[Any]:
    folders = [] if data is None else [place for place in data_folders(config, data) if place.is_dir()]
    files = sorted(folders[0].iterdir()) if folders else []
    return [
        config.get("metadata"),
        *[(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files],
    ]


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
    shots = _shots(task, shots)
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


def _shots(task: Any, shots: int | None) -> int:
    """Examples to show, by lm-eval's rule: a task that says 0 keeps it."""
    own = task.config.num_fewshot
    return own or 0 if shots is None or own == 0 else shots


def _check_examples(task: Any, name: str, shots: int) -> None:
    if not shots:
        return
    config = task.config
    asked = config.test_split or config.validation_split
    pool = (
        config.fewshot_split
        or config.training_split
        or (config.validation_split if config.test_split else None)
    )
    own = getattr(config.fewshot_config, "samples", None)
    there = len(task.fewshot_docs()) if pool or own else 0
    if there < shots:
        raise EvaluationError(
            f"{name}: it shows {shots} examples, and {there} are there to choose from besides the split {asked!r}. "
            f"Fix: add rows to the split that examples come from, or say --num_fewshot"
        )


def _items(samples: Sequence[dict[str, Any]], metrics: dict[str, float]) -> dict[str, list[float]]:
    """Scores by question: those of a metric that are plain numbers, in the order of the questions."""
    items: dict[str, list[float]] = {}
    for key in metrics:
        metric, _, filtered = key.partition(",")
        values: list[Any] = [one.get(metric) for one in samples if one["filter"] == filtered]
        if values and all(
            isinstance(value, int | float | bool) or hasattr(value, "item") for value in values
        ):
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


def _kept(path: Path, fingerprint: str) -> TaskResult | None:
    try:
        result = decode(TaskResult, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ReportError):
        return None
    return result if result.fingerprint == fingerprint else None

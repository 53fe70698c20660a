"""Which of lm-eval's tasks are asked, with how many examples, and where their rows come from."""

import glob
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ift.data.hub import go_offline_if_unreachable
from ift.data.loading import load_files
from ift.generation.errors import EvaluationError
from ift.text import did_you_mean, quoted

OUR_TASKS = Path(__file__).parent / "tasks"
_PAPER_FOLDERS = ("arc", "mmlu/default", "truthfulqa", "winogrande", "gsm8k")  # of lm-eval's own tasks
_SUFFIXES = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
_SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")


@dataclass(frozen=True)
class Benchmark:
    """A task or a group of tasks, asked in one way."""

    task: str  # lm-eval's name
    label: str  # as tables call it
    shots: int | None = None  # examples before the question; None: the task's own number
    # lm-eval's name of the headline score, with its filter; None: the first that the task has
    metric: str | None = None


PAPER = (
    Benchmark("arc_challenge", "ARC", 25, "acc_norm,none"),
    Benchmark("ift_arc_gen", "ARC-Gen", 25, "exact_match,letter"),
    Benchmark("mmlu", "MMLU", 5, "acc,none"),
    Benchmark("truthfulqa_mc2", "TruthfulQA", 0, "acc,none"),
    Benchmark("winogrande", "WinoGrande", 5, "acc,none"),
    Benchmark("gsm8k", "GSM8K", 5, "exact_match,strict-match"),
)


def benchmarks(names: str, shots: int | None = None) -> tuple[Benchmark, ...]:
    """The benchmarks of `--tasks`, each once in the order given.

    Args:
        names: Names with commas between them: `paper` for all of the paper's, its labels or lm-eval's names. One of the
            paper's keeps its label, shots and metric under any name.
        shots: Examples for all of them; None: the paper's for its benchmarks, else the task's own number.

    Raises:
        EvaluationError: No name was given.
    """
    known = {name.casefold(): one for one in PAPER for name in (one.task, one.label)}
    asked: dict[str, Benchmark] = {}
    for name in (part.strip() for part in names.split(",")):
        found = PAPER if name == "paper" else (known.get(name.casefold(), Benchmark(name, name)),)
        asked.update({one.task: one for one in found if one.task})
    if not asked:
        raise EvaluationError("--tasks: found no name; give paper, or names such as gsm8k,arc_challenge")
    if shots is None:
        return tuple(asked.values())
    return tuple(Benchmark(one.task, one.label, shots, one.metric) for one in asked.values())


def task_manager(asked: Sequence[Benchmark]) -> Any:
    """lm-eval's index of tasks with ours in it; of all its tasks (many seconds) only where the paper's do not do."""
    import lm_eval.tasks

    own = Path(lm_eval.tasks.__file__).parent
    if {one.task for one in asked} <= {one.task for one in PAPER}:
        folders = [own / folder for folder in _PAPER_FOLDERS]
        return lm_eval.tasks.TaskManager(include_path=[*folders, OUR_TASKS], include_defaults=False)
    return lm_eval.tasks.TaskManager(include_path=OUR_TASKS)


def single_tasks(manager: Any, name: str) -> list[str]:
    """The tasks with questions of their own that a task, group or tag of lm-eval's `TaskManager` stands for, each once.

    Raises:
        EvaluationError: The name is unknown, or a group changes its members' settings, which is not followed here.
    """
    entry = manager.task_index.get(name)
    if entry is None:
        near = did_you_mean(name, [*manager.task_index, "paper"])
        hint = near or "; `lm-eval ls tasks` lists those there are."
        raise EvaluationError(f"--tasks: unknown task {name!r}{hint}")
    if entry.kind.name == "TAG":
        members: Iterable[Any] = sorted(entry.tags)
    elif entry.kind.name == "GROUP":
        members = entry.cfg["task"]
    else:
        return [name]
    if any(not isinstance(member, str) for member in members):
        raise EvaluationError(
            f"--tasks: the group {name} changes its members' settings; name its tasks one by one instead"
        )
    return list(dict.fromkeys(leaf for member in members for leaf in single_tasks(manager, member)))


def load_task(manager: Any, name: str, data: Path | None) -> Any | None:
    """lm-eval's task object with its rows, from the Hub or a folder of local data sets, `data`.

    None where `data` has no folder for the task.

    Raises:
        EvaluationError: Its folder lacks the split that is asked, or the Hub does not give its rows.
    """
    changes: dict[str, Any] | None = {} if data is None else local_rows(manager.task_index[name].cfg, data)
    if changes is None:
        return None
    if data is None:
        go_offline_if_unreachable()
    try:
        loaded = manager.load({"group": f"only {name}", "task": [{"task": name, **changes}]})
    except Exception as error:
        if data is not None:
            raise
        raise EvaluationError(
            f"{name}: its rows ({manager.task_index[name].cfg.get('dataset_path')}) cannot be loaded from the Hub: "
            f"{quoted(error)}. Fix: check the connection; without a network, put the rows into a folder and give it "
            "with --data (docs/evaluate.md)"
        ) from error
    return next(iter(loaded["tasks"].values()))


def data_folders(config: dict[str, Any], data: Path) -> list[Path]:
    """Where the rows of a task are looked for below `data`, the layout of the Hub's repositories first."""
    dataset, subset = str(config["dataset_path"]), config.get("dataset_name")
    places = [data / dataset, data / dataset.rsplit("/", 1)[-1]]
    return [*([place / subset for place in places] if subset else places), data / config["task"]]


def local_rows(config: dict[str, Any], data: Path) -> dict[str, Any] | None:
    """The keys to change in a task's configuration so that its rows come from files, and nothing else changes.

    Each split is a file `SPLIT.jsonl` (.json, .parquet, .csv) or files `SPLIT-*` in a folder below `data`; None where
    there is no folder for the task.

    Raises:
        EvaluationError: There is a folder, but the split that is asked is not in it.
    """
    folder = next((place for place in data_folders(config, data) if place.is_dir()), None)
    if folder is None:
        return None
    wanted = {key: config[key] for key in _SPLITS if config.get(key)}
    files = {split: _split_files(folder, split) for split in wanted.values()}
    asked = config.get("test_split") or config.get("validation_split")
    if not files[asked]:
        raise EvaluationError(
            f"{folder}: found no rows of the split {asked!r}, which {config['task']} asks. "
            f"Fix: write them to {asked}.jsonl there, in the schema of {config['dataset_path']}"
        )
    found = {split: names for split, names in files.items() if names}
    kinds = {_SUFFIXES[file.suffix] for names in found.values() for file in names}
    if len(kinds) > 1:
        raise EvaluationError(f"{folder}: found files of several formats; keep those of one")
    changes: dict[str, Any] = {key: None for key, split in wanted.items() if split not in found}
    if kinds == {"json"}:  # the reader of `datasets` would make dates of texts that look like one
        return changes | {"custom_dataset": partial(_read_json, found)}
    # escaped: `datasets` takes names of files for patterns
    escaped = {split: [glob.escape(str(file)) for file in names] for split, names in found.items()}
    return changes | {
        "dataset_path": kinds.pop(),
        "dataset_name": None,
        "dataset_kwargs": {"data_files": escaped},
    }


def _read_json(files: Mapping[str, Sequence[Path]], **_: Any) -> Any:
    """The splits as lm-eval takes them; it also hands over the task's metadata."""
    from datasets import DatasetDict

    return DatasetDict({split: load_files(files, split) for split in files})


def _split_files(folder: Path, split: str) -> list[Path]:
    return [
        file
        for file in sorted(folder.iterdir())
        if file.suffix in _SUFFIXES and (file.stem == split or file.stem.startswith(f"{split}-"))
    ]

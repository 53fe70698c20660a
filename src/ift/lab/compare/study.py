"""A study in its folder: the tasks of each stage, run as processes. A task that has a result is not run again."""

import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ift.lab.compare.growth import changed_weights, differences, label_of, merged
from ift.lab.compare.plan import KEY_LENGTH, SEARCH_SEED, Entrant, Plan, key_of
from ift.lab.processes import Executor, Job, LocalProcesses
from ift.lab.report.chosen import best
from ift.lab.report.json_files import write_json
from ift.lab.report.records import Trial
from ift.methods.table import parse_methods

FOLDERS = ("pairs", "search", "runs", "logs", "work")


class StudyError(RuntimeError):
    """A study that cannot start or continue; the message says where to look and what to do."""


@dataclass(frozen=True)
class Task:
    """One process to run: its title in the progress display, and the content that `ift.lab.compare.trial` reads."""

    title: str
    content: dict[str, Any]

    @property
    def result(self) -> Path:
        """The path of the result file."""
        return Path(self.content["result"])


@dataclass(frozen=True)
class Study:
    """A plan and its folder."""

    plan: Plan  # what to do
    folder: Path  # holds `plan.json`, `pairs/`, `search/`, `runs/` and `logs/`
    base: Path | str  # folder or Hub id of the model that every method starts from
    jobs: int  # processes side by side on this machine; each computes with its share of the cores
    command: list[str]  # the command line after `ift`, for the records
    executor: Executor = field(default_factory=LocalProcesses)  # what runs the processes

    def open(self) -> None:
        """Make the folder, or resume the study in it, with more seeds or further methods if the plan has them.

        Where the weights of a contender without a finished run have changed, its trials are deleted, to be run again.

        Raises:
            StudyError: The folder contains another study; nothing is overwritten.
        """
        planned, trials = self.joined()
        for name in FOLDERS:
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for trial in trials:
            trial.unlink()
        write_json(self.folder / "plan.json", planned)

    def joined(self) -> tuple[dict[str, Any], list[Path]]:
        """The plan with that of the folder, and the trials of contenders whose weights have changed; writes nothing.

        Raises:
            StudyError: The folder contains another study.
        """
        file, planned = self.folder / "plan.json", json.loads(json.dumps(self.plan.to_json()))
        held = [name for name in (*FOLDERS, "rows") if any((self.folder / name).glob("*"))]
        if held and not file.exists():  # "work" and "rows" are deleted
            raise StudyError(
                f"{self.folder} holds {', '.join(held)} and no study (no plan.json); give another --output_dir"
            )
        if not file.exists():
            return planned, []
        earlier = json.loads(file.read_text())
        if found := differences(earlier, planned, self.finished()):
            raise StudyError(
                f"{self.folder} holds a study that cannot be compared with this one. Another "
                f"{'; another '.join(found)}. Give another --output_dir, or repeat that study's command to resume "
                "it; only --seeds may rise and methods be added"
            )
        trials = [path for label in changed_weights(earlier, planned) for path in self._trials(label)]
        return merged(earlier, planned), trials

    def discard(self) -> None:
        """Deletes the study if nothing but its measurement has a result, so that the folder takes another one."""
        if not any(any((self.folder / name).glob("*")) for name in ("pairs", "search", "runs")):
            for file in (*self.folder.glob("*plan.json"), *self.folder.glob("measured*.json")):
                file.unlink()
            for folder in (self.folder / "logs", self.rows):  # as `joined` finds them
                shutil.rmtree(folder, ignore_errors=True)

    @property
    def rows(self) -> Path:
        """The folder of the split of the user's rows."""
        return self.folder / "rows"

    def probe(self) -> list[Task]:
        """The tasks that measure the cost of steps and of scoring, for the estimate.

        A study that has grown has one more task for each method whose time a new entrant must take.
        """
        timed = sorted({one.time_of for one in self.plan.entrants} - {""})
        first = self._task("a first measurement", "probe", "measured.json", 0, {"timed": timed})
        read = first.result.exists()
        known = json.loads(first.result.read_text()) if read else dict.fromkeys(map(_timing, timed))
        return [
            first,
            *(
                self._task(f"a measurement of {name}", "probe", f"measured-{name}.json", 0, {"timed": [name]})
                for name in timed
                if _timing(name) not in known
            ),
        ]

    def measured(self, time_of: str = "") -> dict[str, float]:
        """The result of the first measurement, or of the measurement that has timed a method."""
        found: list[dict[str, float]] = [json.loads(task.result.read_text()) for task in self.probe()]
        return next(one for one in found if not time_of or _timing(time_of) in one)

    def pairs(self) -> list[Task]:
        """Tasks that sample the rejected answers of each seed; none if no method needs pairs or the rows are pairs."""
        if self.plan.user_data is not None or not any(entrant.needs_pairs for entrant in self.plan.entrants):
            return []
        seeds = [SEARCH_SEED, *range(self.plan.seeds)]
        return [self._task(f"pairs of seed {seed}", "pairs", f"pairs/{seed}.json", seed) for seed in seeds]

    def searches(self, sequences: bool) -> list[Task]:
        """Tasks that try settings on validation rows, for single methods or for sequences (which wait for them)."""
        found = []
        for entrant in self.plan.searched():
            if ("+" in entrant.method) != sequences:
                continue
            first = self._first(entrant)
            for chosen in self.plan.candidates(entrant):
                shown = " ".join(f"{key}={value:g}" for key, value in chosen.items())
                name = self._search_file(entrant, chosen, first)
                more = {"entrant": asdict(entrant), "chosen": chosen, "first": first}
                found.append(self._task(f"search {entrant.label} {shown}", "search", name, SEARCH_SEED, more))
        return found

    def runs(self) -> list[Task]:
        """The run of the base model, then a run of every entrant with every seed, at the chosen settings."""
        base: dict[str, Any] = {"entrant": asdict(Entrant("base")), "chosen": {}, "first": {}, "tried": []}
        found = [self._task("base", "base", _run_file("base", 0), 0, base)]
        for seed in range(self.plan.seeds):
            for entrant in self.plan.entrants:
                tried = [] if entrant.like else self.tried(entrant)
                more = {
                    "entrant": asdict(entrant),
                    "chosen": self._chosen(entrant.like or entrant.label),
                    "first": self._first(entrant),
                    "tried": [asdict(one) for one in tried],
                }
                name = _run_file(entrant.label, seed)
                found.append(self._task(f"{entrant.label}, seed {seed}", "run", name, seed, more))
        return found

    def trials_left(self, entrant: Entrant) -> int:
        """The number of trials of an entrant's search that have no result yet."""
        if entrant not in self.plan.searched():
            return 0
        return max(0, len(self.plan.candidates(entrant)) - len(self._trials(entrant.label)))

    def _trials(self, label: str) -> list[Path]:
        """The finished trials of an entrant's search."""
        return [*(self.folder / "search").glob(f"{_slug(label)}-{'[0-9a-f]' * KEY_LENGTH}.json")]

    def seeds_left(self, entrant: Entrant) -> list[int]:
        """The seeds whose run has no record yet; for the base model, the first seed."""
        seeds = range(1 if entrant.method == "base" else self.plan.seeds)
        return [seed for seed in seeds if not (self.folder / _run_file(entrant.label, seed)).exists()]

    def finished(self) -> dict[str, list[int]]:
        """The seeds with a record, by label, including entrants and seeds that other commands have named."""
        kept = json.loads((self.folder / "plan.json").read_text())
        planned = [one.label for one in self.plan.entrants]
        labels = dict.fromkeys([*planned, *map(label_of, kept["entrants"])])
        seeds = range(max(self.plan.seeds, kept["seeds"]))
        found = {
            label: [seed for seed in seeds if (self.folder / _run_file(label, seed)).exists()]
            for label in labels
        }
        return {label: seeds for label, seeds in found.items() if seeds}

    def _first(self, entrant: Entrant) -> dict[str, Any]:
        """The settings chosen for the first method of a sequence."""
        stages = parse_methods(entrant.method)
        return self._chosen(stages[0].name) if len(stages) > 1 else {}

    def _chosen(self, label: str) -> dict[str, Any]:
        """The settings of an entrant: the best of its search, or its only candidate."""
        (entrant,) = [one for one in self.plan.entrants if one.label == label]
        tried = self.tried(entrant)
        return dict(best(tried).config if tried else self.plan.candidates(entrant)[0])

    def tried(self, entrant: Entrant) -> list[Trial]:
        """The results of an entrant's search; an empty list if there is only one candidate."""
        candidates = self.plan.candidates(entrant)
        if len(candidates) == 1:
            return []
        first, found = self._first(entrant), []
        for chosen in candidates:
            result = json.loads((self.folder / self._search_file(entrant, chosen, first)).read_text())
            found.append(Trial(result["config"], result["score"], result.get("tie")))
        return found

    def _search_file(self, entrant: Entrant, chosen: dict[str, Any], first: dict[str, Any]) -> str:
        return f"search/{_slug(entrant.label)}-{key_of(chosen, first)}.json"

    def _task(
        self, title: str, kind: str, result: str, seed: int, more: Mapping[str, Any] | None = None
    ) -> Task:
        content = {
            "kind": kind,
            "experiment": self.plan.experiment,
            "setting": self.plan.setting,
            "user_data": self.plan.user_data,
            "rows": str(self.rows),
            "seed": seed,
            "base": str(self.base),
            "pairs": str(self.folder / "pairs"),
            "work": str(self.folder / "work" / result.replace("/", "-").removesuffix(".json")),
            "result": str(self.folder / result),
            "command": self.command,
        } | {name: getattr(self.plan, name) for name in ("validation_rows", "test_rows", "training_share")}
        return Task(title, content | dict(more or {}))

    def perform(
        self,
        tasks: Iterable[Task],
        done: Callable[[Task], object],
        started: Callable[[list[str]], object] = lambda titles: None,
        timed: Callable[[Task, float], object] = lambda task, seconds: None,
    ) -> None:
        """Run the tasks that have no result yet.

        `done` is called with each finished task, including those that an earlier command has finished. `started` is
        called with the titles of all running tasks whenever one starts, if the executor knows them. `timed` is called
        before `done` with each task that was run and its seconds from launch to exit (from the start of all tasks, if
        the executor does not know the time of launch).

        Raises:
            StudyError: A process failed; the others are stopped, and finished results are kept.
            KeyboardInterrupt: Raised again after the processes have been stopped.
        """
        waiting: list[Task] = []
        for task in tasks:
            if task.result.exists():
                done(task)
            else:
                waiting.append(task)

        began, launched = time.monotonic(), dict[int, float]()

        def running(places: list[int]) -> None:
            launched.update({place: time.monotonic() for place in places if place not in launched})
            started([waiting[place].title for place in places])

        try:
            with closing(self.executor.run([*map(self._job, waiting)], self.jobs, running)) as ended:
                for place, problem in ended:
                    if problem is not None:
                        raise StudyError(self._failure(waiting[place], problem))
                    timed(waiting[place], time.monotonic() - launched.get(place, began))
                    done(waiting[place])
        finally:
            shutil.rmtree(self.folder / "work", ignore_errors=True)

    def _log(self, task: Task) -> Path:
        return self.folder / "logs" / f"{Path(task.content['work']).name}.log"

    def _job(self, task: Task) -> Job:
        """The process of a task; writes the file that the process reads."""
        file = (log := self._log(task)).with_suffix(".task.json")
        write_json(file, task.content)
        reads = (file, *(one for one in [Path(self.base)] if one.is_dir()))  # a name on the Hub is no folder
        return Job(("ift.lab.compare.trial", str(file)), log, task.result, reads)

    def _failure(self, task: Task, problem: str) -> str:
        return f"{task.title} {problem}\nIts output is in {self._log(task)}; repeat the command to resume"


def _slug(label: str) -> str:
    return label.replace("/", "_").replace(" ", "_")


def _run_file(label: str, seed: int) -> str:
    return f"runs/{_slug(label)}-seed{seed}.json"


def _timing(method: str) -> str:
    """The key of the seconds of a method's step in a measurement."""
    return f"{method}_step_seconds"

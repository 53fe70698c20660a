"""A study in its folder: the tasks of each stage, run as processes; a task whose result is there is not run again."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ift.lab.compare.plan import SEARCH_SEED, Entrant, Plan, key_of
from ift.lab.report.json_files import write_json
from ift.methods.table import parse_methods

POLL_SECONDS = 0.2
KILLED_BY: Mapping[int, str] = {  # signal -> what usually sends it
    signal.SIGKILL: "out of memory is the usual reason: give fewer --jobs, smaller batches or a smaller model",
    signal.SIGTERM: "somebody, or the scheduler of the machine, stopped it",
}
_PLAN_WORDS = {
    "own": "data or training settings",
    "time_budget": "--budget",
}  # of keys of plan.json, in messages


class StudyError(RuntimeError):
    """A study that cannot start or continue; the message says where to look and what to do."""


@dataclass(frozen=True)
class Task:
    """One process to run: its title in the progress, and what `ift.lab.compare.trial` reads."""

    title: str
    content: dict[str, Any]

    @property
    def result(self) -> Path:
        """The file of its result."""
        return Path(self.content["result"])


@dataclass(frozen=True)
class Study:
    """A plan in a folder."""

    plan: Plan  # what to do
    folder: Path  # holds `plan.json`, `pairs/`, `search/`, `runs/` and `logs/`
    base: Path | str  # folder or Hub id of the model that every method starts from
    jobs: int  # processes side by side; each computes with its share of the cores
    command: list[str]  # the command line after `ift`, for the records

    def open(self) -> None:
        """Make the folder, or resume the same study in it.

        Raises:
            StudyError: the folder holds another study; nothing is overwritten.
        """
        file, planned = self.folder / "plan.json", json.loads(json.dumps(self.plan.to_json()))
        names = ("pairs", "search", "runs", "logs", "work")
        held = [name for name in (*names, "rows") if any((self.folder / name).glob("*"))]
        if held and not file.exists():  # "work" and "rows" are deleted
            raise StudyError(
                f"{self.folder} holds {', '.join(held)} and no study (no plan.json); give another --output_dir"
            )
        for name in names:
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        if file.exists():
            earlier = json.loads(file.read_text())
            differing = [_PLAN_WORDS.get(key, key) for key in planned if earlier.get(key) != planned[key]]
            if differing:
                raise StudyError(
                    f"{self.folder} holds a study with other {', '.join(differing)}; give another --output_dir, or "
                    "repeat that study's command to resume it"
                )
        write_json(file, planned)

    @property
    def rows(self) -> Path:
        """Folder of the split of the user's rows."""
        return self.folder / "rows"

    def probe(self) -> list[Task]:
        """The task that measures, for the estimate, what steps and scoring cost."""
        timed = sorted({one.time_of for one in self.plan.entrants} - {""})
        return [self._task("a first measurement", "probe", "measured.json", 0, {"timed": timed})]

    def pairs(self) -> list[Task]:
        """Tasks that sample the rejected answers of every seed; none if no method needs pairs, or rows are pairs."""
        if self.plan.user_data is not None or not any(entrant.needs_pairs for entrant in self.plan.entrants):
            return []
        seeds = [SEARCH_SEED, *range(self.plan.seeds)]
        return [self._task(f"pairs of seed {seed}", "pairs", f"pairs/{seed}.json", seed) for seed in seeds]

    def searches(self, sequences: bool) -> list[Task]:
        """Tasks that try settings on validation problems: of single methods, or of sequences (which wait for them)."""
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
        """The base, then every entrant with every seed at the settings chosen for it."""
        base: dict[str, Any] = {"entrant": asdict(Entrant("base")), "chosen": {}, "first": {}, "tried": []}
        found = [self._task("base", "base", "runs/base-seed0.json", 0, base)]
        for seed in range(self.plan.seeds):
            for entrant in self.plan.entrants:
                tried = [] if entrant.like else self._tried(entrant)
                more = {
                    "entrant": asdict(entrant),
                    "chosen": self._chosen(entrant.like or entrant.label),
                    "first": self._first(entrant),
                    "tried": [{name: one[name] for name in ("config", "score")} for one in tried],
                }
                name = f"runs/{_slug(entrant.label)}-seed{seed}.json"
                found.append(self._task(f"{entrant.label}, seed {seed}", "run", name, seed, more))
        return found

    def _first(self, entrant: Entrant) -> dict[str, Any]:
        """The settings chosen for the first method of a sequence."""
        stages = parse_methods(entrant.method)
        return self._chosen(stages[0].name) if len(stages) > 1 else {}

    def _chosen(self, label: str) -> dict[str, Any]:
        """The settings of an entrant: the best of its search, or the only candidate."""
        (entrant,) = [one for one in self.plan.entrants if one.label == label]
        tried = self._tried(entrant)
        return dict(best(tried)["config"] if tried else self.plan.candidates(entrant)[0])

    def _tried(self, entrant: Entrant) -> list[dict[str, Any]]:
        """The results of an entrant's search; none where there is nothing to choose."""
        candidates = self.plan.candidates(entrant)
        if len(candidates) == 1:
            return []
        first, found = self._first(entrant), []
        for chosen in candidates:
            result = json.loads((self.folder / self._search_file(entrant, chosen, first)).read_text())
            found.append({name: result[name] for name in ("config", "score", "tie") if name in result})
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
            "validation_rows": self.plan.validation_rows,
            "test_rows": self.plan.test_rows,
            "command": self.command,
        }
        return Task(title, content | dict(more or {}))

    def perform(
        self,
        tasks: Iterable[Task],
        done: Callable[[Task], object],
        started: Callable[[list[str]], object] = lambda titles: None,
    ) -> None:
        """Run the tasks that have no result yet, `jobs` at a time.

        `done` is called with each finished task, those finished by an earlier command too, `started` with the titles of
        all running tasks whenever one is started.

        Raises:
            StudyError: a process failed; the others are stopped, and finished results stay.
            KeyboardInterrupt: after the processes are stopped.
        """
        waiting, running = list(tasks), dict[int, tuple[Task, subprocess.Popen[bytes]]]()  # by slot
        try:
            while waiting or running:
                while waiting and len(running) < self.jobs:
                    task = waiting.pop(0)
                    if task.result.exists():
                        done(task)
                    else:
                        slot = min(set(range(self.jobs)) - running.keys())
                        running[slot] = (task, self._start(task, slot))
                        started([one.title for one, _ in running.values()])
                for slot, (task, process) in list(running.items()):
                    if process.poll() is None:
                        continue
                    del running[slot]
                    if process.returncode or not task.result.exists():
                        raise StudyError(self._failure(task, process.returncode))
                    done(task)
                time.sleep(POLL_SECONDS if running else 0)
        finally:
            for _, process in running.values():
                process.terminate()
            for _, process in running.values():
                process.wait()
            shutil.rmtree(self.folder / "work", ignore_errors=True)

    def _log(self, task: Task) -> Path:
        return self.folder / "logs" / f"{Path(task.content['work']).name}.log"

    def _start(self, task: Task, slot: int) -> subprocess.Popen[bytes]:
        log = self._log(task)
        file = log.with_suffix(".task.json")
        write_json(file, task.content)
        # more threads than cores would slow each other down
        share = max(1, (os.cpu_count() or 1) // self.jobs)
        threads = min(share, int(os.environ.get("OMP_NUM_THREADS") or share))
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), **one_device(slot)}
        with log.open("wb") as output:
            return subprocess.Popen(  # nosec B603 # this Python on this package; no shell
                [sys.executable, "-m", "ift.lab.compare.trial", str(file)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
            )

    def _failure(self, task: Task, code: int) -> str:
        log = self._log(task)
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        last = lines[-1] if lines else "no output"
        hint = f"Its output is in {log}; repeat the command to resume"
        if code < 0:  # the last line of its output is of what it did before, not of why it ended
            cause = KILLED_BY.get(-code, "another program, the system or a fault in a library")
            return f"{task.title} was killed by signal {-code} ({cause}); its last line was: {last}\n{hint}"
        return f"{task.title} failed with exit code {code}: {last}\n{hint}"


def one_device(slot: int) -> dict[str, str]:
    """The environment that restricts a process to one of several CUDA devices; the Trainer would use all of them."""
    count = torch.cuda.device_count()
    if count < 2:
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    return {"CUDA_VISIBLE_DEVICES": visible.split(",")[slot % count]}


def best(tried: list[dict[str, Any]]) -> dict[str, Any]:
    """The trial with the highest score; at a draw that with the highest `tie`, then the first. None is the lowest."""

    def rank(one: dict[str, Any]) -> tuple[float, float]:
        score, tie = one["score"], one.get("tie", 0.0)
        return -math.inf if score is None else score, -math.inf if tie is None else tie

    return max(tried, key=rank)


def _slug(label: str) -> str:
    return label.replace("/", "_").replace(" ", "_")

"""A whole study: pairs, searches and runs as processes, side by side; what is done already is not done again."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ift.lab.compare.plan import SEARCH_SEED, Entrant, Plan, key_of
from ift.methods.table import parse_methods

POLL_SECONDS = 0.2


class StudyError(RuntimeError):
    """A study that cannot start or go on; the message says where to look and what to do."""


@dataclass(frozen=True)
class Task:
    """One process to run.

    Attributes:
        title: For the progress.
        content: What `ift.lab.compare.trial` reads.
    """

    title: str
    content: dict[str, Any]

    @property
    def result(self) -> Path:
        """Where its result is when it is done."""
        return Path(self.content["result"])


@dataclass(frozen=True)
class Study:
    """A plan in a folder.

    Attributes:
        plan: What to do.
        folder: Holds `plan.json`, `pairs/`, `search/`, `runs/` and `logs/`.
        base: Folder or Hub id of the model that every method starts from.
        jobs: Processes side by side; each computes with its share of the cores.
        command: The command's words after `ift`, for the records.
    """

    plan: Plan
    folder: Path
    base: Path | str
    jobs: int
    command: list[str]

    def open(self) -> None:
        """Make the folder, or find there an earlier beginning of the same study.

        Raises:
            StudyError: the folder holds another study; nothing is overwritten.
        """
        file, described = self.folder / "plan.json", json.loads(json.dumps(self.plan.described()))
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
            differing = [key for key in described if earlier.get(key) != described[key]]
            if differing:
                raise StudyError(
                    f"{self.folder} holds a study with other {', '.join(differing)}; give another --output_dir, or "
                    "repeat that study's command to go on with it"
                )
        file.write_text(json.dumps(described, indent=1) + "\n")

    @property
    def rows(self) -> Path:
        """Where the split of the user's own rows lies."""
        return self.folder / "rows"

    def probe(self) -> list[Task]:
        """The task that measures, for the estimate, what steps and scoring cost; none on the testbed."""
        return [] if self.plan.own is None else [self._task("a first measurement", "probe", "probe.json", 0)]

    def pairs(self) -> list[Task]:
        """Tasks that sample the rejected answers of every seed; none if no method needs pairs, or rows are pairs."""
        if self.plan.own is not None or not any(entrant.needs_pairs for entrant in self.plan.entrants):
            return []
        seeds = [SEARCH_SEED, *range(self.plan.seeds)]
        return [self._task(f"pairs of seed {seed}", "pairs", f"pairs/{seed}.json", seed) for seed in seeds]

    def searches(self, sequences: bool) -> list[Task]:
        """Tasks that try settings on validation problems: of single methods, or of sequences (which wait for them)."""
        found = []
        for entrant in self.plan.searched():
            if ("+" in entrant.method) != sequences:
                continue
            for chosen in self.plan.candidates(entrant):
                first = self._first(entrant)
                name = f"search/{_slug(entrant.label)}-{key_of(chosen, first)}.json"
                title = (
                    f"search {entrant.label} {' '.join(f'{key}={value:g}' for key, value in chosen.items())}"
                )
                more = {"entrant": asdict(entrant), "chosen": chosen, "first": first}
                found.append(self._task(title, "search", name, SEARCH_SEED, more))
        return found

    def runs(self) -> list[Task]:
        """The base, then every entrant with every seed at the settings chosen for it."""
        base: dict[str, Any] = {"entrant": asdict(Entrant("base")), "chosen": {}, "first": {}, "tried": []}
        found = [self._task("base", "base", "runs/base-seed0.json", 0, base)]
        for seed in range(self.plan.seeds):
            for entrant in self.plan.entrants:
                tried = self._tried(entrant.like or entrant.label)
                more = {
                    "entrant": asdict(entrant),
                    "chosen": best(tried)["config"],
                    "first": self._first(entrant),
                    "tried": []
                    if entrant.like
                    else [{name: one[name] for name in ("config", "score")} for one in tried],
                }
                name = f"runs/{_slug(entrant.label)}-seed{seed}.json"
                found.append(self._task(f"{entrant.label}, seed {seed}", "run", name, seed, more))
        return found

    def _first(self, entrant: Entrant) -> dict[str, Any]:
        stages = parse_methods(entrant.method)
        return dict(best(self._tried(stages[0].name))["config"]) if len(stages) > 1 else {}

    def _tried(self, label: str) -> list[dict[str, Any]]:
        (entrant,) = [one for one in self.plan.entrants if one.label == label]
        first = self._first(entrant)
        files = [
            self.folder / "search" / f"{_slug(label)}-{key_of(chosen, first)}.json"
            for chosen in self.plan.candidates(entrant)
        ]
        found = [json.loads(file.read_text()) for file in files]
        return [{name: one[name] for name in ("config", "score", "tie") if name in one} for one in found]

    def _task(
        self, title: str, kind: str, result: str, seed: int, more: Mapping[str, Any] | None = None
    ) -> Task:
        content = {
            "kind": kind,
            "experiment": self.plan.experiment,
            "setting": self.plan.setting,
            "own": self.plan.own,
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
        """Run the tasks that have no result yet, `jobs` at a time; `done` is called for each, old ones too.

        `started` is called with the titles of all that run, whenever one is started.

        Raises:
            StudyError: a process failed; those beside it are stopped, and what is done stays.
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
        file.write_text(json.dumps(task.content, indent=1) + "\n")
        share = max(1, (os.cpu_count() or 1) // self.jobs)  # more would spin for one another
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
        said = lines[-1] if lines else "nothing"
        return f"{task.title} ended with code {code}: {said}\nIts output is in {log}; repeat the command to go on"


def one_device(slot: int) -> dict[str, str]:
    """The environment that leaves a process one of several CUDA devices: the Trainer would spread it over all."""
    count = torch.cuda.device_count()
    if count < 2:
        return {}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    return {"CUDA_VISIBLE_DEVICES": visible.split(",")[slot % count]}


def best(tried: list[dict[str, Any]]) -> dict[str, Any]:
    """The trial with the highest score, of equal ones with the highest `tie`, then the first; null is the lowest."""

    def rank(one: dict[str, Any]) -> tuple[float, float]:
        score, tie = one["score"], one.get("tie", 0.0)
        return -math.inf if score is None else score, -math.inf if tie is None else tie

    return max(tried, key=rank)


def _slug(label: str) -> str:
    return label.replace("/", "_").replace(" ", "_")

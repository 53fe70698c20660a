"""Trials on the testbed: rows of a named setting, scored by exact match, multiple choice and likelihood."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ift.lab.compare.backend import PROBE_STEPS, Scored, task_entrant
from ift.lab.compare.plan import IFT_DEFAULTS, PASSES, ROWS_PER_STEP, stage_settings
from ift.lab.compare.study import Study
from ift.lab.compare.study_args import FIRST_SETTING, StudyArgs, try_contenders
from ift.lab.report import DataSplit
from ift.lab.report.wording import EMPTY, PER_TOKEN
from ift.lab.testbed import base_path, families, setting_problems, settings
from ift.lab.testbed.likelihood import likelihood_rows, log_likelihoods, mean_likelihood, multiple_choice
from ift.lab.testbed.pairs import cached_pairs
from ift.lab.testbed.scoring import first_wrong_step, score
from ift.lab.testbed.settings import rows_hash
from ift.methods.table import parse_methods
from ift.models.loading import LoadOptions, load_model
from ift.runs import train_method
from ift.runs.argv import UsageError
from ift.training.timing import StepClock

PROBE_ROWS = 32


def study_on_testbed(args: StudyArgs) -> Study:
    """Make a study on a setting of the testbed, and open its folder.

    Raises:
        UsageError: An unknown setting, method or budget, or token weights of the user's own that fail.
        StudyError: The folder contains another study.
    """
    setting = args.setting or FIRST_SETTING
    if setting not in settings():
        raise UsageError(f"--setting {setting}: choose from {', '.join(settings())}")
    base = base_path(settings()[setting].family)
    study = Study(args.plan(setting), args.output_dir, base, 1, args.command)
    try_contenders(study.plan)
    study.open()
    return study


class TestbedBackend:
    """The embedded base model on the rows of a setting, which also depend on the seed; see `TrialBackend`."""

    __test__ = False  # for pytest: not a test

    def __init__(self, task: dict[str, Any]) -> None:
        self.task, self.entrant = task, task_entrant(task)
        self.setting = settings()[task["setting"]]

    def train(self, folder: Path, attach: Any, **more: Any) -> Any:
        """Train the embedded base model on the rows of the task's seed; `more` are further settings."""
        chosen, method = {**self._settings(), "seed": self.task["seed"], **more}, self.entrant.method
        return train_method(method, self.task["base"], self._rows(), folder, chosen, attach=attach)

    def config(self) -> dict[str, Any]:
        """The hyperparameters as trained, with the method's own defaults; always with lambda, gamma and detach."""
        found: dict[str, Any] = {}
        for stage in parse_methods(self.entrant.method):
            found |= dict(IFT_DEFAULTS) if stage.name == "ift" else {}
            plain = {name: one for name, one in stage.defaults.items() if isinstance(one, (int, float, str))}
            found |= plain
        return found | self._settings()

    def train_data(self) -> Any:
        """The rows of the task's seed."""
        return _data_split(self._rows())

    def answers_seen(self, trained: Any) -> int:
        """The number of answers trained on: `ROWS_PER_STEP` at every step."""
        return sum(stage.steps for stage in trained.stages) * ROWS_PER_STEP

    def probe(self, folder: Path) -> dict[str, float]:
        """See `TrialBackend.probe`."""
        clock, began = StepClock(), time.perf_counter()
        trained = self.train(folder, lambda trainer: trainer.add_callback(clock), max_steps=PROBE_STEPS)
        training = time.perf_counter() - began
        model, tokenizer = _loaded(str(trained.folder))
        problems = families.family_problems(self.setting.family, "validation", PROBE_ROWS)
        began = time.perf_counter()
        score(model, tokenizer, problems)
        answering = (time.perf_counter() - began) / PROBE_ROWS
        began = time.perf_counter()
        mean_likelihood(model, tokenizer, problems)
        multiple_choice(model, tokenizer, problems)
        scoring = (time.perf_counter() - began) / PROBE_ROWS
        return {
            "step_seconds": clock.seconds,
            "steps": math.ceil(len(self._rows()) / ROWS_PER_STEP) * PASSES,
            "start_seconds": training - clock.total,
            "validation_row_seconds": answering,
            "test_row_seconds": 2 * (answering + scoring),  # of both splits
            "weight_bytes": sum(one.numel() * one.element_size() for one in model.parameters()),
            "timed_seconds": training + (answering + scoring) * PROBE_ROWS,
        }

    def choose(self, folder: str) -> tuple[float, float]:
        """Exact match on validation problems; of settings with equal scores the first one is chosen."""
        problems = families.family_problems(self.setting.family, "validation", self.task["validation_rows"])
        return score(*_loaded(folder), problems).exact_match, 0.0

    def score(self, folder: str) -> Scored:
        """Scores, first wrong steps, answers and data of the splits `test` and `longer`."""
        model, tokenizer = _loaded(folder)
        found = Scored()
        for split in ("test", "longer"):
            self._score_split(split, model, tokenizer, found)
        return found

    def _score_split(self, split: Any, model: Any, tokenizer: Any, into: Scored) -> None:
        problems = families.family_problems(self.setting.family, split, self.task["test_rows"])
        found = score(model, tokenizer, problems)
        targets = log_likelihoods(model, tokenizer, [problem.messages for problem in problems])
        choice = multiple_choice(model, tokenizer, problems)
        values: dict[str, Sequence[float]] = {
            "exact_match": found.right,
            "stopped": found.stops,
            EMPTY: [not text.strip() for text in found.answers],
            "mean_length": found.lengths,
            **dict(zip(("target_log_likelihood", PER_TOKEN), likelihood_rows(targets), strict=True)),
            "choice_accuracy": choice.rows_by_sum,
            "choice_accuracy_per_token": choice.rows_by_mean,
        }
        rows = {name: [float(one) for one in row_values] for name, row_values in values.items()}
        into.data[split] = _data_split([problem.row for problem in problems])
        into.scores[split] = {"n": found.n, **{name: fmean(row_values) for name, row_values in rows.items()}}
        into.row_scores[split] = rows
        wrong = [first_wrong_step(one, text) for one, text in zip(problems, found.answers, strict=True)]
        places = [place for place in wrong if place is not None]
        into.error_steps[split] = [places.count(place) for place in range(max(places, default=-1) + 1)]
        into.answers.extend(
            {
                "split": split, "row": index, "prompt": problem.question, "target": problem.solution,
                "answer": found.answers[index], "right": found.right[index],
                "first_wrong_step": None if place is None else place + 1,
            }
            for index, (problem, place) in enumerate(zip(problems, wrong, strict=True))
        )  # fmt: skip

    def _settings(self) -> dict[str, Any]:
        return stage_settings(self.entrant, self.task.get("chosen", {}), self.task.get("first", {}))

    def _rows(self) -> list[dict[str, Any]]:
        seed = self.task["seed"]
        if self.entrant.needs_pairs:
            return cached_pairs(Path(self.task["pairs"]), Path(self.task["base"]), self.setting, seed).rows
        return [problem.row for problem in setting_problems(self.setting, seed)]


def _data_split(rows: list[dict[str, Any]]) -> DataSplit:
    return DataSplit(len(rows), rows_hash(rows))


def _loaded(folder: str) -> tuple[Any, Any]:
    return load_model(folder, LoadOptions(dtype="float32"))[:2]

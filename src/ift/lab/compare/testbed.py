"""Trials on the testbed: rows of a named setting, greedy answers scored by exact match, multiple choice, likelihood."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ift.lab.compare.backend import SAMPLES, Scored, task_entrant
from ift.lab.compare.plan import IFT_DEFAULTS, ROWS_PER_STEP, stage_settings
from ift.lab.compare.study import Study
from ift.lab.compare.study_args import FIRST_SETTING, StudyArgs
from ift.runs.argv import UsageError

TRIAL_SECONDS = {"pairs": 15, "search": 35, "run": 60, "base": 60}  # about, on one core


def study_on_testbed(args: StudyArgs) -> Study:
    """A study on a setting of the testbed, its folder opened.

    Raises:
        UsageError: an unknown setting, method or budget.
        StudyError: the folder holds another study.
    """
    from ift.lab.testbed import base_path, settings

    setting = args.setting or FIRST_SETTING
    if setting not in settings():
        raise UsageError(f"--setting {setting}: choose from {', '.join(settings())}")
    base = base_path(settings()[setting].family)
    study = Study(args.plan(setting), args.output_dir, base, 1, args.command)
    study.open()
    return study


class TestbedBackend:
    """The embedded base on the rows of a setting, which the seed decides too; see `TrialBackend`."""

    __test__ = False  # for pytest: not a test

    def __init__(self, task: dict[str, Any]) -> None:
        from ift.lab.testbed.settings import settings

        self.task, self.entrant = task, task_entrant(task)
        self.setting = settings()[task["setting"]]

    def train(self, folder: Path, attach: Any) -> Any:
        """Train the embedded base on rows of the task's seed."""
        from ift.runs import train_method

        settings = {**self._settings(), "seed": self.task["seed"]}
        return train_method(
            self.entrant.method, self.task["base"], self._rows(), folder, settings, attach=attach
        )

    def config(self) -> dict[str, Any]:
        """Hyper-parameters as trained, with the method's own defaults, and IFT's lambda, gamma and detach always."""
        from ift.methods.table import parse_methods

        found: dict[str, Any] = {}
        for stage in parse_methods(self.entrant.method):
            found |= dict(IFT_DEFAULTS) if stage.name == "ift" else {}
            found |= {
                name: value for name, value in stage.defaults.items() if isinstance(value, (int, float, str))
            }
        return found | self._settings()

    def train_data(self) -> Any:
        """Rows of the task's seed."""
        return _data_split(self._rows())

    def answers_seen(self, trained: Any) -> int:
        """`ROWS_PER_STEP` at every step."""
        return sum(stage.steps for stage in trained.stages) * ROWS_PER_STEP

    def choose(self, folder: str) -> tuple[float, float]:
        """Exact match on validation problems; of equal ones the first tried."""
        from ift.lab.testbed.families import family_problems
        from ift.lab.testbed.scoring import score

        problems = family_problems(self.setting.family, "validation", self.task["validation_rows"])
        return score(*_loaded(folder), problems).exact_match, 0.0

    def score(self, folder: str) -> Scored:
        """Scores, first wrong steps, samples and data of the splits `test` and `longer`."""
        model, tokenizer = _loaded(folder)
        found = Scored()
        for split in ("test", "longer"):
            self._score_split(split, model, tokenizer, found)
        return found

    def _score_split(self, split: Any, model: Any, tokenizer: Any, into: Scored) -> None:
        from ift.lab.report import Sample
        from ift.lab.testbed.families import family_problems
        from ift.lab.testbed.likelihood import mean_likelihood, multiple_choice
        from ift.lab.testbed.scoring import final_answer, score
        from ift.lab.testbed.wrong_steps import first_wrong_step

        problems = family_problems(self.setting.family, split, self.task["test_rows"])
        found = score(model, tokenizer, problems)
        likelihood = mean_likelihood(model, tokenizer, problems)
        choice = multiple_choice(model, tokenizer, problems)
        into.data[split] = _data_split([problem.row for problem in problems])
        into.scores[split] = {
            "n": found.n,
            "exact_match": found.exact_match,
            "stopped": found.stopped,
            "mean_length": found.mean_length,
            "target_log_likelihood": likelihood["log_prob"],
            "target_log_likelihood_per_token": likelihood["per_token"],
            "choice_accuracy": choice.by_sum,
            "choice_accuracy_per_token": choice.by_mean,
        }
        wrong = [first_wrong_step(one, text) for one, text in zip(problems, found.answers, strict=True)]
        places = [place for place in wrong if place is not None]
        into.error_steps[split] = [places.count(place) for place in range(max(places, default=-1) + 1)]
        for index, problem in enumerate(problems[:SAMPLES]):
            answer, place = found.answers[index], wrong[index]
            right = final_answer(answer) == problem.answer
            step = None if place is None else place + 1
            into.samples.append(
                Sample(split, str(index), problem.question, problem.solution, answer, right, step)
            )

    def _settings(self) -> dict[str, Any]:
        return stage_settings(self.entrant, self.task["chosen"], self.task["first"])

    def _rows(self) -> list[dict[str, Any]]:
        from ift.lab.testbed.pairs import cached_pairs
        from ift.lab.testbed.settings import setting_problems

        seed = self.task["seed"]
        if self.entrant.needs_pairs:
            return cached_pairs(Path(self.task["pairs"]), Path(self.task["base"]), self.setting, seed).rows
        return [problem.row for problem in setting_problems(self.setting, seed)]


def _data_split(rows: list[dict[str, Any]]) -> Any:
    from ift.lab.report import DataSplit
    from ift.lab.testbed.settings import rows_hash

    return DataSplit(len(rows), rows_hash(rows))


def _loaded(folder: str) -> tuple[Any, Any]:
    from ift.models.loading import LoadOptions, load_model

    return load_model(folder, LoadOptions(dtype="float32"))[:2]

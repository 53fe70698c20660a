"""Trials on the testbed: rows of a named setting, greedy answers scored by exact match, multiple choice, likelihood."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ift.lab.compare.ground import SAMPLES, Scored
from ift.lab.compare.plan import IFT_DEFAULTS, ROWS_PER_STEP, Entrant, stage_settings


class TestbedGround:
    """See `ift.lab.compare.ground.Ground`; a seed gives the rows, too."""

    __test__ = False  # no test case, whatever its name says to pytest

    def __init__(self, task: dict[str, Any]) -> None:
        from ift.lab.testbed.settings import settings

        self.setting = settings()[task["setting"]]
        self.validation_rows, self.test_rows = task["validation_rows"], task["test_rows"]

    def train(self, task: dict[str, Any], entrant: Entrant, folder: Path, attach: Any) -> Any:
        """Train the embedded base on rows of the task's seed."""
        from ift.runs import train_method

        settings = stage_settings(entrant, task["chosen"], task["first"]) | {"seed": task["seed"]}
        return train_method(
            entrant.method, task["base"], self._rows(task, entrant), folder, settings, attach=attach
        )

    def config(self, task: dict[str, Any], entrant: Entrant) -> dict[str, Any]:
        """Hyper-parameters as trained, with the method's own defaults, and IFT's lambda, gamma and detach always."""
        from ift.methods.table import parse_methods

        own: dict[str, Any] = {}
        for stage in parse_methods(entrant.method):
            own |= dict(IFT_DEFAULTS) if stage.name == "ift" else {}
            own |= {
                name: value for name, value in stage.defaults.items() if isinstance(value, (int, float, str))
            }
        return own | stage_settings(entrant, task["chosen"], task["first"])

    def train_data(self, task: dict[str, Any], entrant: Entrant) -> Any:
        """Rows of the task's seed."""
        from ift.lab.report import DataSplit
        from ift.lab.testbed.settings import rows_hash

        rows = self._rows(task, entrant)
        return DataSplit(len(rows), rows_hash(rows))

    def answers_seen(self, trained: Any) -> int:
        """`ROWS_PER_STEP` at every step."""
        return sum(stage.steps for stage in trained.stages) * ROWS_PER_STEP

    def choose(self, folder: str) -> tuple[float, float]:
        """Exact match on validation problems; of equal ones the first tried."""
        from ift.lab.testbed.families import family_problems
        from ift.lab.testbed.scoring import score

        problems = family_problems(self.setting.family, "validation", self.validation_rows)
        return score(*_loaded(folder), problems).exact_match, 0.0

    def score(self, folder: str) -> Scored:
        """Scores, first wrong steps, samples and data of the splits `test` and `longer`."""
        from ift.lab.report import DataSplit, Sample
        from ift.lab.testbed.families import family_problems
        from ift.lab.testbed.likelihood import mean_likelihood, multiple_choice
        from ift.lab.testbed.scoring import final_answer, score
        from ift.lab.testbed.settings import rows_hash
        from ift.lab.testbed.wrong_steps import first_wrong_step

        model, tokenizer = _loaded(folder)
        all_found = Scored({}, {}, [], {})
        for split in ("test", "longer"):
            problems = family_problems(self.setting.family, split, self.test_rows)
            found = score(model, tokenizer, problems)
            likelihood = mean_likelihood(model, tokenizer, problems)
            choice = multiple_choice(model, tokenizer, problems)
            all_found.scores[split] = {
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
            all_found.error_steps[split] = [
                places.count(place) for place in range(max(places, default=-1) + 1)
            ]
            all_found.data[split] = DataSplit(len(problems), rows_hash([problem.row for problem in problems]))
            for index, problem in enumerate(problems[:SAMPLES]):
                answer, place = found.answers[index], wrong[index]
                right = final_answer(answer) == problem.answer
                step = None if place is None else place + 1
                all_found.samples.append(
                    Sample(split, str(index), problem.question, problem.solution, answer, right, step)
                )
        return all_found

    def _rows(self, task: dict[str, Any], entrant: Entrant) -> list[dict[str, Any]]:
        from ift.lab.testbed.pairs import cached_pairs
        from ift.lab.testbed.settings import setting_problems

        if entrant.needs_pairs:
            return cached_pairs(Path(task["pairs"]), Path(task["base"]), self.setting, task["seed"]).rows
        return [problem.row for problem in setting_problems(self.setting, task["seed"])]


def _loaded(folder: str) -> tuple[Any, Any]:
    from ift.models.loading import LoadOptions, load_model

    return load_model(folder, LoadOptions(dtype="float32"))[:2]

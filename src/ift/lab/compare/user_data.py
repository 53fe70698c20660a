"""Trials on the user's model and rows, trained with the flags of `ift train` and scored on held-out rows."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import fmean
from typing import Any

from ift.check.steps import rows_of_pass
from ift.data.counts import count_trained
from ift.lab.compare.backend import PROBE_STEPS, SAMPLES, Scored, task_entrant
from ift.lab.compare.plan import IFT_DEFAULTS
from ift.lab.compare.scoring import HeldOutScorer
from ift.lab.compare.split import Split
from ift.lab.compare.user_flags import FORCED, unused_keys
from ift.lab.report.wording import EMPTY, PER_TOKEN
from ift.lab.scores import Score, load_scores
from ift.lab.scores.judged import JudgeOptions
from ift.lab.scores.table import FINAL_ANSWER
from ift.methods.table import parse_methods
from ift.training.timing import StepClock

METRICS = ("exact_match", PER_TOKEN, "choice_accuracy")


@dataclass(frozen=True)
class UserData:
    """The settings that every trial of a study on the user's model and rows needs; a part of `plan.json`.

    Attributes:
        words: The command line for `ift train`, without the settings that the study decides.
        methods: All methods that the study trains; a flag that only some of them know is passed to these only.
        sha256: SHA-256 of the rows, by split.
        metric: The score that chooses settings: one of `METRICS`, or the first score of `--score`.
        pattern: The pattern of final answers (see `FinalAnswer`); None: there is no exact match.
        max_new_tokens: Maximum length of a generated answer, in tokens.
        files: SHA-256 of the files that the flags in `FILE_FLAGS` name, by flag.
        file_settings: Keys of the file of `--config` that trials read, with their values as text.
        scoring: `names`, `database` and, if given, `judge` of `--score`; `prompt_tokens` of a request to the judge; and
            `sha256` of the files that the scores use. None: answers are scored by exact match if there is a pattern.
    """

    words: list[str]
    methods: list[str]
    sha256: dict[str, str]
    metric: str
    pattern: str | None
    max_new_tokens: int
    scoring: dict[str, Any] | None = None
    files: dict[str, str] | None = None
    file_settings: dict[str, str] | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields for JSON, without the fields about files and scores if the study has none."""
        optional = ("scoring", "files", "file_settings")
        return {name: value for name, value in asdict(self).items() if name not in optional or value}

    def scores(self, folder: Path) -> list[Score]:
        """The scores of generated answers; the replies of a judge are stored in `folder`, the study's folder.

        Raises:
            ScoreError: See `load_scores`.
        """
        names = [FINAL_ANSWER] if self.pattern else []
        given = self.scoring or {"names": names, "database": None}
        model = given.get("judge")
        judge = None if model is None else JudgeOptions(model, folder / "judge")
        return load_scores(given["names"], given["database"], self.pattern, judge)

    def stages(self, method: str, settings: Mapping[str, Any], out: str | Path) -> list[Any]:
        """The stages of a method as `ift train` would parse them; `settings` take precedence over the user's.

        Raises:
            UsageError: See `ift.runs.arguments.parse_stages`.
        """
        from ift.runs.arguments import parse_stages

        beside = {one.name: one for name in self.methods for one in parse_methods(name)}
        given = {**FORCED, **settings, "method": method, "output_dir": out}
        words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
        return parse_stages([*self.words, *words], [*beside.values()], unused_keys())


class UserDataBackend:
    """Trains the user's model on the user's rows; the seed decides the order of rows and the noise. See `TrialBackend`.

    Attributes:
        task: The content of the task's file.
        entrant: The entrant that is trained.
        user_data: The settings of the study.
        split: The rows of the study.
        scorer: Scores a model on held-out rows.
    """

    def __init__(self, task: dict[str, Any]) -> None:
        self.task, self.entrant = task, task_entrant(task)
        self.user_data = UserData(**task["user_data"])
        self.split = Split.load(Path(task["rows"])).first(task["validation_rows"], task["test_rows"])
        (sft,) = self.user_data.stages("sft", {}, "unused")
        scores = self.user_data.scores(Path(task["rows"]).parent)
        self.scorer = HeldOutScorer(sft, scores, self.user_data.max_new_tokens)
        self._trained: list[Any] = []

    # --- training -----------------------------------------------------------------------------------------------------

    def train(self, folder: Path, attach: Any, **more: Any) -> Any:
        """Train the user's model on the training rows; `more` are further settings."""
        from ift.data import LoadedData
        from ift.methods.stage import check_data
        from ift.runs.from_python import train_stages

        self._trained = self._stages(folder, **more)
        planned = [(stage, LoadedData(self.split.train)) for stage in self._trained]
        for stage, data in planned:
            check_data(stage, data)
        start = self._trained[0].model.model_name_or_path
        return train_stages(self.entrant.method, planned, start, attach)

    def _stages(self, folder: Path, **more: Any) -> list[Any]:
        task = self.task
        first = {f"1.{name}": value for name, value in task.get("first", {}).items()}
        settings = {**self.entrant.settings, **first, **task.get("chosen", {}), **more, "seed": task["seed"]}
        stages = self.user_data.stages(self.entrant.method, settings, folder)
        for stage in stages:
            share_answers(stage, self.entrant.more_steps, task.get("training_share", 1.0))
        return stages

    def config(self) -> dict[str, Any]:
        """The settings that differ from the method's defaults; always learning rate, batch size and epochs."""
        stages = self._stages(Path("unused"))
        found: dict[str, Any] = {}
        for number, stage in enumerate(stages, start=1):
            prefix = f"{number}." if len(stages) > 1 else ""
            found |= {f"{prefix}{name}": value for name, value in _changed_settings(stage).items()}
        if (share := self.task.get("training_share", 1.0)) < 1:
            found["training_share"] = round(share, 4)
        return found

    def train_data(self) -> Any:
        """The training rows, the same for all methods and seeds."""
        from ift.lab.report import DataSplit

        return DataSplit(self.split.train_rows, self.split.sha256["train"])

    def answers_seen(self, trained: Any) -> int:
        """The number of answers trained on, counting repeats; a pair has two."""
        return sum(
            _rows_seen(done, stage.config) * (2 if stage.method.needs_pairs else 1)
            for done, stage in zip(trained.stages, self._trained, strict=True)
        )

    def probe(self, folder: Path) -> dict[str, float]:
        """See `TrialBackend.probe`."""
        (full,) = self._stages(folder)
        config = full.config
        clock, began = StepClock(), time.perf_counter()
        sequences: list[int] = []  # the rows, or what they are packed into

        def attach(trainer: Any) -> None:
            trainer.add_callback(clock)
            sequences.append(len(trainer.train_dataset))

        trained = self.train(folder, attach, max_steps=PROBE_STEPS)
        of_pass = rows_of_pass(config, sequences[0], _rows_per_step(config))
        steps = math.ceil(of_pass / _rows_per_step(config)) * config.num_train_epochs
        training = time.perf_counter() - began
        model, tokenizer = self.scorer.load(str(trained.folder))
        rows = self.split.validation or self.split.test  # timed, not looked at
        rows = rows.select(range(min(len(rows), config.per_device_eval_batch_size)))
        began = time.perf_counter()
        self.scorer.target_likelihood(model, rows)
        scoring = (time.perf_counter() - began) / len(rows)
        # three steps do not teach a model to stop; after training an answer is about as long as its target
        longest = min(self.scorer.max_new_tokens, max(count_trained(row["labels"]) for row in rows))
        scorer = HeldOutScorer(self.scorer.train_args, self.scorer.scores, longest)
        began = time.perf_counter()
        if scorer.scores:
            scorer.scored_answers(model, tokenizer, rows, [one for one in scorer.scores if not one.costs])
        answering = (time.perf_counter() - began) / len(rows)
        passes = 3 if "test" in self.split.pairs else 1  # the target, and both sides of the pair
        chosen_by = {PER_TOKEN: scoring, "choice_accuracy": 3 * scoring}
        return {
            "step_seconds": clock.seconds,
            "steps": config.max_steps if config.max_steps > 0 else steps,
            "start_seconds": training - clock.total,
            "validation_row_seconds": chosen_by.get(self.user_data.metric, scoring + answering),
            "test_row_seconds": passes * scoring + answering,
            "weight_bytes": sum(one.numel() * one.element_size() for one in model.parameters()),
            "timed_seconds": training + (scoring + answering) * len(rows),
        }

    # --- scoring ------------------------------------------------------------------------------------------------------

    def choose(self, folder: str) -> tuple[float, float]:
        """The study's metric on the validation rows, and the likelihood per token, which breaks ties."""
        model, tokenizer = self.scorer.load(folder)
        rows, metric = self.split.validation, self.user_data.metric
        likelihood = fmean(self.scorer.target_likelihood(model, rows)[PER_TOKEN])
        if metric == "choice_accuracy":
            return fmean(self.scorer.choices(model, self.split.pairs["validation"])[metric]), likelihood
        if metric == PER_TOKEN:
            return likelihood, likelihood
        first = self.scorer.scores[:1]
        return self.scorer.scored_answers(model, tokenizer, rows, first)[1].totals[metric], likelihood

    def score(self, folder: str) -> Scored:
        """Score the likelihood of the targets, generated answers, and choices if the rows are pairs."""
        from ift.lab.report import DataSplit

        model, tokenizer = self.scorer.load(folder)
        rows, scored = self.split.test, bool(self.scorer.scores)
        scores: dict[str, Any] = {"n": len(rows)}
        shown = rows if scored else rows.select(range(min(SAMPLES, len(rows))))
        answers, result = self.scorer.scored_answers(model, tokenizer, shown)
        by_row = dict(result.parts)
        if scored:
            by_row["stopped"] = [float(one["stopped"]) for one in answers]
            by_row[EMPTY] = [float(not one["answer"].strip()) for one in answers]
            by_row["mean_length"] = [float(one["tokens"]) for one in answers]
        by_row |= self.scorer.target_likelihood(model, rows)
        if "test" in self.split.pairs:
            by_row |= self.scorer.choices(model, self.split.pairs["test"])
        scores |= {name: fmean(values) for name, values in by_row.items()} | result.totals
        data = {"test": DataSplit(len(rows), self.split.sha256["test"])}
        return Scored({"test": scores}, data, {"test": by_row}, [{"split": "test", **one} for one in answers])


def share_answers(stage: Any, more_steps: float = 1.0, share: float = 1.0) -> None:
    """Change a stage so that it sees as many answers as the other methods.

    A pair has two answers, so a stage that trains on pairs takes half as many pairs in half as many passes. The pairs
    of a step are halved too, in the batch or in the accumulation, if one of these is even. A study that its time budget
    shortens trains a `share` of the epochs and of the warmup.
    """
    config, halved = stage.config, False
    if stage.method.needs_pairs:
        for name in ("per_device_train_batch_size", "gradient_accumulation_steps"):
            if not halved and getattr(config, name) % 2 == 0:
                setattr(config, name, getattr(config, name) // 2)
                halved = True
        config.num_train_epochs /= 2
    config.num_train_epochs *= more_steps * share
    if share < 1 and config.warmup_steps >= 1:  # a number of steps; below 1 it is a share already
        config.warmup_steps = max(1, round(config.warmup_steps * share))
    if config.max_steps > 0:
        half = 2 if stage.method.needs_pairs and not halved else 1
        config.max_steps = max(1, round(config.max_steps * more_steps / half))


def _rows_per_step(config: Any) -> int:
    return int(config.per_device_train_batch_size * config.gradient_accumulation_steps)


def _rows_seen(done: Any, config: Any) -> int:
    """The number of rows that a stage has trained on; the last step of a pass has the remaining rows."""
    rows, of_step = done.report.rows_kept, _rows_per_step(config)
    if getattr(config, "packing", False):
        return round(done.history[-1]["epoch"] * rows)
    rows = rows_of_pass(config, rows, of_step)
    passes, steps = divmod(done.steps, math.ceil(rows / of_step))
    return int(passes * rows + steps * of_step)


def _changed_settings(stage: Any) -> dict[str, Any]:
    """The plain settings of a stage that differ from the defaults, and always the most important ones."""
    from trl import ModelConfig

    _, kind = stage.method.load()
    defaults = kind(**{**stage.method.settings, "output_dir": stage.config.output_dir, **FORCED})
    always = {"learning_rate", "per_device_train_batch_size", "num_train_epochs", *stage.method.defaults}
    if stage.method.name == "ift":
        always |= {*IFT_DEFAULTS}
    found: dict[str, Any] = {}
    for given, default in ((stage.config, defaults), (stage.model, ModelConfig())):
        for name in (one.name for one in fields(default)):
            value = getattr(given, name, None)
            plain = isinstance(value, (bool, int, float)) or (isinstance(value, str) and "/" not in value)
            differs = value != getattr(default, name) or name in always
            if plain and differs and name not in {*FORCED, "seed", "output_dir", "model_name_or_path"}:
                found[name] = getattr(value, "value", value)  # of an enumeration
    return found

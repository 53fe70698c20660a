"""Trials on the user's own model and rows, trained with the words of `ift train`, scored on rows held out for it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ift.generation.final_answer import FinalAnswer
from ift.lab.compare.ground import SAMPLES, Scored
from ift.lab.compare.own_rows import Split
from ift.lab.compare.own_scores import PER_TOKEN, HeldOutScores
from ift.lab.compare.plan import IFT_DEFAULTS, Entrant
from ift.methods.table import parse_methods
from ift.training.timing import StepClock

METRICS = ("exact_match", PER_TOKEN, "choice_accuracy")
FORCED: Mapping[str, Any] = {  # a trial is trained whole, scored by us and thrown away
    "eval_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "push_to_hub": False,
    "report_to": "none",
    "disable_tqdm": True,
}
DECIDED = (
    "method",
    "output_dir",
    "seed",
    "beta",
    "simpo_gamma",
    "resume_from_checkpoint",
    "resume",
    "hub_token",
    "eval_generate",
    *FORCED,
)
PROBE_STEPS = 3


@dataclass(frozen=True)
class OwnStudy:
    """What every trial of a study on the user's own rows is told; a part of its plan.

    Attributes:
        words: Of `ift train`, without what the study decides itself.
        methods: All that the study trains; what only some of them know is left to these.
        sha256: By split, of the rows.
        metric: The score by which settings are chosen, one of `METRICS`.
        pattern: Of the final answers (see `FinalAnswer`); None: nothing is scored by exact match.
        max_new_tokens: Longest generated answer.
    """

    words: list[str]
    methods: list[str]
    sha256: dict[str, str]
    metric: str
    pattern: str | None
    max_new_tokens: int

    def stages(self, method: str, settings: Mapping[str, Any], out: str | Path) -> list[Any]:
        """The stages of a method as `ift train` would read them, with these settings over the user's.

        Raises:
            UsageError: as `ift train` raises it.
        """
        from ift.runs.arguments import parse_stages

        beside = {one.name: one for name in self.methods for one in parse_methods(name)}
        given = {**FORCED, **settings, "method": method, "output_dir": out}
        words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
        return parse_stages([*self.words, *words], [*beside.values()])


class OwnGround(HeldOutScores):
    """See `ift.lab.compare.ground.Ground`; a seed gives order and noise, the rows are always the same."""

    def __init__(self, task: dict[str, Any]) -> None:
        self.study = OwnStudy(**task["own"])
        self.split = Split.load(Path(task["rows"]))
        self.result = Path(task["result"])
        (told,) = self.study.stages("sft", {}, "unused")
        final = None if self.study.pattern is None else FinalAnswer(self.study.pattern)
        super().__init__(told, final, self.study.max_new_tokens)
        self._planned: list[Any] = []

    # --- training -----------------------------------------------------------------------------------------------------

    def train(self, task: dict[str, Any], entrant: Entrant, folder: Path, attach: Any) -> Any:
        """Train the user's model on the training rows."""
        from ift.data import LoadedData
        from ift.methods.stage import check_data
        from ift.runs.from_python import train_stages

        self._planned = self._stages(task, entrant, folder)
        planned = [(stage, LoadedData(self.split.train)) for stage in self._planned]
        for stage, data in planned:
            check_data(stage, data)
        start = self._planned[0].model.model_name_or_path
        return train_stages(entrant.method, planned, start, attach)

    def _stages(self, task: dict[str, Any], entrant: Entrant, folder: Path) -> list[Any]:
        first = {f"1.{name}": value for name, value in task["first"].items()}
        settings = {**entrant.settings, **first, **task["chosen"], "seed": task["seed"]}
        stages = self.study.stages(entrant.method, settings, folder)
        for stage in stages:
            share_answers(stage, entrant.more_steps)
        return stages

    def config(self, task: dict[str, Any], entrant: Entrant) -> dict[str, Any]:
        """What differs from the method's defaults, with the rate and the size of the training always."""
        stages = self._stages(task, entrant, Path("unused"))
        found: dict[str, Any] = {}
        for number, stage in enumerate(stages, start=1):
            prefix = f"{number}." if len(stages) > 1 else ""
            found |= {f"{prefix}{name}": value for name, value in _said(stage).items()}
        return found

    def train_data(self, task: dict[str, Any], entrant: Entrant) -> Any:
        """The same rows for all."""
        from ift.lab.report import DataSplit

        return DataSplit(self.split.train_rows, self.split.sha256["train"])

    def answers_seen(self, trained: Any) -> int:
        """Steps times the rows of a step, pairs twice."""
        return sum(
            done.steps * _rows_per_step(stage.config) * (2 if stage.method.needs_pairs else 1)
            for done, stage in zip(trained.stages, self._planned, strict=True)
        )

    def probe(self, folder: Path) -> dict[str, float]:
        """Seconds of a step of SFT, of a scored and of an answered row; steps of a training; bytes of the weights."""
        (full,) = self._stages({"first": {}, "chosen": {}, "seed": 0}, Entrant("sft"), folder)
        config = full.config
        steps = math.ceil(self.split.train_rows / _rows_per_step(config)) * config.num_train_epochs
        clock, began = StepClock(), time.perf_counter()
        task = {"first": {}, "chosen": {"max_steps": PROBE_STEPS}, "seed": 0}
        trained = self.train(task, Entrant("sft"), folder, lambda trainer: trainer.add_callback(clock))
        training = time.perf_counter() - began
        model, tokenizer = self._load(str(trained.folder))
        rows = self.split.validation.select(
            range(min(len(self.split.validation), config.per_device_eval_batch_size))
        )
        began = time.perf_counter()
        self._likelihoods(model, [(row["input_ids"], row["labels"]) for row in rows])
        scoring = time.perf_counter() - began
        if self.final is not None:
            self._answers(model, tokenizer, rows)
        answering = time.perf_counter() - began - scoring
        return {
            "step_seconds": clock.seconds,
            "steps": config.max_steps if config.max_steps > 0 else steps,
            "start_seconds": training - clock.total,
            "score_seconds": scoring / len(rows),
            "answer_seconds": answering / len(rows),
            "weight_bytes": sum(one.numel() * one.element_size() for one in model.parameters()),
        }

    # --- scoring ------------------------------------------------------------------------------------------------------

    def choose(self, folder: str) -> tuple[float, float]:
        """The study's metric on the validation rows; likelihood per token where shares are equal."""
        model, tokenizer = self._load(folder)
        rows, pairs = self.split.validation, self.split.pairs.get("validation")
        likelihood = self._target_likelihood(model, rows)[PER_TOKEN]
        if self.study.metric == "exact_match":
            return self._exact_match(self._answers(model, tokenizer, rows)), likelihood
        if self.study.metric == "choice_accuracy":
            return self._choices(model, pairs)[self.study.metric], likelihood
        return likelihood, likelihood

    def score(self, folder: str) -> Scored:
        """Likelihood of the targets; exact match where they have a final answer; choices where there are pairs."""
        from ift.lab.report import DataSplit, Sample

        model, tokenizer = self._load(folder)
        rows = self.split.test
        scores: dict[str, Any] = {"n": len(rows)}
        shown = rows if self.final is not None else rows.select(range(min(SAMPLES, len(rows))))
        answers = self._answers(model, tokenizer, shown)
        if self.final is not None:
            scores["exact_match"] = self._exact_match(answers)
            scores["stopped"] = sum(one["stopped"] for one in answers) / len(answers)
            scores["mean_length"] = sum(one["tokens"] for one in answers) / len(answers)
        scores |= self._target_likelihood(model, rows)
        if "test" in self.split.pairs:
            scores |= self._choices(model, self.split.pairs["test"])
        if answers:
            file = self.result.parent.parent / "answers" / f"{self.result.stem}.jsonl"
            file.parent.mkdir(exist_ok=True)
            file.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in answers))
        samples = [
            Sample("test", str(one["row"]), one["prompt"], one["target"], one["answer"], one["right"])
            for one in answers[:SAMPLES]
        ]
        data = {"test": DataSplit(len(rows), self.split.sha256["test"])}
        return Scored({"test": scores}, data, samples, {})


def share_answers(stage: Any, more_steps: float = 1.0) -> None:
    """Let a stage see as many answers as any other method: a pair is two, so half the pairs in half the passes.

    A step's pairs are halved too, in the batch or in the accumulation, where one of them is even.
    """
    config, halved = stage.config, False
    if stage.method.needs_pairs:
        if config.per_device_train_batch_size % 2 == 0:
            config.per_device_train_batch_size //= 2
            halved = True
        elif config.gradient_accumulation_steps % 2 == 0:
            config.gradient_accumulation_steps //= 2
            halved = True
        config.num_train_epochs /= 2
    config.num_train_epochs *= more_steps
    if config.max_steps > 0:
        half = 2 if stage.method.needs_pairs and not halved else 1
        config.max_steps = max(1, round(config.max_steps * more_steps / half))


def _rows_per_step(config: Any) -> int:
    return int(config.per_device_train_batch_size * config.gradient_accumulation_steps)


def _said(stage: Any) -> dict[str, Any]:
    """The plain settings of a stage that are not the defaults, and those that a reader looks for first."""
    from trl import ModelConfig

    _, kind = stage.method.load()
    usual = kind(**{**stage.method.settings, "output_dir": stage.config.output_dir, **FORCED})
    always = {"learning_rate", "per_device_train_batch_size", "num_train_epochs"}
    if stage.method.name == "ift":
        always |= {*IFT_DEFAULTS}
    always |= {*stage.method.defaults}
    found: dict[str, Any] = {}
    for told, default in ((stage.config, usual), (stage.model, ModelConfig())):
        for name in (one.name for one in fields(default)):
            value = getattr(told, name, None)
            plain = isinstance(value, (bool, int, float)) or (isinstance(value, str) and "/" not in value)
            differs = value != getattr(default, name) or name in always
            if plain and differs and name not in {*FORCED, "seed", "output_dir", "model_name_or_path"}:
                found[name] = getattr(value, "value", value)  # of an enumeration
    return found

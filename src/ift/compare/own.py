"""Trials on the user's own model and rows, trained with the words of `ift train`, scored on rows held out for it."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from ift.baselines.methods import parse_methods
from ift.compare.final_answer import FinalAnswer
from ift.compare.ground import SAMPLES, Scored
from ift.compare.own_rows import Split
from ift.compare.plan import Entrant
from ift.data.masks import UNTRAINED
from ift.data.prepare import count_trained
from ift.timing import StepClock

PER_TOKEN = "target_log_likelihood_per_token"
METRICS = ("exact_match", PER_TOKEN, "choice_accuracy")
FORCED: Mapping[str, Any] = {  # a trial is trained whole, scored by us and thrown away
    "eval_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "push_to_hub": False,
    "report_to": "none",
    "disable_tqdm": True,
}
DECIDED = ("method", "output_dir", "seed", "beta", "simpo_gamma", "resume_from_checkpoint", *FORCED)
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
        from ift.cli.arguments import parse_stages

        beside = {one.name: one for name in self.methods for one in parse_methods(name)}
        given = {**FORCED, **settings, "method": method, "output_dir": out}
        words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
        return parse_stages([*self.words, *words], [*beside.values()])


class OwnGround:
    """See `ift.compare.ground.Ground`; a seed gives order and noise, the rows are always the same."""

    def __init__(self, task: dict[str, Any]) -> None:
        self.study = OwnStudy(**task["own"])
        self.split = Split.load(Path(task["rows"]))
        self.result = Path(task["result"])
        (self.told,) = self.study.stages("sft", {}, "unused")
        self.final = None if self.study.pattern is None else FinalAnswer(self.study.pattern)
        self._planned: list[Any] = []

    # --- training -----------------------------------------------------------------------------------------------------

    def train(self, task: dict[str, Any], entrant: Entrant, folder: Path, attach: Any) -> Any:
        """Train the user's model on the training rows."""
        from ift.baselines.stage import check_data
        from ift.baselines.train import train_stages
        from ift.data import LoadedData

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
        from ift.report import DataSplit

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
        from ift.report import DataSplit, Sample

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

    def _load(self, folder: str) -> tuple[Any, Any]:
        """A trained folder or the base as it is trained (dtype, quantisation), and the base's tokenizer."""
        from transformers import AutoModelForCausalLM
        from trl import get_quantization_config

        from ift.baselines.stage import load_tokenizer
        from ift.data import ensure_chat_template

        told, config = self.told.model, self.told.config
        quantisation = get_quantization_config(told)
        base = folder == told.model_name_or_path
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=told.dtype,
            attn_implementation=told.attn_implementation,
            trust_remote_code=config.trust_remote_code,
            **({"revision": told.model_revision} if base else {}),
            **({"quantization_config": quantisation} if quantisation is not None else {}),
        )
        tokenizer = load_tokenizer(self.told)
        with contextlib.suppress(ValueError):  # rows that need no template do without
            ensure_chat_template(tokenizer)
        return (model if quantisation is not None else model.to(config.device)), tokenizer

    @contextlib.contextmanager
    def _precision(self) -> Iterator[None]:
        """No gradient, and the autocast that training has."""
        config = self.told.config
        dtype = torch.float16 if config.fp16 else torch.bfloat16
        with (
            torch.no_grad(),
            torch.autocast(config.device.type, dtype, enabled=config.fp16 or bool(config.bf16)),
        ):
            yield

    def _answers(self, model: Any, tokenizer: Any, rows: Any) -> list[dict[str, Any]]:
        """The greedy answer to every row's last prompt; none where a row has no prompt."""
        from ift.data import end_of_turn_ids
        from ift.generation import continue_prompts

        asked = [last_answer(row["input_ids"], row["labels"]) for row in rows]
        if not all(prompt for prompt, _ in asked):
            return []
        stops = end_of_turn_ids(tokenizer)
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(stops)
        with self._precision():
            found = continue_prompts(
                model,
                [prompt for prompt, _ in asked],
                stops,
                pad,
                batch_size=self.told.config.per_device_eval_batch_size,
                max_new_tokens=self.study.max_new_tokens,
            )
        answers = []
        for row, (prompt, target), one in zip(rows, asked, found, strict=True):
            texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in (prompt, target, one.ids)]
            right = None if self.final is None else self._right(texts[1], texts[2])
            answers.append(
                {
                    "row": row["row"],
                    **dict(zip(("prompt", "target", "answer"), texts, strict=True)),
                    "right": right,
                    "stopped": one.stopped,
                    "tokens": len(one.ids),
                }
            )
        return answers

    def _right(self, target: str, answer: str) -> bool:
        assert self.final is not None
        return self.final.find(answer) == self.final.find(target)

    @staticmethod
    def _exact_match(answers: Sequence[Mapping[str, Any]]) -> float:
        return sum(bool(one["right"]) for one in answers) / len(answers)

    def _target_likelihood(self, model: Any, rows: Any) -> dict[str, float]:
        pairs = [(row["input_ids"], row["labels"]) for row in rows]
        found, tokens = self._likelihoods(model, pairs), sum(count_trained(labels) for _, labels in pairs)
        return {"target_log_likelihood": sum(found) / len(found), PER_TOKEN: sum(found) / tokens}

    def _choices(self, model: Any, pairs: Any) -> dict[str, float]:
        """Share of held-out pairs whose chosen answer is the more likely one, in all and per token; a tie is wrong."""
        sides = [
            [(row[f"{side}_input_ids"], row[f"{side}_labels"]) for row in pairs]
            for side in ("chosen", "rejected")
        ]
        sums = [self._likelihoods(model, side) for side in sides]
        means = [
            [one / count_trained(labels) for one, (_, labels) in zip(found, side, strict=True)]
            for found, side in zip(sums, sides, strict=True)
        ]
        return {
            name: sum(a > b for a, b in zip(*found, strict=True)) / len(pairs)
            for name, found in {"choice_accuracy": sums, "choice_accuracy_per_token": means}.items()
        }

    def _likelihoods(self, model: Any, rows: Sequence[tuple[list[int], list[int]]]) -> list[float]:
        """Summed log-probability of the trained tokens of each row of (ids, labels), through the chunked head."""
        from ift.loss import ift_loss
        from ift.support import evaluating

        size = self.told.config.per_device_eval_batch_size
        order = sorted(range(len(rows)), key=lambda index: len(rows[index][0]))
        found = [0.0] * len(rows)
        with self._precision(), evaluating(model):
            for start in range(0, len(order), size):
                chosen = order[start : start + size]
                batch = _padded([rows[index] for index in chosen], model.device)
                losses = ift_loss(model, batch, residual_lambda=0.0, propagation="none").scores.losses
                for index, total in zip(chosen, losses.sum(1, dtype=torch.float64).tolist(), strict=True):
                    found[index] = -total
        return found


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


def last_answer(ids: Sequence[int], labels: Sequence[int]) -> tuple[list[int], list[int]]:
    """The ids before a row's last trained stretch, which are the prompt, and those of the stretch."""
    end = max(place for place, label in enumerate(labels) if label != UNTRAINED) + 1
    start = end
    while start and labels[start - 1] != UNTRAINED:
        start -= 1
    return list(ids[:start]), list(ids[start:end])


def _rows_per_step(config: Any) -> int:
    return int(config.per_device_train_batch_size * config.gradient_accumulation_steps)


def _said(stage: Any) -> dict[str, Any]:
    """The plain settings of a stage that are not the defaults, and those that a reader looks for first."""
    from trl import ModelConfig

    _, kind = stage.method.load()
    usual = kind(**{**stage.method.settings, "output_dir": stage.config.output_dir, **FORCED})
    always = {"learning_rate", "per_device_train_batch_size", "num_train_epochs"}
    if stage.method.name == "ift":
        always |= {"residual_lambda", "propagation_gamma"}
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


def _padded(rows: Sequence[tuple[list[int], list[int]]], device: Any) -> dict[str, Any]:
    longest = max(len(ids) for ids, _ in rows)

    def tensor(values: list[list[int]]) -> Any:
        return torch.tensor(values, device=device)  # (B, T)

    return {
        "input_ids": tensor([ids + [0] * (longest - len(ids)) for ids, _ in rows]),
        "attention_mask": tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows]),
        "labels": tensor([labels + [UNTRAINED] * (longest - len(labels)) for _, labels in rows]),
    }

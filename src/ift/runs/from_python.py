"""`train_method`: trains a method or a sequence of methods from Python, like `ift train --method`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ift.data import LoadedData, Part, load_train_and_eval
from ift.generation.during_training import AnswerArguments
from ift.methods.stage import Stage, check_data
from ift.methods.table import Method, fields_left_to_other_stages, parse_methods
from ift.runs.arguments import RunArguments
from ift.runs.argv import UsageError
from ift.runs.output_folder import stage_folder
from ift.runs.ranges import check_used
from ift.runs.results import TrainResult
from ift.runs.train_run import train_sequence
from ift.text import did_you_mean
from ift.training.other_tools import suggest_equivalent

Rows = Any  # a path or Hub id, a list of rows, or a datasets.Dataset


def train_method(
    method: str,
    model: str | Path,
    rows: Rows | tuple[Rows, ...],
    output_dir: str | Path,
    settings: Mapping[str, Any] | None = None,
    *,
    eval_rows: Rows | None = None,
    attach: Callable[[Any], None] | None = None,
) -> TrainResult:
    """Trains a method, or a sequence such as `sft+dpo`, and saves the model.

    Data, masks, settings and folders are those of `ift train --method`; its checks and its output are left out.

    Args:
        method: A name of the table, an alias, a control, or several joined by `+`.
        model: Folder or Hub id of the model to start from.
        rows: Training rows: a path or Hub id, a list of rows or a `datasets.Dataset`; a tuple has those of each stage.
            Methods that need no pairs accept preference rows, and train on the chosen answer.
        output_dir: Folder for the model; a sequence saves in `1-sft`, `2-dpo` and so on below it.
        settings: Names and values of `ift train`'s flags for the method, the model and the rows (`use_peft`, `lora_r`,
            `dtype`, `dataset_train_split`, ...), without those on answers and on the command itself. In a sequence each
            stage uses those that it knows; `"2.learning_rate"` is for the second stage only. `report_to` is "none" by
            default.
        eval_rows: Evaluation rows, if `eval_strategy` asks for evaluation; by default some training rows are held out.
        attach: Called with each stage's trainer before its first step, for instance to add a callback.

    Raises:
        ValueError: An unknown method or setting (with a suggestion), or a refused value.
        DataError: Rows that cannot be read or trained.
        OSError: A model or file that cannot be found.
    """
    methods = parse_methods(method)
    given = dict(settings or {})
    _check_names(methods, given)
    if isinstance(rows, tuple) and len(rows) != len(methods):
        raise ValueError(
            f"{len(rows)} sets of rows for {len(methods)} stages. Give one, or one for each stage."
        )
    planned = []
    for number, one in enumerate(methods, start=1):
        folder = stage_folder(output_dir, methods, number)
        data = rows[number - 1] if isinstance(rows, tuple) else rows
        stage = _stage(one, folder, _settings_of(given, methods, number), data, last=number == len(methods))
        planned.append((stage, _loaded(stage, data, eval_rows)))
        check_data(*planned[-1])
    return train_stages(method, planned, str(model), attach)


def train_stages(
    method: str,
    planned: Sequence[tuple[Stage, LoadedData]],
    model: str,
    attach: Callable[[Any], None] | None = None,
) -> TrainResult:
    """Trains stages with their rows: the first from `model`, the others from the previous one's weights."""
    planned[0][0].model.model_name_or_path = model
    stages, data = zip(*planned, strict=True)
    results = train_sequence(stages, data=data, attach=attach)
    return TrainResult(method, results[-1].folder, tuple(results))


def _stage(method: Method, folder: Path, settings: dict[str, Any], rows: Rows, *, last: bool) -> Stage:
    from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments

    def given(kind: Any) -> dict[str, Any]:
        return {one.name: settings[one.name] for one in fields(kind) if one.name in settings}

    _, config_class = method.load()
    config = config_class(
        **{**method.settings, "report_to": "none", **given(config_class), "output_dir": str(folder)}
    )
    method.check(config)
    config.push_to_hub = config.push_to_hub and last
    name = str(rows) if isinstance(rows, str | os.PathLike) else None
    script = ScriptArguments(**{**given(ScriptArguments), "dataset_name": name})
    model = ModelConfig(**given(ModelConfig))
    try:
        check_used(settings, script, model, DatasetMixtureConfig())
    except UsageError as error:
        raise ValueError(str(error)) from error
    return Stage(script, config, model, None, {}, method)


def _loaded(stage: Stage, rows: Rows, eval_rows: Rows | None) -> LoadedData:
    from datasets import Dataset

    from ift.data.loading import load_with_origin
    from ift.data.training_sets import evaluates, hold_out_evaluation

    if stage.script.dataset_name is not None and eval_rows is None:
        return load_train_and_eval(stage.script, None, stage.config)

    def part(name: str, value: Rows) -> list[Part]:
        if isinstance(value, str | os.PathLike):
            loaded, origin = load_with_origin(str(value))
            return [Part(name, loaded, origin=origin)]
        return [Part(name, Dataset.from_list(list(value)) if isinstance(value, list | tuple) else value)]

    train = LoadedData(part("train", rows))
    if not evaluates(stage.config):
        return train
    if eval_rows is None:
        return hold_out_evaluation(train, stage.config.seed)
    return LoadedData(train.train, part("eval", eval_rows))


def _settings_of(given: Mapping[str, Any], methods: Sequence[Method], number: int) -> dict[str, Any]:
    """The settings of one stage; stage-specific values override common ones."""
    others = fields_left_to_other_stages(methods, number)
    own = {key.partition(".")[2]: value for key, value in given.items() if key.startswith(f"{number}.")}
    common = {key: value for key, value in given.items() if not re.match(r"\d+\.", key) and key not in others}
    return common | own


def _check_names(methods: Sequence[Method], given: Mapping[str, Any]) -> None:
    """Raises ValueError for the first setting that no stage knows, or that names a stage which does not exist."""
    from trl import ModelConfig, ScriptArguments

    common = {f.name for kind in (ModelConfig, ScriptArguments) for f in fields(kind)}
    known = [common | {f.name for f in fields(method.load()[1])} for method in methods]
    decided = {"output_dir", "model_name_or_path", "dataset_name"}
    of_command = {f.name for kind in (AnswerArguments, RunArguments) for f in fields(kind)}
    for key in given:
        number, _, name = key.rpartition(".")
        if number and not (number.isdigit() and 1 <= int(number) <= len(methods)):
            raise ValueError(f"setting {key!r}: there is no stage {number!r}; they are 1 to {len(methods)}.")
        names = known[int(number) - 1] if number else set().union(*known)
        if name in decided:
            raise ValueError(f"setting {key!r} is an argument of train_method itself.")
        if name in of_command:
            raise ValueError(f"setting {key!r} is of the command `ift train` alone, not of train_method.")
        if name not in names:
            raise ValueError(
                f"unknown setting {key!r}" + (suggest_equivalent(name) or did_you_mean(name, names) or ".")
            )

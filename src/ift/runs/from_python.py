"""`train_method`: trains a method or a sequence of methods from Python, like `ift train --method`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
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
            default. `dataset_train_split`, `dataset_test_split`, `dataset_config` and `dataset_streaming` are for rows
            given as a path or Hub id.
        eval_rows: Evaluation rows, if `eval_strategy` asks for evaluation. A path or Hub id is read at
            `dataset_test_split`, or at its training split if it has no split for tests. By default they are the test
            split of `rows`, or some training rows that are held out.
        attach: Called with each stage's trainer before its first step, for instance to add a callback.

    Raises:
        ValueError: An unknown method or setting (with a suggestion), a refused value, or a setting that selects rows by
            name for rows that are objects.
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
        check_used(settings, script, model, DatasetMixtureConfig(), config)
    except UsageError as error:
        raise ValueError(str(error)) from error
    return Stage(script, config, model, None, {}, method)


def _loaded(stage: Stage, rows: Rows, eval_rows: Rows | None) -> LoadedData:
    """The rows of a stage; names are read as the `dataset_*` settings say, which objects refuse."""
    from ift.data.training_sets import evaluates, hold_out_evaluation, load_splits

    _check_row_settings(stage.script, rows, eval_rows)
    if _is_name(rows) and eval_rows is None:
        return load_train_and_eval(stage.script, None, stage.config)
    if _is_name(rows):  # `dataset_test_split` is that of `eval_rows`
        train = load_splits(replace(stage.script, dataset_test_split="test"), None, evaluation=False)
    else:
        train = LoadedData([_part("train", rows)])
    if not evaluates(stage.config):
        return train
    if eval_rows is None:
        return hold_out_evaluation(train, stage.config.seed)
    named = _is_name(eval_rows)
    evaluation = _named_evaluation(stage.script, str(eval_rows)) if named else _part("eval", eval_rows)
    return replace(train, evaluation=[evaluation])


def _is_name(rows: Rows | None) -> bool:
    return isinstance(rows, str | os.PathLike)


def _part(name: str, rows: Rows) -> Part:
    from datasets import Dataset

    return Part(name, Dataset.from_list(list(rows)) if isinstance(rows, list | tuple) else rows)


def _named_evaluation(script: Any, name: str) -> Part:
    """The rows of the split `dataset_test_split`, or of the training split if the data set has no test split."""
    from ift.data.loading import choose_split, load_with_origin, split_names

    config, split = script.dataset_config, script.dataset_test_split
    if split == "test" and choose_split(split, split_names(name, config)) is None:
        split = "train"
    rows, origin = load_with_origin(name, config=config, split=split, streaming=script.dataset_streaming)
    return Part("eval", rows, origin=origin)


def _check_row_settings(script: Any, rows: Rows, eval_rows: Rows | None) -> None:
    """Raises ValueError for a setting that selects rows of a data set by its name, where the rows are objects."""
    used = {
        "dataset_train_split": _is_name(rows),
        "dataset_test_split": _is_name(rows if eval_rows is None else eval_rows),
        "dataset_config": _is_name(rows) or _is_name(eval_rows),
        "dataset_streaming": _is_name(rows) or _is_name(eval_rows),
    }
    for one in fields(script):
        if not used.get(one.name, True) and getattr(script, one.name) != one.default:
            of = "eval_rows" if one.name == "dataset_test_split" and eval_rows is not None else "rows"
            raise ValueError(
                f"setting {one.name!r} selects from a data set that is given by its path or Hub id, and {of} are "
                f"objects. Fix: select the rows before the call and leave it out, or give {of} as a path or Hub id "
                f'(in a sequence, "1.{one.name}" is for the first stage only)'
            )


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

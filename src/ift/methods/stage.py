"""One stage of a run: its settings, its rows as the method needs them, and its trainer."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ift.data import (
    DataError,
    LoadedData,
    Part,
    RowTokenizer,
    end_of_turn_ids,
    ensure_chat_template,
    load_train_and_eval,
    prepare_mixture,
)
from ift.data.errors import call_for_each
from ift.data.formats import Format
from ift.data.lengths import length_limit
from ift.data.origin import RowPreparation
from ift.data.prepare import Prepared, PrepareRow, first_rows_of
from ift.methods.engines import is_ift, refuse_engines
from ift.methods.start import (
    check_limits,
    model_positions,
    model_record,
    start_adapter,
    start_network,
    start_options,
    use_given_adapter,
)
from ift.methods.table import Method
from ift.models import loading
from ift.models.limits import check_named_tokens
from ift.models.model_folder import looks_local
from ift.models.record import write_record
from ift.models.stop_tokens import stop_generation_at
from ift.step.model_checks import check_placement
from ift.training.checkpoints import WritesInCheckpoints
from ift.training.non_finite import StopsAtNonFinite
from ift.training.tied_weights import KnowsTiedWeights


class RecordInCheckpoints(WritesInCheckpoints):
    """Writes the model's record; a subclass because transformers warns about two callbacks of the same class."""


@dataclass
class Stage:
    """The settings of one stage: the method, the model to start from, and the rows.

    A run has one stage, or one for each method of a sequence such as `sft+dpo`.

    Attributes:
        script: trl's ScriptArguments (data set name, splits).
        config: The method's settings.
        model: trl's ModelConfig (model, LoRA, quantisation).
        mixture: trl's DatasetMixtureConfig (`datasets:` of a YAML file).
        columns: Columns to rename, old name -> new.
        method: The method's entry in the table.
    """

    script: Any
    config: Any
    model: Any
    mixture: Any
    columns: dict[str, str]
    method: Method


@dataclass(frozen=True)
class PreparedRows:
    """The tokenised rows of a stage.

    Attributes:
        tokenizer: The tokenizer that prepared the rows, with the chat template and end token of the settings.
        sets: "train" and, if there are evaluation rows, "eval".
        notes: Decisions made while loading, one line each, to be shown to the user.
    """

    tokenizer: Any
    sets: dict[str, Prepared]
    notes: tuple[str, ...] = ()


def load_data(stage: Stage) -> LoadedData:
    """Loads the rows that the settings name and checks that the method can train on them.

    Raises:
        DataError: A path, split or column does not exist, rows cannot be read, or a preference method gets no pairs.
    """
    pairs = stage.method.needs_pairs
    how = partial(_row_preparation, stage)
    data = load_train_and_eval(
        stage.script, stage.mixture, stage.config, columns=stage.columns, pairs=pairs, preparation=how
    )
    check_data(stage, data)
    return data


def _row_preparation(stage: Stage, form: Format, pairs: bool) -> RowPreparation:
    """What prepares each row as `prepare_stage` does, to name all that is wrong with rows which cannot all be read."""
    from ift.data.pairs import PreparePair
    from ift.training.config import preparation

    tokenizer = load_tokenizer(stage)
    if form.conversational:
        ensure_chat_template(tokenizer)
    limit = length_limit(stage.config.max_length, model_positions(stage))
    if pairs:
        return PreparePair(form, RowTokenizer(tokenizer), limit, "train", {})
    tokenise = RowTokenizer(tokenizer, preparation(stage.config)["train_on"])
    return PrepareRow(form, tokenise, limit, "train", {})


def check_data(stage: Stage, data: LoadedData) -> None:
    """Raises DataError if a preference method gets rows without pairs; called for all stages before any training."""
    if stage.method.needs_pairs:
        from ift.data.pairs import check_columns

        for name, parts in (("train", data.train), ("eval", data.evaluation or [])):
            for part in parts:
                with part.renaming.advising():
                    check_columns(part.rows, name if len(parts) == 1 else f"{name} {part.name}")


def prepare_stage(stage: Stage, data: LoadedData) -> PreparedRows:
    """Tokenises the rows as the method needs them; raises DataError for rows that cannot be read or trained."""
    from trl.trainer.utils import global_then_local_main_first

    from ift.data.pairs import prepare_pairs
    from ift.training.config import preparation

    use_given_adapter(stage)
    config, tokenizer, positions = stage.config, load_tokenizer(stage), model_positions(stage)

    def prepare(named: tuple[str, list[Part]]) -> tuple[str, Prepared]:
        name, parts = named
        if stage.method.needs_pairs:
            options = {"max_length": config.max_length, "num_proc": config.dataset_num_proc}
            return name, prepare_pairs(parts, tokenizer, name=name, positions=positions, **options)
        return name, prepare_mixture(parts, tokenizer, name=name, positions=positions, **preparation(config))

    sets = {name: parts for name, parts in (("train", data.train), ("eval", data.evaluation)) if parts}
    with global_then_local_main_first():
        prepared = call_for_each(
            sets.items(), prepare, lambda named: (named[0], [first_rows_of(part) for part in named[1]])
        )
    return PreparedRows(tokenizer, dict(prepared), tuple(data.notes))


def build_trainer(stage: Stage, prepared: PreparedRows, network: Any = None) -> Any:
    """Loads the model and builds the trainer of a stage.

    Args:
        stage: The settings.
        prepared: The rows.
        network: Used instead of loading the model; `ift check` passes a model without weights.

    Raises:
        DataError: The model cannot be loaded completely, or lacks embeddings or positions for the rows.
        ValueError: The engine cannot train or resume this.
    """
    from ift.training.metrics import MetricsFile

    config, with_ift = stage.config, is_ift(stage)
    trainer_class, _ = stage.method.load()
    refuse_engines(stage)
    if not with_ift:
        trainer_class = type(trainer_class.__name__, (StopsAtNonFinite, KnowsTiedWeights, trainer_class), {})
    tokenizer = prepared.tokenizer
    reports = {name: one.report for name, one in prepared.sets.items()}
    sets = {name: one.dataset for name, one in prepared.sets.items()}
    loaded = start_network(stage) if network is None else network
    check_placement(loaded)
    check_limits(stage, tokenizer, longest_row(reports["train"], config), loaded)
    extra: dict[str, Any] = {"data_reports": reports} if with_ift else {}
    if stage.method.needs_reference and not stage.model.use_peft and not config.precompute_ref_log_probs:
        extra["ref_model"] = start_network(stage) if network is None else copy.deepcopy(network)
    init_kwargs, config.model_init_kwargs = (
        config.model_init_kwargs,
        None,
    )  # trl warns about them for a loaded model
    trainer = trainer_class(
        model=loaded,
        args=config,
        train_dataset=sets["train"],
        eval_dataset=sets.get("eval"),
        processing_class=tokenizer,
        peft_config=None if hasattr(loaded, "peft_config") else start_adapter(stage),
        **extra,
    )
    config.model_init_kwargs = init_kwargs
    trainer.record = model_record(stage, reports)
    trainer.add_callback(RecordInCheckpoints(partial(write_record, record=trainer.record)))
    if not with_ift:
        trainer.data_reports = reports
        stop_generation_at(trainer.model, sorted(end_of_turn_ids(tokenizer)))
        trainer.add_callback(MetricsFile())
    return trainer


def load_tokenizer(stage: Stage) -> Any:
    """The model's tokenizer, with the chat template and end token of the settings.

    Raises:
        DataError: It cannot be loaded, or the settings name a template that is no file, or a token that it lacks.
    """
    template = getattr(stage.config, "chat_template_path", None)
    tokenizer = loading.load_tokenizer(stage.model.model_name_or_path, start_options(stage))
    if template and os.path.isfile(template):
        try:
            tokenizer.chat_template = Path(template).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"--chat_template_path {template}: is not UTF-8 ({error}). Fix: save it as UTF-8"
            ) from error
    elif template and (template.endswith(".jinja") or looks_local(template)) and not os.path.isdir(template):
        raise DataError(f"--chat_template_path {template}: no such file. Fix: correct the path")
    elif template:  # trl would load that tokenizer's template after the rows have been prepared
        raise DataError(
            f"--chat_template_path {template}: found no file, expected a Jinja file. Fix: give that model's "
            "chat_template.jinja; the tokenizer must already have the tokens that it needs"
        )
    check_named_tokens(tokenizer, stage.config)
    if getattr(stage.config, "eos_token", None):
        tokenizer.eos_token = stage.config.eos_token
    return tokenizer


def longest_row(report: Any, config: Any) -> int:
    """Maximum number of tokens of a row in a step; for a stream, `max_length`."""
    return min(report.lengths[2] or config.max_length or 1, config.max_length or report.lengths[2])

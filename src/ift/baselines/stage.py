"""One run: a method, a model, settings and rows, to a saved model. `ift train` and `train_method` both end here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ift.baselines.methods import Method
from ift.data import DataError, LoadedData, end_of_turn_ids, prepare_mixture
from ift.data.prepare import Prepared
from ift.memory import Remedy, available_memory, remedies
from ift.models.model_folder import from_hub_or_folder, looks_local, weights_said
from ift.preflight import longest_row
from ift.runs.out_of_room import disk_full, is_disk_full, is_out_of_memory, out_of_memory
from ift.saved import read_back
from ift.training.checkpoints import SealedCheckpoints, Stopped
from ift.training.non_finite import StopsAtNonFinite
from ift.training.trl_internals import SendsNothing


@dataclass
class Stage:
    """What one run is told.

    Attributes:
        script: trl's ScriptArguments (data set name, splits).
        config: the method's settings.
        model: trl's ModelConfig (model, LoRA, quantisation).
        mixture: trl's DatasetMixtureConfig (`datasets:` of a YAML file).
        columns: column name -> the name ift knows.
        method: row of the table.
    """

    script: Any
    config: Any
    model: Any
    mixture: Any
    columns: dict[str, str]
    method: Method


@dataclass(frozen=True)
class PreparedRows:
    """What a stage trains on.

    Attributes:
        tokenizer: The one that the rows were prepared with, its template and end token as the run asks for them.
        sets: "train" and, where there are evaluation rows, "eval".
    """

    tokenizer: Any
    sets: dict[str, Prepared]


def train_stage(
    stage: Stage,
    data: LoadedData,
    attach: Callable[[Any], None] | None = None,
    prepared: PreparedRows | None = None,
    checkpoints: SealedCheckpoints | None = None,
) -> Any:
    """Prepare, train, save to `stage.config.output_dir`, write the card; returns the trainer.

    `attach` is called with the trainer before the first step; `prepared` is what `prepare_stage` gave, if it was called
    already; `checkpoints` seals what is saved on the way. The trainer has `data_reports` (name -> DataReport) and
    `read_back` (what `ift.saved.read_back` says of the saved model; empty on all processes but the first).

    Raises:
        DataError: rows that cannot be read or trained.
        ValueError: a model or an option that is refused.
        OSError: a model or file that cannot be found; a saved model that cannot be read back.
        NonFiniteError: a loss or gradient is not finite.
        OutOfMemory: a step did not fit; the message names settings that need less.
        DiskFull: what was to be saved did not fit.
        Stopped: a signal came; `checkpoints` has saved, and the model is not.
    """
    config = stage.config
    prepared = prepare_stage(stage, data) if prepared is None else prepared
    trainer = build_trainer(stage, prepared)
    if attach is not None:
        attach(trainer)
    if checkpoints is not None:
        trainer.add_callback(checkpoints)
    with _faults_said(stage, prepared):
        try:
            trainer.train(resume_from_checkpoint=config.resume_from_checkpoint)
        finally:
            if checkpoints is not None:
                checkpoints.release()
        unfinished = (
            trainer.state.global_step < trainer.state.max_steps
        )  # a signal may come behind the last step
        if checkpoints is not None and checkpoints.stopped is not None and unfinished:
            last = Path(config.output_dir) / f"checkpoint-{trainer.state.global_step}"
            raise Stopped(checkpoints.stopped, last)
        _save(stage, trainer)
    return trainer


def _save(stage: Stage, trainer: Any) -> None:
    """The model, read back, and its card; to the Hub too, if asked for."""
    config = stage.config
    trainer.save_model(config.output_dir)
    trainer.read_back = ""
    if trainer.is_world_process_zero():
        trained = trainer.accelerator.unwrap_model(trainer.model)
        trainer.read_back = read_back(
            Path(config.output_dir), trained, trust_remote_code=config.trust_remote_code
        )
    name = stage.script.dataset_name
    card = os.path.basename(
        os.path.abspath(config.output_dir)
    )  # else a local base model would be called None
    trainer.create_model_card(
        model_name=card, dataset_name=None if name is None or os.path.exists(name) else name
    )
    if config.push_to_hub:
        trainer.push_to_hub(dataset_name=name)


@contextmanager
def _faults_said(stage: Stage, prepared: PreparedRows) -> Iterator[None]:
    """Says of memory or disk space that ran out what to do."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise out_of_memory(error, _remedies(stage, prepared)) from error
        if is_disk_full(error):
            raise disk_full(error, Path(stage.config.output_dir)) from error
        raise


def _remedies(stage: Stage, prepared: PreparedRows) -> list[Remedy]:
    try:
        return remedies(stage, longest_row(prepared.sets["train"].report, stage.config), available_memory())
    except Exception:  # on the way out: no estimate is no reason to hide what happened
        return []


def check_data(stage: Stage, data: LoadedData) -> None:
    """Raise DataError where a method of pairs gets none: before the stages ahead of it have trained for hours."""
    if stage.method.needs_pairs:
        from ift.data.pairs import check_columns

        for name, parts in (("train", data.train), ("eval", data.evaluation or [])):
            for part in parts:
                check_columns(part.rows, name)


def prepare_stage(stage: Stage, data: LoadedData) -> PreparedRows:
    """The rows as the method takes them.

    Raises:
        DataError: rows that cannot be read or trained.
    """
    from trl.trainer.utils import global_then_local_main_first

    from ift.data.pairs import prepare_pairs
    from ift.training.trainer import preparation

    config, tokenizer = stage.config, load_tokenizer(stage)
    found: dict[str, Prepared] = {}
    with global_then_local_main_first():
        for name, parts in {"train": data.train, "eval": data.evaluation}.items():
            if parts and stage.method.needs_pairs:
                how = {"max_length": config.max_length, "num_proc": config.dataset_num_proc}
                found[name] = prepare_pairs(parts, tokenizer, name=name, **how)
            elif parts:
                found[name] = prepare_mixture(parts, tokenizer, name=name, **preparation(config))
    return PreparedRows(tokenizer, found)


def build_trainer(stage: Stage, prepared: PreparedRows) -> Any:
    """The stage's trainer on what `prepare_stage` gave, not run yet."""
    from trl import get_peft_config, get_quantization_config

    from ift.training.metrics import MetricsFile
    from ift.training.trainer import IFTTrainer, stop_generation_at

    config = stage.config
    config.model_init_kwargs = {
        "revision": stage.model.model_revision,
        "attn_implementation": stage.model.attn_implementation,
        "dtype": stage.model.dtype,
        "use_safetensors": True,  # no pickles, unless model_init_kwargs says so
        **(config.model_init_kwargs or {}),
    }
    trainer_class, _ = stage.method.load()
    ours = issubclass(trainer_class, IFTTrainer)
    if not ours:
        trainer_class = type(trainer_class.__name__, (SendsNothing, StopsAtNonFinite, trainer_class), {})
    tokenizer = prepared.tokenizer
    reports = {name: one.report for name, one in prepared.sets.items()}
    sets = {name: one.dataset for name, one in prepared.sets.items()}
    with weights_said(stage.model.model_name_or_path):
        trainer = trainer_class(
            model=stage.model.model_name_or_path,
            args=config,
            train_dataset=sets["train"],
            eval_dataset=sets.get("eval"),
            processing_class=tokenizer,
            quantization_config=get_quantization_config(stage.model),
            peft_config=get_peft_config(stage.model),
            **({"data_reports": reports} if ours else {}),
        )
    if not ours:
        trainer.data_reports = reports
        stop_generation_at(trainer.model, sorted(end_of_turn_ids(tokenizer)))
        trainer.add_callback(MetricsFile())
    return trainer


def load_tokenizer(stage: Stage) -> Any:
    """The model's tokenizer, with the template and the end token that the run asks for."""
    from transformers import AutoTokenizer

    name, template = stage.model.model_name_or_path, getattr(stage.config, "chat_template_path", None)
    with from_hub_or_folder(name, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(
            name,
            revision=stage.model.model_revision,
            trust_remote_code=stage.config.trust_remote_code,
        )
    if template and os.path.isfile(template):
        tokenizer.chat_template = _text_of(template)
    elif template and (template.endswith(".jinja") or looks_local(template)) and not os.path.isdir(template):
        raise DataError(f"--chat_template_path {template}: no such file. Fix: correct the path")
    if getattr(stage.config, "eos_token", None):
        tokenizer.eos_token = stage.config.eos_token
    return tokenizer


def _text_of(template: str) -> str:
    try:
        return Path(template).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"--chat_template_path {template}: is not UTF-8 ({error}). Fix: save it as UTF-8"
        ) from error


def start_of_next(folder: Path) -> Path:
    """What the next stage starts from: the folder, or, for an adapter, its base with it merged in (`folder`/merged)."""
    if not (folder / "adapter_config.json").exists():
        return folder
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    merged = folder / "merged"
    model = AutoPeftModelForCausalLM.from_pretrained(str(folder), dtype="auto")
    model.merge_and_unload().save_pretrained(merged)
    AutoTokenizer.from_pretrained(str(folder)).save_pretrained(merged)
    return merged

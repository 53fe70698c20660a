"""`ift train`: from a model and a file of good answers to an aligned model."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from ift.cli.arguments import TrainArguments, UsageError, parse
from ift.cli.launch import check_world_size, is_launched, launch
from ift.data import DataError, split_names
from ift.data.loading import is_local


def main(arguments: list[str]) -> int:
    """Run `ift train`; returns the exit code (0 done, 1 refused, 2 usage)."""
    from ift.cli.help import print_help

    if not arguments or "--help" in arguments or "-h" in arguments or "--help-all" in arguments:
        print_help(everything="--help-all" in arguments)
        return 0
    try:
        told = parse(arguments)
        check_model_path(told.model.model_name_or_path)  # before any process starts that would say it again
        if told.script.dataset_name and is_local(told.script.dataset_name):
            split_names(told.script.dataset_name)
        if told.launch and not is_launched():
            return launch(told.launch, told.words, use_cpu=told.config.use_cpu)
        check_world_size()
        run_training(told)
    except UsageError as error:
        print(f"ift train: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nift train: stopped. Checkpoints, if any, lie in the output folder.", file=sys.stderr)
        return 130
    except (DataError, ValueError, OSError, ImportError, RuntimeError) as error:
        if os.environ.get("IFT_DEBUG"):
            raise
        print(f"ift train: {error}\n(IFT_DEBUG=1 shows where this was raised.)", file=sys.stderr)
        return 1
    return 0


def run_training(told: TrainArguments, closing: bool = True) -> Any:
    """Load, show the plan, train, save and, if `closing`, say what to do next. Returns the IFTTrainer.

    Raises:
        DataError: rows that cannot be read or trained.
        ValueError: a model or an option that IFT refuses.
        OSError: a model or file that cannot be found.
    """
    from trl import get_peft_config, get_quantization_config

    from ift.cli.display import Display
    from ift.data import load_train_and_eval, prepare_mixture
    from ift.trainer import IFTTrainer, preparation

    began = time.perf_counter()
    config = told.config
    config.model_init_kwargs = {
        "revision": told.model.model_revision,
        "attn_implementation": told.model.attn_implementation,
        "dtype": told.model.dtype,
        **(config.model_init_kwargs or {}),
    }
    data = load_train_and_eval(told.script, told.mixture, config, columns=told.columns)
    tokenizer, reports = _tokenizer(told), {}
    sets: dict[str, Any] = {"train": data.train, "eval": data.evaluation}
    for name, parts in sets.items():
        sets[name] = parts[0].rows if parts else None
        if parts and len(parts) > 1:
            prepared = prepare_mixture(parts, tokenizer, name=name, **preparation(config))
            sets[name], reports[name] = prepared.dataset, prepared.report
    display = Display(told, data.notes)
    trainer = IFTTrainer(
        model=told.model.model_name_or_path,
        args=config,
        train_dataset=sets["train"],
        eval_dataset=sets["eval"],
        processing_class=tokenizer,
        quantization_config=get_quantization_config(told.model),
        peft_config=get_peft_config(told.model),
        data_reports=reports,
    )
    display.attach(trainer)
    trainer.train(resume_from_checkpoint=config.resume_from_checkpoint)
    trainer.save_model(config.output_dir)
    name = told.script.dataset_name
    card = os.path.basename(
        os.path.abspath(config.output_dir)
    )  # else a local base model would be called None
    trainer.create_model_card(
        model_name=card, dataset_name=None if name is None or os.path.exists(name) else name
    )
    if config.push_to_hub:
        trainer.push_to_hub(dataset_name=name)
    if closing:
        display.finish(time.perf_counter() - began)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        trainer.end()
    return trainer


def check_model_path(name: str) -> None:
    """Raise DataError for what can only be a local folder and is none: transformers would look for it on the Hub."""
    local = name.startswith((".", "/", "~")) or name.count("/") > 1
    if os.path.isfile(name) or (local and not os.path.isdir(name)):
        raise DataError(
            f"{name}: no such model folder. Fix: give a folder that holds a config.json, or a Hub id (owner/name)"
        )
    known = ("config.json", "adapter_config.json")
    if os.path.isdir(name) and not any(os.path.exists(os.path.join(name, file)) for file in known):
        raise DataError(
            f"{name}: no config.json in this folder. Fix: give the folder that the model was saved to"
        )


def _tokenizer(told: TrainArguments) -> Any:
    """The model's tokenizer, with the template and the end token that the run asks for."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        told.model.model_name_or_path,
        revision=told.model.model_revision,
        trust_remote_code=told.config.trust_remote_code,
    )
    template = told.config.chat_template_path
    if template and os.path.isfile(template):
        with open(template, encoding="utf-8") as file:
            tokenizer.chat_template = file.read()
    elif template and len(told.mixture.datasets) > 1:
        raise UsageError(
            "chat_template_path must be a Jinja file with a mixture: the parts are prepared before the model."
        )
    if told.config.eos_token:
        tokenizer.eos_token = told.config.eos_token
    return tokenizer

"""Whether a run's trainer, optimiser and schedule can be built, tried on a model without weights ("meta")."""

from __future__ import annotations

import copy
import difflib
import inspect
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
import torch.utils.checkpoint
from huggingface_hub import get_token
from huggingface_hub.constants import HF_HUB_OFFLINE
from transformers import PreTrainedModel

from ift.check.memory import empty_model
from ift.check.packages import missing_packages, wanted_packages
from ift.data import DataError
from ift.generation.during_training import logs_exact_match, target_totals
from ift.methods.stage import PreparedRows, Stage, build_trainer
from ift.methods.start import check_adapter, start_options
from ift.models.loading import load_config, load_network, without_transformers_bars
from ift.models.model_folder import NoWeights, looks_local
from ift.text import quoted

# arguments of `from_pretrained` that its signature hides behind **kwargs
LOADING = {
    "attn_implementation", "device_map", "dtype", "experts_implementation", "gguf_file", "max_memory",
    "offload_buffers", "offload_folder", "quantization_config", "revision", "subfolder", "tp_plan", "tp_size",
    "torch_dtype", "trust_remote_code", "use_kernels", "variant",
}  # fmt: skip
# what trl's trainers report in an evaluation, beside the loss and the times
METRICS_OF_TRL = (
    "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen", "logps/rejected",
    "logits/chosen", "logits/rejected", "nll_loss", "log_odds_ratio", "log_odds_chosen", "kl/chosen", "kl/rejected",
    "entropy", "mean_token_accuracy", "num_tokens",
)  # fmt: skip
TIMES = ("runtime", "samples_per_second", "steps_per_second")


def build_errors(
    stage: Stage, prepared: PreparedRows, engine: str = "ddp", elsewhere: bool = False
) -> list[str]:
    """The errors with which `ift train` would stop before or right after its first step.

    What the settings alone show is listed completely. If that is nothing, the trainer is built as in the run, from two
    rows and a model on the "meta" device; then its optimiser and its schedule, which stop at their first error. Nothing
    is downloaded, trained or kept. With several processes nothing is built, since trl's trainers wait for each other
    while they are.

    Args:
        stage: The settings.
        prepared: What `prepare_stage` returned.
        engine: Name of the engine whose packages are needed here.
        elsewhere: Whether the run is planned for another machine, which may have what this one lacks. If a package is
            missing here, nothing is built.
    """
    found = (
        ([] if elsewhere else _unavailable(stage, engine))
        + _refused(stage)
        + _answers_and_metric(stage, prepared)
    )
    try:
        found += _unknown_init_kwargs(stage) + _wrong_modules(stage)
        if found or stage.config.world_size > 1:
            return found
        found += _wrong_tensors(stage)
        if found or (elsewhere and wanted_packages([stage], engine)):
            return found
        with tempfile.TemporaryDirectory() as folder:
            _build(stage, prepared, folder)
    except (ValueError, ImportError, TypeError, KeyError, OSError) as error:
        return [*found, _explained(stage, error)]
    except RuntimeError as error:  # a model's own code may need weights that are not there
        return found if "meta" in str(error) else [*found, _explained(stage, error)]
    return []


def _unavailable(stage: Stage, engine: str) -> list[str]:
    """What the settings need of this machine beyond the trainer: a package, a device, the Hub."""
    config, packages = stage.config, missing_packages([stage], engine)
    problems = {
        "activation_offloading moves activations off an accelerator; there is none. Fix: leave it out": (
            getattr(config, "activation_offloading", False) and not torch.accelerator.is_available()
        ),
        "push_to_hub is set, and so is HF_HUB_OFFLINE. Fix: unset the variable, or leave push_to_hub out": (
            config.push_to_hub and HF_HUB_OFFLINE
        ),
        "push_to_hub needs a login. Fix: hf auth login, or leave it out": (
            config.push_to_hub and not HF_HUB_OFFLINE and not (config.hub_token or get_token())
        ),
    }
    return ([packages] if packages else []) + [problem for problem, holds in problems.items() if holds]


def _refused(stage: Stage) -> list[str]:
    """What torch would refuse on any machine."""
    config, given = stage.config, stage.config.gradient_checkpointing_kwargs or {}
    known = {*inspect.signature(torch.utils.checkpoint.checkpoint).parameters, "preserve_rng_state"}
    unknown = sorted(set(given) - known) if config.gradient_checkpointing else []
    names = ", ".join(unknown)
    return (
        [f"gradient_checkpointing_kwargs: {names} is no argument of torch.utils.checkpoint"]
        if unknown
        else []
    )


def _wrong_modules(stage: Stage) -> list[str]:
    """Names in LoRA's lists that the model lacks, or that name both sides of a tied matrix."""
    try:
        check_adapter(stage, empty_model(stage, "eager"))
    except DataError as error:
        return [str(error)]
    return []


def _wrong_tensors(stage: Stage) -> list[str]:
    """Which tensors of a local model its files lack, or have beyond it, as their headers say; not if quantised."""
    name, options = stage.model.model_name_or_path, start_options(stage)
    if not looks_local(name) or "gguf_file" in options.further:
        return []
    if hasattr(load_config(name, options), "quantization_config"):
        return []
    further = {**options.further, "device_map": "meta", "attn_implementation": "eager"}
    further.pop("quantization_config", None)
    try:
        with _without_warnings(), without_transformers_bars():
            load_network(name, replace(options, further=further))
    except NoWeights:  # a plan on paper, which names them
        return []
    except DataError as error:
        return [str(error)]
    return []


@contextmanager
def _without_warnings() -> Iterator[None]:
    """While active, libraries neither warn nor log warnings: the run reports them."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _build(stage: Stage, prepared: PreparedRows, folder: str) -> None:
    tried = copy.copy(stage)
    tried.config = config = copy.copy(stage.config)
    config.output_dir, config.push_to_hub = folder, False
    sets = {name: replace(one, dataset=one.dataset.take(2)) for name, one in prepared.sets.items()}
    rows = replace(prepared, tokenizer=copy.deepcopy(prepared.tokenizer), sets=sets)
    model = empty_model(stage)
    # the trainer, and accelerate where there are two entries, leave such a model where it is
    model.hf_device_map = {"model": "meta", "lm_head": "meta"}
    with _without_warnings():
        trainer = build_trainer(tried, rows, network=model)
        trainer.create_optimizer_and_scheduler(num_training_steps=10)


def _explained(stage: Stage, error: Exception) -> str:
    """The error of a library, with the setting that it is about where that is known."""
    config, text = stage.config, quoted(error)
    if "_schedule" in text or "min_lr" in text:
        name = getattr(config.lr_scheduler_type, "value", config.lr_scheduler_type)
        return f"lr_scheduler_type {name}: {text}. Fix: give lr_scheduler_kwargs, or take another schedule"
    target = str(stage.model.lora_target_modules)
    if "Target modules" in text and "," in target:
        return f"{text}. Fix: separate the names of --lora_target_modules by spaces, not by commas"
    if "Target modules" in text and target.isidentifier():  # trl makes a string of a list of one name
        return f"{text}. Fix: a single name is a regular expression for the whole path; write '.*\\.{target}'"
    return text


def _unknown_init_kwargs(stage: Stage) -> list[str]:
    """What is wrong with `model_init_kwargs`."""
    options = start_options(stage)
    given = (
        set(options.further) - LOADING - set(inspect.signature(PreTrainedModel.from_pretrained).parameters)
    )
    if not given:
        return []
    config = load_config(stage.model.model_name_or_path, options)
    unknown = sorted(name for name in given if not hasattr(config, name))
    if not unknown:
        return []
    return [
        f"model_init_kwargs: {', '.join(unknown)} is neither an argument of from_pretrained nor a setting in the "
        "model's config.json. Fix: leave it out"
    ]


def _answers_and_metric(stage: Stage, prepared: PreparedRows) -> list[str]:
    """What is wrong with the scores of generated answers, and with `metric_for_best_model`."""
    answers, scores = getattr(stage, "answers", None), list[str]()
    if answers is not None and answers.eval_generate and "eval" in prepared.sets:
        given = (answers, prepared.sets["eval"], stage.config.seed, prepared.tokenizer)
        scores = ["answers_stopped"]
        try:
            scores += ["exact_match"] if logs_exact_match(*given) else []
        except ValueError as error:
            return [str(error)]
        try:  # the names of a function's values are known from a call
            scores += target_totals(*given)
        except ValueError as error:
            return [f"eval_score: {error}"]
    return _unknown_metric(stage, prepared, scores)


def has_router_loss(stage: Stage) -> bool:
    """Whether the model is a mixture of experts whose balance is trained too, by the rule of trl's SFTTrainer."""
    config = load_config(stage.model.model_name_or_path, start_options(stage)).get_text_config()
    given = getattr(stage.config, "router_aux_loss_coef", None)
    coefficient = getattr(config, "router_aux_loss_coef", 0.0) if given is None else given
    return hasattr(config, "output_router_logits") and coefficient != 0


def _unknown_metric(stage: Stage, prepared: PreparedRows, scores: list[str]) -> list[str]:
    """What is wrong with `metric_for_best_model`, which transformers reads only after the first evaluation.

    `scores` are the names of the scores of generated answers.
    """
    from ift.training.metrics import EVALUATION_METRICS, LOOKAHEAD_METRICS, PROPAGATION_METRICS
    from ift.training.trainer import IFTTrainer

    wanted = stage.config.metric_for_best_model
    if wanted is None or "eval" not in prepared.sets:
        return []
    ours = issubclass(stage.method.load()[0], IFTTrainer)
    names = ["loss", *TIMES, *(EVALUATION_METRICS if ours else METRICS_OF_TRL)]
    names += LOOKAHEAD_METRICS if ours and stage.config.has_lambda else ()
    if ours and stage.config.propagation == "none" and stage.config.token_weights is None:
        names = [name for name in names if name not in PROPAGATION_METRICS]
    if not has_router_loss(stage):
        names = [name for name in names if name != "aux_loss"]
    known = [f"eval_{name}" for name in (*names, *scores)]
    name = wanted if wanted.startswith("eval_") else f"eval_{wanted}"
    if name in known:
        return []
    near = [one for one in known if one.startswith(f"{name}.")] or difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {' or '.join(near)}?" if near else "."
    return [
        f"metric_for_best_model is {wanted!r}, which no evaluation reports{hint} There are {', '.join(known)}"
    ]

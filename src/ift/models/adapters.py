"""Adapters (LoRA, DoRA and others): finding their base, loading them onto it, and merging them into it."""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from ift.data.errors import DataError
from ift.models.record import FILE, model_sha256, read_record
from ift.text import did_you_mean, quoted

CONFIG = "adapter_config.json"
WHOLE_COPIES = ".modules_to_save."  # in the names of the parameters of peft's copies of whole modules
MAGNITUDES = "lora_magnitude_vector"  # in the names of DoRA's magnitudes
_KIND = {
    "target_parameters": "parameter",
    "layers_to_transform": "targeted layer",
    "layers_pattern": "list of layers",
}


def adapter_config(name: str, revision: str | None = None) -> Any | None:
    """The `PeftConfig` of a folder or Hub id that holds an adapter; None for a full model.

    Raises:
        DataError: The adapter is not for causal language models, or peft cannot read its configuration.
    """
    from transformers.utils.peft_utils import find_adapter_config_file

    if find_adapter_config_file(name, revision=revision) is None:
        return None
    from peft import PeftConfig

    try:
        config = PeftConfig.from_pretrained(name, **({"revision": revision} if revision else {}))
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{name}: its {CONFIG} cannot be read by peft ({quoted(error)}). Fix: update peft"
        ) from error
    task = getattr(config.task_type, "value", config.task_type)
    if task not in (None, "CAUSAL_LM"):
        raise DataError(
            f"{name}: this adapter is for the task {task}, expected CAUSAL_LM. Fix: give an adapter of a causal "
            "language model"
        )
    return config


def find_base(name: str, base: str | None, revision: str | None = None) -> str:
    """The folder or Hub id of an adapter's base, from `base_model_name_or_path` of its configuration.

    `revision` is that of the adapter. A base that was a local folder when ift trained the adapter is never looked up on
    the Hub.

    Raises:
        DataError: No base is named, the base is missing, or another model is in its folder.
    """
    if not base:
        raise DataError(
            f"{name}: {CONFIG} names no base_model_name_or_path. Fix: write the base's folder or Hub id there"
        )
    path, record = Path(base).expanduser(), read_record(name, revision)
    if path.is_absolute() and not path.is_dir():
        raise DataError(
            f"{name}: the base of this adapter: {base}: no such model folder. Fix: put the base back, or write its new "
            f"path into base_model_name_or_path of {Path(name) / CONFIG}"
        )
    if not path.is_dir():
        return base
    if (path / CONFIG).exists():
        raise DataError(
            f"{name}: the base of this adapter, {base}, is an adapter itself. Fix: merge that one into its base and "
            "name the merged model"
        )
    if record.base_sha256 and record.base_sha256 != model_sha256(path):
        raise DataError(
            f"{name}: the base of this adapter, {base}, is not the model that the adapter was trained on: its "
            f"configuration or weights differ. Fix: put that model back, or write its path into "
            f"base_model_name_or_path of {Path(name) / CONFIG}; to use this base anyway, delete "
            f"{Path(name) / FILE}"
        )
    return str(path.absolute())


def attach_adapter(
    network: Any, name: str, config: Any, *, revision: str | None = None, trainable: bool = False
) -> Any:
    """Loads an adapter onto its base and returns the `PeftModel`; `config` is its `adapter_config` at `revision`.

    Raises:
        DataError: Tensors of the adapter are missing, unknown, or have other shapes.
    """
    from peft import PeftModelForCausalLM

    if trainable and config.is_prompt_learning:
        raise DataError(
            f"{name}: peft cannot continue training a prompt adapter. Fix: train a new one on its base"
        )
    config.inference_mode = not trainable
    mapping = None if config.is_prompt_learning else getattr(network, "_checkpoint_conversion_mapping", {})
    with warnings.catch_warnings():  # peft reads this property by its old name
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        model = PeftModelForCausalLM(network, config)
    try:
        found = model.load_adapter(
            name, "default", is_trainable=trainable, key_mapping=mapping, revision=revision
        )
    except (RuntimeError, KeyError) as error:  # other shapes; a prompt adapter without its embeddings
        raise DataError(f"{name}: the adapter does not fit its base: {error}") from error
    loaded = {"prompt_embeddings"} if config.is_prompt_learning else set()  # which peft loads on its own
    check_keys(name, found.missing_keys, set(found.unexpected_keys) - loaded)
    return model


def check_adapter_names(network: Any, config: Any, prefix: str = "") -> None:
    """Raises DataError if a list of a LoRA configuration names what the model lacks, which peft passes over in silence.

    Args:
        network: The model, with or without the adapter on it.
        config: The `PeftConfig` as the user gave it; None, or a configuration without such lists, passes.
        prefix: Before the names of the settings in the message.
    """
    from peft.tuners.tuners_utils import check_target_module_exists
    from peft.utils.other import get_pattern_key

    if config is None:
        return
    modules = {_name_in_base(name) for name, _ in network.named_modules()} - {""}
    tensors = {_name_in_base(name) for name, _ in network.named_parameters()}

    def targets(**changes: Any) -> bool:
        alone = copy.copy(config)
        for name, value in {
            "target_modules": [],
            "exclude_modules": None,
            "modules_to_save": None,
            **changes,
        }.items():
            setattr(alone, name, value)
        return any(check_target_module_exists(alone, module) for module in modules)

    def ends(one: str, names: set[str] = modules) -> bool:
        return any(name == one or name.endswith(f".{one}") for name in names)

    def is_pattern_of(one: str) -> bool:
        return any(get_pattern_key([one], name) == one for name in modules)

    given = getattr(config, "target_modules", None) or modules
    exists = {
        "target_modules": lambda one: targets(target_modules=[one], layers_to_transform=None),
        "modules_to_save": ends,
        "exclude_modules": ends,
        "target_parameters": lambda one: ends(one, tensors),
        "layers_pattern": lambda one: any(re.search(rf"(^|\.){one}\.\d+\.", name) for name in modules),
        "layers_to_transform": lambda one: targets(target_modules=given, layers_to_transform=[one]),
        "rank_pattern": is_pattern_of,
        "alpha_pattern": is_pattern_of,
    }
    for setting, is_known in exists.items():
        wanted = getattr(config, setting, None)
        if wanted is None or isinstance(
            wanted, str
        ):  # peft says so itself if a regular expression matches nothing
            continue
        for one in sorted(wanted if isinstance(wanted, Collection) else [wanted]):
            if not is_known(one):
                parts = sorted({part for name in modules for part in name.split(".") if not part.isdigit()})
                hint = did_you_mean(str(one), parts)
                comma = "separate the names by spaces, not by commas" if "," in str(one) else ""
                raise DataError(
                    f"{prefix}{setting}: the model has no {_KIND.get(setting, 'module')} {one}{hint or '.'} Fix: "
                    f"{comma or 'correct the name, or leave it out'}"
                )


def _name_in_base(name: str) -> str:
    """The name that a module or parameter has in the model without the adapter."""
    for part in ("base_model.model.", ".base_layer", ".original_module"):
        name = name.replace(part, "")
    return name


def check_keys(name: str, missing: Any, unexpected: Any) -> None:
    """Raises DataError for missing tensors (they would be random) and unexpected ones (they would be ignored)."""
    for kind, keys, fix in (
        ("lack tensors of the model", missing, "copy the whole model again, or use the right configuration"),
        (
            "have tensors that the model lacks",
            unexpected,
            "use the configuration that belongs to them",
        ),
    ):
        if names := sorted(map(str, keys)):
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise DataError(f"{name}: its weights {kind}: {shown}. Fix: {fix}")


def merge_adapter(model: Any) -> Any:
    """Merges the adapter of a `PeftModel` into its base, in place, and returns the base.

    If the adapter changes the embedding or the head and the two are tied, they are untied first; otherwise merging
    would change both. The caller must check that the outputs are unchanged.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    base = model.get_base_model()
    head, embedding = base.get_output_embeddings(), base.get_input_embeddings()
    changed = any(isinstance(one, BaseTunerLayer | AuxiliaryTrainingWrapper) for one in (head, embedding))
    if changed and isinstance(head, BaseTunerLayer):
        head = head.get_base_layer()
    if changed and not isinstance(
        head, AuxiliaryTrainingWrapper
    ):  # such a wrapper has its own copy of the weights
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*tie_word_embeddings")  # untied above
        model = model.merge_and_unload()
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if changed and not torch.equal(head.weight, embedding.weight):
        for config in (model.config, model.config.get_text_config()):
            config.tie_word_embeddings = False
        model.all_tied_weights_keys = {}
    return model


def base_named_in(folder: Path) -> str | None:
    """`base_model_name_or_path` of an adapter's folder, read without peft."""
    found = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path")
    return found if isinstance(found, str) else None

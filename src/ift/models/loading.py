"""Loads a model, its adapter and its tokenizer. Everything that needs a model loads it here."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from transformers.utils import logging as transformers_logging

from ift.data.errors import DataError
from ift.models.adapters import adapter_config, attach_adapter, base_named_in, check_keys, find_base
from ift.models.deepspeed import without_zero3_partitioning
from ift.models.limits import check_special_ids, embedded_ids
from ift.models.model_folder import (
    check_model_path,
    explain_loading_errors,
    explain_weight_loading_errors,
    local_path,
)
from ift.models.record import find_file, read_record
from ift.step.model import keep_quantised_layout

DTYPES = ("auto", "float32", "bfloat16", "float16")
PLAIN_TEXT, CHAT_TEMPLATE, DEFAULT_TEMPLATE = "plain text", "chat template", "default template"


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded.

    Attributes:
        dtype: Of the weights, one of `DTYPES` or a torch dtype; "auto" is that of the files.
        device: Such as "cuda:1"; None is the accelerator if there is one.
        trust_remote_code: Run Python code that comes with the model.
        allow_pickle_weights: Load weights in PyTorch's pickle format if there are no others.
        revision: Revision of a Hub id.
        further: Further arguments of `from_pretrained`, such as attn_implementation; they override the others.
    """

    dtype: Any = "auto"
    device: str | None = None
    trust_remote_code: bool = False
    allow_pickle_weights: bool = False
    revision: str | None = None
    further: Mapping[str, Any] = field(default_factory=dict)


class LoadedModel(NamedTuple):
    """A model ready for generation.

    Attributes:
        model: In evaluation mode, on its device; a `PeftModel` if an adapter was loaded.
        tokenizer: With a chat template, unless `prompts` is plain text.
        prompts: How to write prompts: `PLAIN_TEXT` or `CHAT_TEMPLATE`.
        note: A remark for the user about the prompts; "" if the model's own template is used as in training.
    """

    model: Any
    tokenizer: Any
    prompts: str
    note: str


def load_model(name: str, options: LoadOptions = LoadOptions()) -> LoadedModel:
    """Loads a model and its tokenizer for generation.

    Args:
        name: Folder or Hub id of a full model, or of an adapter, whose base is loaded too.
        options: How to load.

    Raises:
        DataError: The model does not exist or cannot be loaded as it was saved.
        OSError: Raised by transformers for a Hub id that does not exist.
    """
    import torch

    tokenizer, prompts, note = load_writer(name, options)
    model = load_network(name, options)
    check_special_ids(name, tokenizer, model, padding=False)
    model = to_device(model, options.device or str(torch.accelerator.current_accelerator() or "cpu"))
    return LoadedModel(model.eval(), tokenizer, prompts, note)


def load_writer(name: str, options: LoadOptions) -> tuple[Any, str, str]:
    """What writes a model's prompts: `tokenizer`, `prompts` and `note` of a `LoadedModel`."""
    from ift.data import ensure_chat_template

    if options.trust_remote_code:
        warn_of_remote_code(name)
    tokenizer = load_tokenizer(name, options)
    prompts, note = prompt_style(name, tokenizer, options.revision)
    if prompts == CHAT_TEMPLATE:
        ensure_chat_template(tokenizer)
    return tokenizer, prompts, "; ".join(filter(None, (note, other_dtype(name, options))))


def other_dtype(name: str, options: LoadOptions) -> str:
    """A remark for the user if an adapter's base is loaded in another dtype than it was trained in; "" if not."""
    trained = read_record(local_path(name), options.revision).base_dtype
    if not trained or options.dtype != "auto":
        return ""
    in_files = str(load_config(name, options).dtype or "float32").removeprefix("torch.")
    if in_files == trained:
        return ""
    return (
        f"its base is loaded in {in_files}, as its files are, and was trained in {trained}: with --dtype {trained} the "
        "outputs are those of the training"
    )


@contextmanager
def without_transformers_bars() -> Iterator[None]:
    """While active, transformers shows no progress bars for weight files."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def to_device(model: Any, device: Any) -> Any:
    """The model on the device, unless it was put on devices when it was loaded: quantised, or by a device_map."""
    placed = hasattr(model, "hf_device_map") or getattr(model, "is_quantized", False)
    return model if placed else model.to(device)


def warn_of_remote_code(name: str) -> None:
    """Prints to standard error that code of a model will run."""
    print(
        f"trust_remote_code is on: Python code that comes with {name} runs with your permissions",
        file=sys.stderr,
    )


def load_network(name: str, options: LoadOptions, *, trainable: bool = False) -> Any:
    """Loads the model alone, without its tokenizer, on the device that `from_pretrained` chooses.

    Args:
        name: See `load_model`.
        options: How to load; `device` is not used.
        trainable: Whether the model (or its adapter) will be trained; under ZeRO-3 only such a model is partitioned.

    Raises:
        DataError: See `load_model`.
    """
    name = local_path(name)
    check_model_path(name, allow_pickle=options.allow_pickle_weights)
    config = adapter_config(name, options.revision)
    with nullcontext() if trainable else without_zero3_partitioning():
        if config is None:
            return _load_weights(name, options.revision, options)
        base = find_base(name, config.base_model_name_or_path, options.revision)
        _check_hub_adapter(name, options)
        network = _load_weights(base, config.revision, options)
        if find_file(name, "tokenizer_config.json", options.revision):
            size = len(load_tokenizer(name, options))
            if size > embedded_ids(network):  # tokens were added for the training of the adapter
                network.resize_token_embeddings(size, mean_resizing=False)
        return attach_adapter(network, name, config, revision=options.revision, trainable=trainable)


def load_config(name: str, options: LoadOptions) -> Any:
    """The configuration of a model, or of an adapter's base.

    Raises:
        DataError: The base of an adapter is missing.
        OSError, ValueError: Raised by transformers for a configuration that cannot be read.
    """
    from transformers import AutoConfig

    name, revision = _full_model(name, options)
    return AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=options.trust_remote_code)


def load_generation_config(name: str, options: LoadOptions) -> Any:
    """The generation config of a model, or of an adapter's base; None if it has none that can be read."""
    from transformers import GenerationConfig

    try:
        name, revision = _full_model(name, options)
        return GenerationConfig.from_pretrained(name, revision=revision)
    except (DataError, OSError, ValueError):
        return None


def _full_model(name: str, options: LoadOptions) -> tuple[str, str | None]:
    """Name and revision of a model, or of an adapter's base."""
    name, revision = local_path(name), options.revision
    if (adapter := adapter_config(name, revision)) is not None:
        return find_base(name, adapter.base_model_name_or_path, revision), adapter.revision
    return name, revision


def load_tokenizer(name: str, options: LoadOptions) -> Any:
    """The tokenizer of a model; for an adapter saved without one, that of its base.

    Raises:
        DataError: It cannot be loaded.
    """
    from transformers import AutoTokenizer

    name, revision = local_path(name), options.revision
    check_model_path(name, weights=False)
    adapter = adapter_config(name, revision)
    if adapter is not None and not find_file(name, "tokenizer_config.json", revision):
        name, revision = find_base(name, adapter.base_model_name_or_path, revision), adapter.revision
    with explain_loading_errors(name, "tokenizer"):
        return AutoTokenizer.from_pretrained(
            name, revision=revision, trust_remote_code=options.trust_remote_code
        )


def model_class(config: Any) -> Any:
    """The generative class named in a configuration, which trl also uses; otherwise `AutoModelForCausalLM`."""
    import transformers

    named = getattr(transformers, (config.architectures or [""])[0], None)
    generates = named is not None and hasattr(named, "can_generate") and named.can_generate()
    return named if generates else transformers.AutoModelForCausalLM


def _load_weights(name: str, revision: str | None, options: LoadOptions) -> Any:
    """Loads a full model and checks that the files have exactly its tensors."""
    if isinstance(options.dtype, str) and options.dtype not in DTYPES:
        raise DataError(f"dtype is {options.dtype!r}. Fix: give one of {', '.join(DTYPES)}")
    arguments = {
        "revision": revision,
        "dtype": options.dtype,
        "trust_remote_code": options.trust_remote_code,
        "use_safetensors": None if options.allow_pickle_weights else True,
        **options.further,
    }
    config = load_config(
        name, LoadOptions(revision=revision, trust_remote_code=bool(arguments["trust_remote_code"]))
    )
    with explain_weight_loading_errors(name):
        network, info = model_class(config).from_pretrained(name, output_loading_info=True, **arguments)
    check_keys(name, info["missing_keys"], info["unexpected_keys"])
    keep_quantised_layout(network)
    return network


def _check_hub_adapter(name: str, options: LoadOptions) -> None:
    """Raises DataError for a Hub adapter without safetensors, whose pickle peft would load."""
    if options.allow_pickle_weights or Path(name).is_dir():
        return
    if find_file(name, "adapter_model.safetensors", options.revision) is None:
        raise DataError(
            f"{name}: no adapter_model.safetensors: its weights may be a pickle, a format that can run code. Fix: "
            "use another copy, or --allow_pickle_weights if you trust its source"
        )


def prompt_style(name: str, tokenizer: Any, revision: str | None = None) -> tuple[str, str]:
    """How to write prompts for a model (as in its training, if recorded), and a remark for the user.

    `revision` is that of a model on the Hub, with which its tokenizer was loaded.
    """
    trained = read_record(name, revision).prompts
    if trained == PLAIN_TEXT:
        return PLAIN_TEXT, "trained on plain text: prompts are passed without a chat template"
    if trained and trained not in (CHAT_TEMPLATE, DEFAULT_TEMPLATE):
        return CHAT_TEMPLATE, f"trained on {trained}: prompts use the chat template"
    if not tokenizer.chat_template:
        return CHAT_TEMPLATE, "its tokenizer has no chat template: prompts use ift's default template"
    return CHAT_TEMPLATE, ""


def short_name(name: str) -> str:
    """The last part of a path or Hub id, for tables and file names; `checkpoint-N` is prefixed with the run's name."""
    parts = [part for part in Path(name).expanduser().resolve().parts if part != Path(name).anchor]
    last = parts[-1] if parts else name
    return f"{parts[-2]}-{last}" if last.startswith("checkpoint-") and len(parts) > 1 else last


def identity(name: str) -> str:
    """Identifies a state of a model: the Hub id, or a hash of names, sizes and times of a folder's files."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return name
    facts: list[Any] = [
        (file.name, file.stat().st_size, file.stat().st_mtime_ns)
        for file in sorted(folder.iterdir())
        if file.suffix in (".safetensors", ".json", ".bin", ".jinja", ".model")
    ]
    if (folder / "adapter_config.json").exists():
        facts.append(identity(base_named_in(folder) or ""))
    return hashlib.sha256(repr(facts).encode()).hexdigest()

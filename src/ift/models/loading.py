"""The one place that loads a model, its adapter and its tokenizer: for every verb and every reading inside a run."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ift.data.errors import DataError
from ift.models.adapters import adapter_config, attach, base_named_in, find_base, refuse_incomplete
from ift.models.deepspeed import not_partitioned
from ift.models.limits import check_special_ids, embedded_ids
from ift.models.model_folder import check_model_path, explain_weight_loading_errors, from_hub_or_folder
from ift.models.record import cached, read_record

DTYPES = ("auto", "float32", "bfloat16", "float16")
PLAIN_TEXT, CHAT_TEMPLATE, DEFAULT_TEMPLATE = "plain text", "chat template", "default template"


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded.

    Attributes:
        dtype: Of the weights, one of `DTYPES`; auto: the one they were saved in.
        device: Such as cuda:1; None: the accelerator where there is one.
        trust_remote_code: Run Python code that comes with the model.
        allow_pickle_weights: Load weights in PyTorch's pickle format where there are no others.
        revision: Of a Hub id.
        further: Arguments of `from_pretrained`, such as attn_implementation and quantization_config; they win.
    """

    dtype: Any = "auto"
    device: str | None = None
    trust_remote_code: bool = False
    allow_pickle_weights: bool = False
    revision: str | None = None
    further: Mapping[str, Any] = field(default_factory=dict)


class LoadedModel(NamedTuple):
    """A model to ask.

    Attributes:
        model: In evaluation mode, on its device; a `PeftModel` where an adapter was loaded.
        tokenizer: With a chat template, unless `prompts` is plain text.
        prompts: How to write prompts: `PLAIN_TEXT` or `CHAT_TEMPLATE`.
        note: What to tell the user about it; empty where the model's own template is used as in its training.
    """

    model: Any
    tokenizer: Any
    prompts: str
    note: str


def load_model(name: str, options: LoadOptions = LoadOptions()) -> LoadedModel:
    """Load a model and its tokenizer to ask it something.

    Args:
        name: A folder or a Hub id of a full model or of an adapter, which brings its base along.
        options: How.

    Raises:
        DataError: There is no such model, or it cannot be loaded as it was saved; the message has a remedy.
        OSError: What transformers raises for a Hub id that does not exist.
    """
    import torch

    from ift.data import ensure_chat_template

    if options.trust_remote_code:
        print(
            f"trust_remote_code is on: Python code that comes with {name} runs here, with your rights",
            file=sys.stderr,
        )
    tokenizer = load_tokenizer(name, options)
    prompts, note = prompt_style(name, tokenizer)
    if prompts == CHAT_TEMPLATE:
        ensure_chat_template(tokenizer)
    model = load_network(name, options)
    check_special_ids(name, tokenizer, model, padding=False)
    if not getattr(model, "is_quantized", False):
        model = model.to(options.device or str(torch.accelerator.current_accelerator() or "cpu"))
    return LoadedModel(model.eval(), tokenizer, prompts, note)


def load_network(name: str, options: LoadOptions, *, trainable: bool = False) -> Any:
    """Load a model, without its tokenizer, where `from_pretrained` puts it.

    Args:
        name: See `load_model`.
        options: How; `device` is not used.
        trainable: Whether it is the model that is trained, or its adapter: ZeRO-3 partitions that one alone.

    Raises:
        DataError: See `load_model`.
    """
    name = local_path(name)
    check_model_path(name, allow_pickle=options.allow_pickle_weights)
    config = adapter_config(name, options.revision)
    with nullcontext() if trainable else not_partitioned():
        if config is None:
            return _load_weights(name, options.revision, options)
        base = find_base(name, config.base_model_name_or_path)
        _check_hub_adapter(name, options)
        network = _load_weights(base, config.revision, options)
        if cached(name, "tokenizer_config.json", options.revision):
            size = len(load_tokenizer(name, options))
            if size > embedded_ids(network):  # tokens were added when the adapter was trained
                network.resize_token_embeddings(size, mean_resizing=False)
        return attach(network, name, config, trainable=trainable)


def load_config(name: str, options: LoadOptions) -> Any:
    """The configuration of a model, or of an adapter's base.

    Raises:
        DataError: The base of an adapter is missing.
        OSError, ValueError: What transformers raises for a configuration that cannot be read.
    """
    from transformers import AutoConfig

    name, revision = local_path(name), options.revision
    if (adapter := adapter_config(name, revision)) is not None:
        name, revision = find_base(name, adapter.base_model_name_or_path), adapter.revision
    return AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=options.trust_remote_code)


def load_tokenizer(name: str, options: LoadOptions) -> Any:
    """The tokenizer of a model; of an adapter that was saved without one, its base's.

    Raises:
        DataError: It cannot be loaded.
    """
    from transformers import AutoTokenizer

    name, revision = local_path(name), options.revision
    check_model_path(name, allow_pickle=options.allow_pickle_weights)
    adapter = adapter_config(name, revision)
    if adapter is not None and not cached(name, "tokenizer_config.json", revision):
        name, revision = find_base(name, adapter.base_model_name_or_path), adapter.revision
    with from_hub_or_folder(name, "tokenizer"):
        return AutoTokenizer.from_pretrained(
            name, revision=revision, trust_remote_code=options.trust_remote_code
        )


def model_class(config: Any) -> Any:
    """The class that a configuration names, as trl takes it; `AutoModelForCausalLM` where that generates nothing."""
    import transformers

    named = getattr(transformers, (config.architectures or [""])[0], None)
    generates = named is not None and hasattr(named, "can_generate") and named.can_generate()
    return named if generates else transformers.AutoModelForCausalLM


def _load_weights(name: str, revision: str | None, options: LoadOptions) -> Any:
    """A full model; every tensor of it comes from the file, and every tensor of the file is used."""
    if isinstance(options.dtype, str) and options.dtype not in DTYPES:
        raise DataError(f"dtype is {options.dtype!r}. Fix: give one of {', '.join(DTYPES)}")
    told = {
        "revision": revision,
        "dtype": options.dtype,
        "trust_remote_code": options.trust_remote_code,
        "use_safetensors": None if options.allow_pickle_weights else True,
        **options.further,
    }
    config = load_config(
        name, LoadOptions(revision=revision, trust_remote_code=bool(told["trust_remote_code"]))
    )
    with explain_weight_loading_errors(name):
        network, info = model_class(config).from_pretrained(name, output_loading_info=True, **told)
    refuse_incomplete(name, info["missing_keys"], info["unexpected_keys"])
    return network


def _check_hub_adapter(name: str, options: LoadOptions) -> None:
    """Refuse an adapter of the Hub in a pickle file, which peft would load; a local one was checked before."""
    if options.allow_pickle_weights or Path(name).is_dir():
        return
    if cached(name, "adapter_model.safetensors", options.revision) is None:
        raise DataError(
            f"{name}: no adapter_model.safetensors: its weights may be a pickle, a format that can carry code. Fix: "
            "take another copy, or say --allow_pickle_weights if you trust its maker"
        )


def prompt_style(name: str, tokenizer: Any) -> tuple[str, str]:
    """How to write prompts for a model, as in its training where that is recorded, and what to tell the user.

    Args:
        name: Folder or Hub id.
        tokenizer: As loaded, before a default template is set.
    """
    trained = read_record(name).prompts
    if trained == PLAIN_TEXT:
        return PLAIN_TEXT, "trained on plain text: prompts are given as they are, without a chat template"
    if trained and trained not in (CHAT_TEMPLATE, DEFAULT_TEMPLATE):
        return CHAT_TEMPLATE, f"trained on {trained}: asked through the chat template"
    if not tokenizer.chat_template:
        return CHAT_TEMPLATE, "its tokenizer has no chat template; ift's default one is used"
    return CHAT_TEMPLATE, ""


def local_path(name: str) -> str:
    """An existing folder as an absolute path, so that it is found from any directory; a Hub id as it is."""
    path = Path(name).expanduser()
    return str(path.absolute()) if path.is_dir() else name


def short_name(name: str) -> str:
    """The last part of a path or Hub id, with the run's name before a `checkpoint-N`: for tables and file names."""
    parts = [part for part in Path(name).expanduser().resolve().parts if part != Path(name).anchor]
    last = parts[-1] if parts else name
    return f"{parts[-2]}-{last}" if last.startswith("checkpoint-") and len(parts) > 1 else last


def identity(name: str) -> str:
    """Tells one state of a model from another: a Hub id, or names, sizes and times of a folder's files, hashed."""
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

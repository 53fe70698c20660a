"""A model to ask: a run folder, a checkpoint, an adapter with its base, or a Hub id."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any


def load_model(name: str, dtype: str = "auto", device: str | None = None) -> tuple[Any, Any, bool]:
    """Loads a model and its tokenizer.

    Args:
        name: A folder or a Hub id of a full model or of an adapter, which brings its base along.
        dtype: Of the weights, such as bfloat16; auto: the one they were saved in.
        device: Such as cuda:1; None: the accelerator where there is one.

    Returns:
        The model, in evaluation mode; its tokenizer, with a chat template; whether the template is the default one
        because the tokenizer had none.

    Raises:
        OSError: There is no such model.
        ValueError: It cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ift.data import ensure_chat_template

    tokenizer = AutoTokenizer.from_pretrained(name)
    default = ensure_chat_template(tokenizer)
    model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
    if device is None:
        device = str(torch.accelerator.current_accelerator() or "cpu")
    return model.to(device).eval(), tokenizer, default


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
    facts = [
        (file.name, file.stat().st_size, file.stat().st_mtime_ns)
        for file in sorted(folder.iterdir())
        if file.suffix in (".safetensors", ".json", ".bin", ".jinja", ".model")
    ]
    return hashlib.sha256(repr(facts).encode()).hexdigest()

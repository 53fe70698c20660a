"""A saved model is done when it has been read back: same tensors, same shapes, and one forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ift.models.deepspeed import not_partitioned

SPARE = 1.2  # times the size of the weights must be free to load them beside the trained model
Shapes = Mapping[str, tuple[int, ...]]


class SaveError(OSError):
    """What was saved is not what was trained; the message names the folder and what differs."""


def read_back(folder: Path, trained: Any, *, trust_remote_code: bool = False) -> str:
    """Loads a saved model or adapter again, on the CPU, and compares it with the one that was trained.

    Args:
        folder: What `save_model` wrote.
        trained: The model, unwrapped; a `PeftModel` where an adapter was saved. Shards count with their full shapes.
        trust_remote_code: As it was loaded with.

    Returns:
        What was done, to show: the number of tensors compared, and whether a forward pass ran. None does where the
        machine has too little memory for a second copy, or the base is quantised.

    Raises:
        SaveError: a tensor is missing, is unknown or has another shape; the file cannot be read; or the outputs of the
            model read back are not finite.
    """
    adapter = (folder / "adapter_config.json").exists()
    files = sorted(folder.glob("adapter_model.safetensors" if adapter else "model*.safetensors"))
    if not files:
        raise SaveError(f"{folder}: saved, and no weights lie there. Fix: look at the free space")
    size = sum(file.stat().st_size for file in files)
    if adapter:
        size += sum(p.numel() * p.element_size() for p in trained.parameters())
    try:
        compared = _adapter(folder, trained, files[0]) if adapter else 0
        if size * SPARE > _free_memory():
            return f"read back {_tensors(compared)}; too little memory is free to load it a second time"
        if getattr(trained, "is_quantized", False):
            return f"read back {_tensors(compared)}; no forward pass on a quantised base"
        with not_partitioned():
            model = _loaded(folder, adapter, trust_remote_code=trust_remote_code)
    except SaveError:
        raise
    except Exception as error:  # whatever transformers, peft or safetensors raise: the folder is no model
        raise SaveError(
            f"{folder}: saved, and cannot be loaded back ({type(error).__name__}: {error})"
        ) from error
    if not adapter:
        compared = _compare(folder, _shapes(trained), _shapes(model))
    ids = torch.zeros(1, 2, dtype=torch.int64)
    with torch.no_grad():
        finite = bool(model.eval()(input_ids=ids).logits.isfinite().all())
    if not finite:
        raise SaveError(f"{folder}: saved, and the model read back gives outputs that are not finite")
    return f"read back {_tensors(compared)}, one forward pass"


def _tensors(count: int) -> str:
    return f"{count:,} tensors"


def _loaded(folder: Path, adapter: bool, **how: Any) -> Any:
    if adapter:
        from peft import AutoPeftModelForCausalLM

        return AutoPeftModelForCausalLM.from_pretrained(str(folder), dtype="auto", **how)
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype="auto", output_loading_info=True, **how
    )
    for kind in ("missing", "unexpected", "mismatched"):  # transformers fills them with random numbers
        if names := sorted(info[f"{kind}_keys"], key=str):
            raise SaveError(
                f"{folder}: saved, and read back with {len(names)} {kind} tensors ({names[0]} first)"
            )
    return model


def _adapter(folder: Path, trained: Any, file: Path) -> int:
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    wanted = {name: tuple(tensor.shape) for name, tensor in get_peft_model_state_dict(trained).items()}
    with safe_open(file, "pt") as opened:
        found = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    return _compare(folder, wanted, found)


def _shapes(model: Any) -> Shapes:
    """Of every parameter; of ZeRO-3's shards the full shape."""
    return {name: tuple(getattr(p, "ds_shape", p.shape)) for name, p in model.named_parameters()}


def _compare(folder: Path, wanted: Shapes, found: Shapes) -> int:
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise SaveError(
                f"{folder}: saved, and {name} is {_shape(found.get(name))} in the file, {_shape(wanted.get(name))} in "
                "the trained model"
            )
    return len(wanted)


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else f"of shape {list(shape)}"


def _free_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().available)

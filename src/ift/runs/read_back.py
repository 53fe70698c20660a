"""Verifies a saved model: loads it again and compares its outputs with those of the trained model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from ift.models.loading import LoadOptions, load_network
from ift.models.outputs import compare_logits, compute_logits
from ift.step.model import has_weights

SPARE = 1.2  # a second copy is loaded if this many times its size is free
Shapes = Mapping[str, tuple[int, ...]]


class SaveError(OSError):
    """The saved model differs from the trained one; the message names the folder and the difference."""


def read_back(
    folder: Path,
    trained: Any,
    rows: Sequence[Sequence[int]] = ((0, 0),),
    *,
    trust_remote_code: bool = False,
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> str:
    """Loads a saved model or adapter and compares its tensors and outputs with the trained one.

    Args:
        folder: Folder written by `save_model`.
        trained: The unwrapped model; a `PeftModel` if an adapter was saved. Shards count with their full shapes.
        rows: Token ids of a few training rows.
        trust_remote_code: As when it was first loaded.
        precision: Returns the autocast of the training.

    Returns:
        A description: the number of tensors, and the difference of the logits. Outputs are not compared if there is too
            little memory for a second copy, the base is quantised, or the weights are sharded over processes.

    Raises:
        SaveError: A tensor is missing, unknown or has another shape, the file cannot be read, or the outputs are not
            finite or differ from the trained model's.
    """
    adapter = (folder / "adapter_config.json").exists()
    files = sorted(folder.glob("adapter_model.safetensors" if adapter else "model*.safetensors"))
    if not files:
        raise SaveError(f"{folder}: no weight files were written. Fix: look at the free space")
    size = sum(file.stat().st_size for file in files)
    if adapter:
        size += sum(p.numel() * p.element_size() for p in trained.parameters())
    try:
        count = (
            _compare_shapes(folder, *_adapter_shapes(trained, files[0])) if adapter else len(_shapes(trained))
        )
        tensors = f"{count:,} tensors"
        if size * SPARE > _free_memory():
            return f"read back {tensors}; outputs not compared: too little memory is free to load it a second time"
        if getattr(trained, "is_quantized", False):
            return f"read back {tensors}; outputs not compared: the base is quantised"
        model = load_network(str(folder), LoadOptions(trust_remote_code=trust_remote_code))
    except SaveError:
        raise
    except Exception as error:  # anything from transformers, peft or safetensors
        raise SaveError(
            f"{folder}: saved, and cannot be loaded back ({type(error).__name__}: {error})"
        ) from error
    if not adapter:
        _compare_shapes(folder, _shapes(trained), _shapes(model))
    return f"read back {tensors}, {_compare_outputs(folder, trained, model, rows, precision)}"


def _compare_outputs(
    folder: Path, trained: Any, model: Any, rows: Sequence[Sequence[int]], precision: Callable[[], Any]
) -> str:
    """Compares the logits of both models in the dtype of the training; returns the description."""
    whole = has_weights(trained)
    dtype = next(p.dtype for p in trained.parameters() if p.is_floating_point())
    dtypes = {name: parameter.dtype for name, parameter in trained.named_parameters()}
    for name, parameter in model.named_parameters():  # the files of an adapter's base may have another dtype
        parameter.data = parameter.data.to(dtypes.get(name, parameter.dtype))
    if whole and _fits(trained.device, model):
        model = model.to(trained.device)
    found = compute_logits(model, rows, precision)
    if not all(bool(one.isfinite().all()) for one in found):
        raise SaveError(f"{folder}: saved, and the model read back gives outputs that are not finite")
    if not whole:
        return "finite outputs; not compared with those before saving: the weights are spread over processes"
    rounded = dtype in (torch.bfloat16, torch.float16) or precision is not nullcontext
    gap = compare_logits(compute_logits(trained, rows, precision), found, rounded=rounded)
    if not gap.same:
        raise SaveError(
            f"{folder}: saved, and the model read back gives other outputs than the trained one on {len(rows)} rows: "
            f"{gap}. Fix: do not use it; the checkpoints of the run hold the trained weights. Please report this"
        )
    return f"same outputs on {len(rows)} row{'s' if len(rows) > 1 else ''} ({gap})"


def _fits(device: torch.device, model: Any) -> bool:
    """Whether the accelerator has memory for a second copy."""
    if device.type != "cuda":
        return False
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    return size * SPARE < torch.cuda.mem_get_info(device)[0]


def _adapter_shapes(trained: Any, file: Path) -> tuple[Shapes, Shapes]:
    """Shapes of the trained adapter's tensors, and of those in the file."""
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    wanted = {name: tuple(tensor.shape) for name, tensor in get_peft_model_state_dict(trained).items()}
    with safe_open(file, "pt") as opened:
        return wanted, {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118


def _shapes(model: Any) -> Shapes:
    """Shapes of all parameters; under ZeRO-3 the unpartitioned ones."""
    return {name: tuple(getattr(p, "ds_shape", p.shape)) for name, p in model.named_parameters()}


def _compare_shapes(folder: Path, wanted: Shapes, found: Shapes) -> int:
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            saved, expected = (_describe_shape(shapes.get(name)) for shapes in (found, wanted))
            raise SaveError(
                f"{folder}: saved, but {name} is {saved} in the file, {expected} in the trained model"
            )
    return len(wanted)


def _describe_shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else f"of shape {list(shape)}"


def _free_memory() -> int:
    import psutil

    return int(psutil.virtual_memory().available)

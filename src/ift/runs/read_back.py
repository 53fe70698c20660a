"""Verifies a saved model: loads it again and compares its outputs with those of the trained model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ift.models.loading import LoadOptions, load_network
from ift.models.outputs import compare_logits, compute_logits
from ift.text import counted

SPARE = 1.2  # times the size of the weights must be free for a second copy
FSDP1 = "_fsdp_wrapped_module."  # in the names of parameters, once for each FSDP1 wrapper


class SaveError(OSError):
    """The saved model differs from the trained one; the message names the folder and the difference."""


def read_back(
    folder: Path,
    trained: Any,
    rows: Sequence[Sequence[int]],
    outputs: Sequence[Tensor],
    *,
    trust_remote_code: bool = False,
    precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> str:
    """Loads a saved model or adapter and compares its tensors and outputs with the trained one.

    Args:
        folder: What `save_model` wrote.
        trained: The model, unwrapped; a `PeftModel` if an adapter was saved. Its weights may be sharded.
        rows: Token ids of a few training rows.
        outputs: Logits of the trained model on `rows`, from `compute_logits`.
        trust_remote_code: As when the model was loaded for training.
        precision: Returns a context manager with the autocast of the training.

    Returns:
        One line for the user: the number of tensors, and the difference of the logits. Logits are not compared if there
        is too little memory for a second copy. The base of an adapter is quantised as in the training.

    Raises:
        SaveError: A tensor is missing, unknown or has another shape, the file cannot be read, or the outputs are not
            finite or differ from the trained model's.
    """
    adapter = (folder / "adapter_config.json").exists()
    files = sorted(folder.glob("adapter_model.safetensors" if adapter else "model*.safetensors"))
    if not files:
        raise SaveError(f"{folder}: no weight files were written. Fix: check the free disk space")
    size = sum(file.stat().st_size for file in files)
    if adapter:
        size += sum(getattr(p, "ds_numel", p.numel()) * p.element_size() for p in trained.parameters())
    try:
        names = _names_in(files)
        tensors = f"read back {len(names):,} tensors"
        if adapter:
            _compare_names(folder, _adapter_names(trained), names)
        quantised = bool(getattr(trained, "is_quantized", False))
        if size * SPARE > _free_memory(trained.device if quantised else torch.device("cpu")):
            return f"{tensors}; outputs not compared: too little memory is free to load it a second time"
        further = {"quantization_config": trained.config.quantization_config} if quantised else {}
        model = load_network(str(folder), LoadOptions(trust_remote_code=trust_remote_code, further=further))
    except SaveError:
        raise
    except Exception as error:  # anything from transformers, peft or safetensors
        raise SaveError(
            f"{folder}: saved, but it cannot be loaded ({type(error).__name__}: {error})"
        ) from error
    return f"{tensors}, {_compare_outputs(folder, trained, model, rows, outputs, precision)}"


def _compare_outputs(
    folder: Path,
    trained: Any,
    model: Any,
    rows: Sequence[Sequence[int]],
    outputs: Sequence[Tensor],
    precision: Callable[[], Any],
) -> str:
    """Compares the logits of both models in the dtype of the training; returns one line for the user."""
    dtypes = {name.replace(FSDP1, ""): parameter.dtype for name, parameter in trained.named_parameters()}
    for name, parameter in model.named_parameters():  # an adapter's base may be saved in another dtype
        if (dtype := dtypes.get(name, parameter.dtype)) != parameter.dtype:
            parameter.data = parameter.data.to(dtype)
    if not getattr(model, "is_quantized", False) and _fits(trained.device, model):
        model = model.to(trained.device)
    found = compute_logits(model, rows, precision)
    if not all(bool(one.isfinite().all()) for one in found):
        raise SaveError(f"{folder}: saved, but the outputs of the loaded model are not finite")
    rounded = not {torch.bfloat16, torch.float16}.isdisjoint(dtypes.values()) or precision is not nullcontext
    difference = compare_logits(outputs, found, rounded=rounded)
    if not difference.same:
        raise SaveError(
            f"{folder}: saved, but the loaded model has other outputs than the trained one on "
            f"{counted(len(rows), 'row')}: {difference}. Fix: do not use it; the checkpoints of the run have the "
            "trained weights. Please report this"
        )
    return f"same outputs on {counted(len(rows), 'row')} ({difference})"


def _fits(device: torch.device, model: Any) -> bool:
    """Whether the accelerator has memory for a second copy."""
    if device.type != "cuda":
        return False
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    return size * SPARE < torch.cuda.mem_get_info(device)[0]


def _names_in(files: Sequence[Path]) -> set[str]:
    """Names of the tensors in safetensors files."""
    from safetensors import safe_open

    names: set[str] = set()
    for file in files:
        with safe_open(file, "pt") as opened:
            names |= set(opened.keys())
    return names


def _adapter_names(trained: Any) -> set[str]:
    """The names of the trained adapter's tensors in its file, determined without gathering shards."""
    from peft import get_peft_model_state_dict

    tensors = [*trained.named_parameters(remove_duplicate=False), *trained.named_buffers()]
    state = {name.replace(FSDP1, ""): tensor for name, tensor in tensors}
    return set(get_peft_model_state_dict(trained, state_dict=state))


def _compare_names(folder: Path, wanted: set[str], found: set[str]) -> None:
    for name in sorted(wanted ^ found):
        place = "the file" if name in wanted else "the trained model"
        raise SaveError(f"{folder}: saved, but {name} is missing from {place}")


def _free_memory(device: torch.device) -> int:
    """Free bytes where a second copy is loaded."""
    import psutil

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)

"""Estimates the memory of a training step on a model without data (device "meta"), before weights are loaded."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ift.check.engines import ONE_DEVICE, Engine, Held, block_sizes, divide, gathered_parameters
from ift.data import DataError
from ift.methods.start import start_adapter, start_options
from ift.models.deepspeed import without_zero3_partitioning
from ift.models.limits import config_ids, explain_ids_outside, learned_positions
from ift.models.loading import load_config
from ift.step.scored_log_probs import tile_shape

TILES = 4  # tiles of logits alive at once in the tiled head: logits, exponentials, their gradient, one spare
LOGITS = 3  # copies of full logits alive at once if a method builds them: as given, in float32, the gradient
PARTS = ("weights", "reference", "gradients", "optimizer", "activations", "head")


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device in one step, as its engine divides weights, gradients and optimiser states.

    Attributes:
        parameters: Number of all parameters.
        trained: Number of trained parameters.
        vocabulary: Number of rows of the input embedding.
        positions: The longest row that the model has learned positions for; None: its positions are computed.
        weights: The model, with autocast's copies; in shards, with what is gathered at once.
        reference: The frozen reference model of some methods.
        gradients: Gradients of the trained weights.
        optimizer: Optimiser states.
        activations: Tensors kept for the backward pass by the longest possible batch.
        head: Tiles of logits, or full logits if the method builds them.
    """

    parameters: int
    trained: int
    vocabulary: int
    positions: int | None
    weights: int
    reference: int
    gradients: int
    optimizer: int
    activations: int
    head: int

    @property
    def total(self) -> int:
        """The sum. The look-ahead pass runs before the others, keeps nothing, and needs less."""
        return sum(getattr(self, name) for name in PARTS)

    def summary(self) -> str:
        """The sum and its parts, in GiB or MiB."""
        unit, name = (2**30, "GiB") if self.total >= 2**30 else (2**20, "MiB")
        sizes = {part: getattr(self, part) for part in PARTS}
        shown = ", ".join(f"{part} {size / unit:.2f}" for part, size in sizes.items() if size)
        return f"about {self.total / unit:.1f} {name} ({shown})"


def estimate_memory(
    stage: Any, longest_row: int, device: torch.device | None = None, engine: Engine = ONE_DEVICE
) -> MemoryEstimate:
    """Estimate the memory of a step.

    Args:
        stage: An `ift.methods.stage.Stage`: its model's configuration is read, no weights.
        longest_row: Tokens of the longest row after cutting.
        device: Device of the run; None for this machine's.
        engine: What divides it.

    Raises:
        OSError, ValueError: The configuration cannot be read, or is not that of a causal language model.
    """
    config, model_args = stage.config, stage.model
    model = empty_model(stage)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    width = model.config.get_text_config().hidden_size
    element = _element_size(stage, model)
    compute = 2 if config.bf16 or config.fp16 else element
    every = sum(p.numel() for p in model.parameters())
    weights, computed = (_weight_bytes(model, model_args, size) for size in (element, compute))
    gathered = compute * gathered_parameters(block_sizes(model), every)
    casts = sum(p.numel() for p in model.parameters() if p.ndim > 1) * compute if compute < element else 0
    answers = 2 if stage.method.needs_pairs else 1
    rows = config.per_device_train_batch_size * answers
    tokens = config.max_length if getattr(config, "packing", False) and config.max_length else longest_row
    with _adapted(model, start_adapter(stage)) as adapted:
        trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
        adapters = 4 * trained if model_args.use_peft else 0
        kept = _kept_for_backward(adapted, rows, tokens, bool(config.gradient_checkpointing), compute)
    each = 4 if model_args.use_peft else element
    full_logits = stage.method.needs_pairs or stage.method.name == "dft"
    height, breadth = tile_shape(rows * tokens, device or _device())
    head = (
        LOGITS * rows * tokens * vocabulary * 4
        if full_logits
        else TILES * min(rows * tokens, height) * min(vocabulary, breadth) * 4
    )
    held = Held(
        weights=weights + adapters,
        computed=computed + (compute * trained if model_args.use_peft else 0),
        copies=casts,
        trained=trained,
        element=compute,
        gradients=trained * each,
        optimizer=round(trained * _state_bytes(str(getattr(config.optim, "value", config.optim)), each)),
        reference=weights if stage.method.needs_reference and not model_args.use_peft else 0,
        gathered=gathered,
    )
    return MemoryEstimate(
        parameters=every,
        trained=trained,
        vocabulary=vocabulary,
        positions=learned_positions(model),
        **divide(held, engine),
        activations=kept,
        head=head + 2 * rows * tokens * width * 4,
    )


def _device() -> torch.device:
    """The device of a run."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def available_memory() -> int:
    """Free bytes of the current accelerator, or of the machine."""
    if _device().type == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    import psutil

    return int(psutil.virtual_memory().available)


def empty_model(stage: Any) -> Any:
    """The model on the meta device."""
    from transformers import AutoModelForCausalLM

    name, options = stage.model.model_name_or_path, start_options(stage)
    read = load_config(name, options)
    if problem := explain_ids_outside(config_ids(read), read.get_text_config().vocab_size):
        raise DataError(f"{name}: {problem}")
    with torch.device("meta"), without_zero3_partitioning(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AutoModelForCausalLM.from_config(
            read,
            trust_remote_code=options.trust_remote_code,
            attn_implementation=options.further.get("attn_implementation"),
        )


def _element_size(stage: Any, model: Any) -> int:
    """Bytes of one weight as loaded."""
    name = stage.model.dtype
    dtype = getattr(torch, name, None) if name not in (None, "auto") else model.config.dtype
    return (dtype or torch.float32).itemsize


def _weight_bytes(model: Any, model_args: Any, element: int) -> int:
    """Bytes of all weights; quantised linear layers need half a byte or one byte per weight."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    saved = getattr(model.config, "quantization_config", None) or {}
    four, eight = (getattr(model_args, bits) or saved.get(bits) for bits in ("load_in_4bit", "load_in_8bit"))
    share = 0.5 if four else 1.0 if eight else None
    total = 0.0
    seen: set[int] = set()
    for module in model.modules():
        small = share is not None and isinstance(module, torch.nn.Linear) and module not in (head, embedding)
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                total += parameter.numel() * (share if small and name == "weight" and share else element)
    return round(total)


def _state_bytes(optimizer: str, each: int) -> float:
    """Bytes of optimiser state per trained weight; an unknown optimiser counts as AdamW."""
    if "8bit" in optimizer:
        return 2.0
    if "adafactor" in optimizer:
        return 0.1
    if optimizer.startswith("sgd"):
        return 0.0
    if optimizer in ("rmsprop", "adagrad") or "lion" in optimizer:
        return 1.0 * each
    return 2.0 * each


@contextlib.contextmanager
def _adapted(model: Any, peft_config: Any) -> Iterator[Any]:
    """The model, with its adapter if there is one, on the meta device."""
    if peft_config is None:
        yield model
        return
    from peft import get_peft_model

    with torch.device("meta"):
        yield get_peft_model(model, peft_config)


def _kept_for_backward(model: Any, rows: int, tokens: int, checkpointing: bool, element: int) -> int:
    """Bytes that the backbone keeps for its backward pass, counted by autograd's hooks on the meta device.

    With checkpointing: the inputs of the blocks, and twice one block, for its recomputed activations and its gradients
    (measured on CPU: tests/check/test_findings.py). Attention matrices count only for eager attention; other kernels do
    not keep them.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    inner.to(torch.bfloat16)  # required by experts; computations that a model forces to float32 stay so
    backbone, eager = inner.base_model, inner.config._attn_implementation == "eager"
    text = inner.config.get_text_config()
    head_width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    widths = (head_width, text.hidden_size, getattr(text, "intermediate_size", None))
    weights = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, tuple[Any, int]] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        square = tensor.ndim > 2 and tensor.shape[-2:] == (tokens, tokens) and tokens not in widths
        storage = tensor.untyped_storage()
        if storage._cdata not in weights and (eager or not square):
            size = storage.nbytes()
            if tensor.dtype == torch.bfloat16:
                size = size * element // 2
            kept[storage._cdata] = (storage, size)  # keeps the storage alive, or its address would be reused
        return tensor

    ids = torch.zeros(rows, tokens, dtype=torch.int64, device="meta")
    mask = torch.zeros(rows, 1, tokens, tokens, device="meta")
    positions = torch.arange(tokens, device="meta")[None].expand(rows, -1)
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        # transformers uses a 4D mask unchanged; it would inspect the values of a 2D mask, and "meta" has none
        output = backbone(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
    total = sum(size for _, size in kept.values())
    layers = text.num_hidden_layers
    width = output[0].shape[-1]
    block = total / layers
    whole = total + block
    return round(min(layers * rows * tokens * width * element + 2 * block, whole) if checkpointing else whole)

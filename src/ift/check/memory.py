"""Estimates the memory of a training step on a model without data, before weights are loaded."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch

from ift.check.engines import FULL, HALF, ONE_DEVICE, Engine, Held, block_sizes, gathered_parameters
from ift.check.fake_step import WITHOUT_MASK, Passes, passes_peak
from ift.check.flops import passes_flops
from ift.check.needs import MemoryEstimate, StepNeeds
from ift.data import DataError
from ift.methods.start import continues_adapter, start_adapter, start_options
from ift.models.adapters import MAGNITUDES, WHOLE_COPIES
from ift.models.deepspeed import without_zero3_partitioning
from ift.models.limits import config_ids, explain_ids_outside, learned_positions
from ift.models.loading import load_config
from ift.step.scored_log_probs import tile_shape

FULL_LOGITS = ("orpo", "simpo")  # methods whose trainers build the logits of all positions
DTYPES = {4: torch.float32, 2: torch.bfloat16, 8: torch.float64, 1: torch.bfloat16}  # by bytes
# copies of a state of all weights that torch's optimisers make in a step on a GPU (in their "foreach" form)
COPIES = {"adamw_torch": 1, "rmsprop": 1, "adagrad": 2}
# bytes a 4-bit weight for the scales of bitsandbytes' blocks of 64: in float32; in 8 bits, with scales of their own
CONSTANTS, NESTED = 4 / 64, 1 / 64 + 4 / (64 * 256)
RESERVE = 0.1  # of a device: the driver, the allocator's fragments, the communication's buffers


def estimate_memory(
    stage: Any,
    longest_row: int,
    device: torch.device | None = None,
    engine: Engine = ONE_DEVICE,
    longest_answer: int | None = None,
) -> MemoryEstimate:
    """Estimate the memory of a step.

    Args:
        stage: An `ift.methods.stage.Stage`: its model's configuration is read, no weights.
        longest_row: Tokens of the longest row after cutting.
        device: Device of the run; None for this machine's.
        engine: What divides it.
        longest_answer: Largest number of trained tokens of a row; None for all of its tokens.

    Raises:
        OSError, ValueError: The configuration cannot be read, or is not that of a causal language model.
    """
    whole = engine.name == "ddp"
    return step_needs(stage, longest_row, device, whole=whole, longest_answer=longest_answer).divided(engine)


def step_needs(
    stage: Any,
    longest_row: int,
    device: torch.device | None = None,
    *,
    whole: bool = True,
    longest_answer: int | None = None,
) -> StepNeeds:
    """What a step needs; `whole`: nothing is sharded, and autocast casts the weights. Else as `estimate_memory`."""
    config, model_args, device = stage.config, stage.model, device or current_device()
    rows, tokens, trained_tokens, masked = largest_batch(stage, longest_row, longest_answer or longest_row)
    model = empty_model(stage, attention := _attention(stage, masked))
    element = loaded_dtype(stage, model.config).itemsize
    compute = 2 if config.bf16 or config.fp16 else element
    passes = _passes(
        stage, (rows, tokens, trained_tokens, masked or attention == "eager"), device, whole, compute
    )
    every = sum(p.numel() for p in model.parameters())
    few_bits = _quantised_bytes(model, model_args) is not None
    positions, gathered = learned_positions(model), gathered_parameters(block_sizes(model), every)
    weights, computed = (_weight_bytes(model, model_args, size) for size in (element, compute))
    network = _as_trained(stage, model, element if whole else compute, compute)
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    optimizer = str(getattr(config.optim, "value", config.optim))
    in_full, loaded = _trained_in_full(network, model_args, few_bits), HALF if few_bits else element
    trained_bytes = FULL * in_full + loaded * (trained - in_full)
    full_state, loaded_state = (_state_bytes(optimizer, size) for size in (FULL, loaded))
    wider = _trained_embedding(network) * _wider_states(optimizer)
    held = Held(
        weights=weights + (trained_bytes if model_args.use_peft else 0),
        computed=computed + (compute * trained if model_args.use_peft else 0),
        trained=trained,
        element=compute,
        gradients=trained_bytes,
        optimizer=round(in_full * full_state + (trained - in_full) * loaded_state + wider),
        full_optimizer=round(trained * full_state + wider),
        upcast=FULL * trained - trained_bytes if config.bf16 or config.fp16 else 0,
        reference=_reference_bytes(stage, weights, trained_bytes),
        gathered=0 if few_bits else compute * gathered,
        unsharded=weights if few_bits else 0,
    )
    return StepNeeds(
        parameters=every,
        trained=trained,
        vocabulary=model.get_input_embeddings().weight.shape[0],
        positions=positions,
        held=held,
        copies=0 if device.type == "cpu" else COPIES.get(optimizer, 0),
        run=functools.partial(passes_peak, network, passes),
        flops=functools.partial(passes_flops, network, passes, passes.mixed + stage.method.needs_reference),
    )


def _passes(
    stage: Any, batch: tuple[int, int, int, bool], device: torch.device, whole: bool, compute: int
) -> Passes:
    """How a step runs; `batch` as of `largest_batch`, `compute` are the bytes of a number in the forward pass."""
    rows, tokens, trained, masked = batch
    return Passes(
        rows=rows,
        tokens=tokens,
        trained=trained,
        masked=masked,
        mixed=getattr(stage.config, "has_lambda", False),
        full_logits=stage.method.name in FULL_LOGITS,
        tile_width=tile_shape(trained, device)[1],
        autocast=whole and compute == 2,
        checkpointing=bool(stage.config.gradient_checkpointing),
        accumulates=stage.config.gradient_accumulation_steps > 1,
        keeps_gradients=whole,
    )


def current_device() -> torch.device:
    """The device of a run on this machine."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def available_memory(gpu_memory: float | None = None) -> int:
    """Bytes that a run can use: of a GPU of `gpu_memory` GiB, or free on this machine's device; less the reserve."""
    if gpu_memory is not None:
        free = gpu_memory * 2**30
    elif current_device().type == "cuda":
        free = torch.cuda.mem_get_info()[0]
    else:
        import psutil

        free = psutil.virtual_memory().available
    return round((1 - RESERVE) * free)


def empty_model(stage: Any, attention: str | None = None) -> Any:
    """The model on the meta device; `attention` is its implementation, None for that of the settings."""
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
            attn_implementation=attention or options.further.get("attn_implementation"),
        )


def _trained_in_full(network: Any, model_args: Any, few_bits: bool) -> int:
    """The number of trained parameters that are in float32 even if the model is loaded in fewer bits.

    These are LoRA's own matrices, but not its whole copies of modules, which have the dtype of the base. If the base is
    in 4 or 8 bits, they are DoRA's magnitudes alone, because trl makes all others bfloat16.
    """
    trained = {name: p.numel() for name, p in network.named_parameters() if p.requires_grad}
    if not model_args.use_peft:
        return 0
    if few_bits:
        return sum(count for name, count in trained.items() if MAGNITUDES in name)
    return sum(count for name, count in trained.items() if WHOLE_COPIES not in name)


def _as_trained(stage: Any, model: Any, element: int, compute: int) -> Any:
    """The model, changed to what is trained: in the dtypes of the run, and with its adapter if there is one."""
    quantised = _quantised_bytes(model, stage.model) is not None
    model.to(DTYPES[element])
    for module in _quantised(model) if quantised else ():  # dequantised for each product, and no copy is kept
        module.to(DTYPES[compute])
    adapter = start_adapter(stage)
    if adapter is None:
        return model
    from peft import get_peft_model

    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="(?s).*tie_word_embeddings"
        )  # `explain_saved_modules` says it
        network = get_peft_model(model, adapter)
    for name, parameter in network.named_parameters() if quantised else ():
        if parameter.requires_grad and MAGNITUDES not in name:
            parameter.data = parameter.data.to(torch.bfloat16)
    return network


def largest_batch(stage: Any, longest_row: int, longest_answer: int) -> tuple[int, int, int, bool]:
    """The largest batch: its rows, tokens per row, trained tokens in all, and whether attention gets a mask.

    It gets one for padding, and for several documents in a row.
    """
    config = stage.config
    rows = config.per_device_train_batch_size * (2 if stage.method.needs_pairs else 1)
    packed = bool(getattr(config, "packing", False)) and config.max_length
    tokens = config.max_length if packed else longest_row
    trained = rows * max(1, min(longest_answer, tokens - 1) if not packed else tokens - 1)
    if packed or getattr(config, "padding_free", False):  # the collator makes one row of the batch
        return 1, rows * tokens, trained, True
    return rows, tokens, trained, rows > 1


def _attention(stage: Any, masked: bool) -> str:
    """The attention that stands for the run's: `WITHOUT_MASK` for all that keep neither a mask nor a (T, T) matrix."""
    wanted = start_options(stage).further.get("attn_implementation")
    if wanted in (None, "sdpa"):
        wanted = empty_model(
            stage, wanted
        ).config._attn_implementation  # "eager" where a model has nothing else
        return wanted if masked or wanted != "sdpa" else WITHOUT_MASK
    return "eager" if wanted == "eager" else WITHOUT_MASK


def loaded_dtype(stage: Any, read: Any) -> torch.dtype:
    """The dtype of the weights as they are loaded; `read` is the model's configuration."""
    name = stage.model.dtype
    dtype = getattr(torch, name, None) if name not in (None, "auto") else read.dtype
    return dtype or torch.float32


def _reference_bytes(stage: Any, weights: int, adapter: int) -> int:
    """Bytes of the reference beside the model: a second model, a copy of the adapter, or the base without adapters."""
    if not stage.method.needs_reference:
        return 0
    if stage.model.use_peft:
        return adapter if continues_adapter(stage) else 0
    return weights


def _quantised(model: Any) -> list[torch.nn.Linear]:
    """The layers that a quantised model holds in few bits."""
    outside = (model.get_output_embeddings(), model.get_input_embeddings())
    return [one for one in model.modules() if isinstance(one, torch.nn.Linear) and one not in outside]


def _quantised_bytes(model: Any, model_args: Any) -> float | None:
    """Bytes of a weight of a layer in few bits, as asked for or as the folder was saved; None: nothing is quantised."""
    saved = getattr(model.config, "quantization_config", None) or {}
    four, eight = (getattr(model_args, bits) or saved.get(bits) for bits in ("load_in_4bit", "load_in_8bit"))
    nested = model_args.use_bnb_nested_quant or saved.get("bnb_4bit_use_double_quant")
    return 0.5 + (NESTED if nested else CONSTANTS) if four else 1.0 if eight else None


def _weight_bytes(model: Any, model_args: Any, element: int) -> int:
    """Bytes of all weights; see `_quantised_bytes` for quantised linear layers."""
    few = {one.weight for one in _quantised(model)}
    share = _quantised_bytes(model, model_args) or element
    return round(sum(p.numel() * (share if p in few else element) for p in model.parameters()))


def _trained_embedding(network: Any) -> int:
    """The number of trained parameters in embeddings; a matrix that the output shares counts once."""
    tables = {one.weight for one in network.modules() if isinstance(one, torch.nn.Embedding)}
    return sum(table.numel() for table in tables if table.requires_grad)


def _wider_states(optimizer: str) -> float:
    """Bytes per weight of an embedding by which an 8-bit optimiser's states are larger than for other weights.

    transformers has bitsandbytes keep the states of embeddings in 32 bits.
    """
    eight = "8bit" in optimizer and not optimizer.startswith(("adamw_torch", "galore"))
    return _states(optimizer) * (FULL - 1) if eight else 0.0


def _states(optimizer: str) -> float:
    """Numbers that an optimiser keeps per trained weight; an unknown one counts as AdamW."""
    if "adafactor" in optimizer or optimizer.startswith("sgd"):
        return 0.0
    if optimizer.startswith(("rmsprop", "adagrad")) or "lion" in optimizer:
        return 1.0
    return 3.0 if "ademamix" in optimizer else 2.0


def _state_bytes(optimizer: str, each: int) -> float:
    """Bytes of optimiser state per trained weight of `each` bytes."""
    if "adafactor" in optimizer:  # a row and a column of numbers for each matrix
        return 0.1
    in_32 = "32bit" in optimizer or optimizer in ("rmsprop_bnb", "ademamix")  # bitsandbytes
    return _states(optimizer) * (1 if "8bit" in optimizer else FULL if in_32 else each)

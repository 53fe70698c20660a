"""Which models IFT can train exactly: each check raises ValueError with the model's name, the reason and a remedy."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn

from ift.step.model import evaluating, head_of, unwrapped
from ift.step.scored_log_probs import scored_log_probs

# of weights whose numbers can be used as they are; quantised ones are packed into integers, or need scales
UNQUANTISED_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_architecture(model: nn.Module) -> None:
    """Raise ValueError for a model that IFT cannot train exactly, with its name and the reason."""
    inner = unwrapped(model)
    config = getattr(inner, "config", None)
    name = f"{type(inner).__name__} ({getattr(config, 'model_type', 'no config')})"
    text = config.get_text_config() if config is not None else None
    reasons = {
        "it is not a transformers language model": text is None
        or not hasattr(inner, "get_output_embeddings"),
        "it is an encoder-decoder: IFT needs a causal decoder that reads its own answer": bool(
            getattr(config, "is_encoder_decoder", False)
        ),
        "it has image or audio inputs, whose placeholders IFT's mixing would not keep": any(
            getattr(config, part, None) is not None for part in ("vision_config", "audio_config")
        ),
        "it adds per-layer embeddings keyed by token ids, which a mixed input embedding cannot carry": bool(
            getattr(text, "hidden_size_per_layer_input", 0) or getattr(text, "vocab_size_per_layer_input", 0)
        ),
    }
    for reason, found in reasons.items():
        if found:
            raise ValueError(
                f"{name} cannot be trained with IFT: {reason}. Choose a text-only causal language model."
            )
    if inner.get_output_embeddings() is None or inner.base_model is inner:
        raise ValueError(
            f"{name} cannot be trained with IFT: it has no separate backbone and language-model head."
        )
    check_placement(inner)
    _check_head_weight(name, inner.get_output_embeddings())
    if hasattr(inner.get_output_embeddings(), "lora_A"):
        raise ValueError(
            "An adapter on `lm_head` cannot be trained: log-probabilities are computed from its weight directly. "
            "Remove 'lm_head' from the target modules (or put it in `modules_to_save`)."
        )
    for adapter in getattr(extract_model_from_parallel(model), "peft_config", {}).values():
        if getattr(adapter, "is_prompt_learning", False):
            raise ValueError(
                f"{adapter.peft_type} adds virtual tokens that shift every position. Use LoRA or the like."
            )


def check_placement(model: nn.Module) -> None:
    """Raise ValueError if accelerate keeps weights on the CPU or on disk and lends them to each forward call.

    Their parameters are empty ("meta"): they get no gradient, and the head's weight cannot be read.
    """
    places = getattr(unwrapped(model), "hf_device_map", None) or {}
    offloads = {"disk"} if {"cpu", "disk"}.issuperset(map(str, places.values())) else {"cpu", "disk"}
    away = [name for name, place in places.items() if str(place) in offloads]
    if away and any(parameter.is_meta for parameter in model.parameters()):
        shown = ", ".join(away[:3]) + (f" and {len(away) - 3} more" if len(away) > 3 else "")
        raise ValueError(
            f"device_map puts parts of the model on the CPU or on disk ({shown}), and offloaded weights cannot be "
            "trained. Use a device_map whose devices hold all weights, a smaller model or dtype, load_in_4bit with "
            "use_peft, or FSDP2 over several GPUs."
        )


def _check_head_weight(name: str, head: nn.Module) -> None:
    """Raise ValueError for a quantised head, whose weight is packed and cannot be read as a matrix."""
    weight = getattr(head, "weight", None)
    packed = (
        weight is None or weight.dtype not in UNQUANTISED_DTYPES or "bitsandbytes" in type(head).__module__
    )
    if packed:
        raise ValueError(
            f"{name} cannot be trained with IFT: its language-model head is quantised ({type(head).__name__}), and "
            "log-probabilities are computed from its weight directly. Leave the head out of the quantisation "
            "(llm_int8_skip_modules of BitsAndBytesConfig), as load_in_4bit and load_in_8bit do."
        )


@torch.no_grad()
def check_causal(model: nn.Module) -> None:
    """Raise ValueError if the states of five tokens depend on the sixth: the model would copy the targets it sees."""
    inner = unwrapped(model)
    ids = _probe_ids(inner, 6)
    other = ids.clone()
    other[0, -1] = ids[0, 0]
    with evaluating(inner):
        states, changed = (
            inner.base_model(input_ids=one, use_cache=False)[0][0, :-1] for one in (ids, other)
        )
    scale = states.abs().max().clamp(min=1e-6)
    if not torch.allclose(states / scale, changed / scale, rtol=0, atol=1e-2, equal_nan=True):
        raise ValueError(
            f"{type(inner).__name__} cannot be trained with IFT: a token's state depends on the tokens after it, so "
            "it would be trained to copy what it sees. Choose a causal language model."
        )


@torch.no_grad()
def check_head(model: nn.Module) -> None:
    """Raise ValueError if the model transforms its logits in a way that `Head` does not know.

    Compares the log-probabilities of five tokens with those from the model's own logits.
    """
    inner = unwrapped(model)
    ids = _probe_ids(inner, 6)
    with evaluating(inner):
        own = inner(input_ids=ids, use_cache=False).logits[0, :-1].float().log_softmax(-1)
        states = inner.base_model(input_ids=ids, use_cache=False)[0][0, :-1]
    head = head_of(inner)
    ours = scored_log_probs(states.to(head.weight.device), head, ids[0, 1:].to(head.weight.device))[0]
    own = own.gather(1, ids[0, 1:, None].to(own.device))[:, 0].to(ours.device)
    if not torch.allclose(own, ours, rtol=2e-2, atol=2e-2, equal_nan=True):
        raise ValueError(
            f"{type(inner).__name__} transforms its logits in a way IFT does not know: log-probabilities "
            f"{own.tolist()} became {ours.tolist()}. Please report this model."
        )


@torch.no_grad()
def check_packing(model: nn.Module) -> None:
    """Raise ValueError if two documents packed into one row attend to each other (seen on OPT and Falcon).

    Checks on the backbone that the second document's hidden states do not depend on the first one's tokens, and that
    they equal those of the second document alone.
    """
    inner = unwrapped(model)
    ids = _probe_ids(inner, 10)
    other = ids.clone()
    other[0, :5] = ids[0, 5:]
    positions = torch.arange(5, device=ids.device).repeat(2)[None]

    def second(tokens: Tensor) -> Tensor:
        return inner.base_model(input_ids=tokens, position_ids=positions, use_cache=False)[0][0, 5:].float()

    with evaluating(inner):
        packed, disturbed = second(ids), second(other)
        alone = inner.base_model(input_ids=ids[:, 5:], use_cache=False)[0][0].float()
    scale = alone.abs().max().clamp(min=1e-6)
    if (packed - disturbed).abs().max() > 1e-3 * scale or (packed - alone).abs().max() > 2e-2 * scale:
        raise ValueError(
            f"{type(inner).__name__} lets packed documents attend to each other (attention "
            f"{inner.config._attn_implementation!r}). Set packing=False and padding_free=False"
            ", or another attn_implementation."
        )


def _probe_ids(model: Any, n: int) -> Tensor:
    """(1, n) int64 spread over the vocabulary, on the model's device."""
    embedding = model.get_input_embeddings()
    size = model.config.get_text_config().vocab_size
    return ((torch.arange(n) * 7919 + 11) % size)[None].to(embedding.weight.device)

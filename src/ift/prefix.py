"""Rows whose prefix is computed once for both passes of an IFT step.

Up to a row's first trained token the look-ahead and the mixed pass see the same embeddings. So the prefix is run once,
with gradient; its keys and values serve the look-ahead of what follows (detached) and the mixed pass (connected). Loss
and gradient are those of `residual.FullRows`; where that cannot be had, `shared_prefix` gives None and says why, once.

Rows are moved to the right edge of the batch and all cut at one column, the first that any row trains: the batch gets
no wider than it was.

Shape legend: B rows, T positions, P of the prefix, C = T - P that follow it, H width, N trained positions.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor

from ift.functional import RowLayout
from ift.lookahead import LookAhead
from ift.mixing import mixed_embeddings
from ift.prefix_cache import checkpointing_keeps_caches, prefix_reader, prefix_writer, taken_from

logger = logging.getLogger(__name__)
_said: set[str] = set()

# model_type of every architecture whose shared step is tested to be the plain one, in every parameter's gradient
SHARING = frozenset((
    "bloom", "cohere", "cohere2", "deepseek_v3", "ernie4_5", "exaone4", "falcon", "gemma", "gemma2", "gemma3_text",
    "glm", "glm4", "gpt2", "gpt_neox", "gpt_oss", "gptj", "granite", "granitemoe", "hunyuan_v1_dense", "llama",
    "ministral", "mistral", "mixtral", "nemotron", "olmo", "olmo2", "olmo3", "olmoe", "opt", "phi", "phi3",
    "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3", "stablelm", "starcoder2",
))  # fmt: skip
ATTENTION = ("sdpa", "eager")  # others lay out their masks differently, and were not tested
SHORTEST = 1 / 32  # of a row: below it, less than a hundredth of the step is saved


class SharedPrefix:
    """The passes of one step over rows that share their prefix; making it runs the prefix, with gradient.

    Args:
        model: the causal language model, unwrapped.
        inputs: of the backbone: `input_ids` (B, T), `attention_mask` (B, T) or None, `position_ids` (B, T), and options
            that are no tensors.
        trained: (B, T) bool.
        cut: P >= 1, no position before it is trained.
        router_logits: whether the mixed pass must give the experts' router logits.
    """

    shared = True

    def __init__(
        self, model: Any, inputs: dict[str, Any], trained: Tensor, cut: int, router_logits: bool
    ) -> None:
        self.model, self.inputs, self.trained, self.cut = model, inputs, trained[:, cut:], cut
        self.asked = {"output_router_logits": True} if router_logits else {}
        self.attention_mask = inputs["attention_mask"]
        writer = prefix_writer()
        with checkpointing_keeps_caches(model):
            output = self._run(0, cut, writer, self.asked)
        self.last_state = output[0][:, -1:]  # (B, 1, H) predicts the first position that any row trains
        self.prefix = taken_from(writer)
        self.router_logits: Any = output.router_logits if router_logits else None

    def look_ahead_states(self) -> Tensor:
        """(N, H) states under the target's own prefix. To be called without gradient and in evaluation mode."""
        length = self.inputs["input_ids"].shape[1]
        end = max(length - 1, self.cut + 1)  # the last position predicts nothing
        hidden = self._run(self.cut, end, prefix_reader(self.prefix), {})[0]
        return self._predicting(hidden[:, : length - 1 - self.cut])

    def mixed_states(self, guess: LookAhead | None, residual_lambda: float) -> tuple[Tensor, Any]:
        """(N, H) states under the mixed input, with gradient, and the router logits of all tokens if asked for."""
        length = self.inputs["input_ids"].shape[1]
        with (
            mixed_embeddings(self.model, self.trained, guess, residual_lambda),
            checkpointing_keeps_caches(self.model),
        ):
            output = self._run(self.cut, length, prefix_reader(self.prefix), self.asked)
        states = self._predicting(output[0][:, :-1])
        return states, self._joined(output.router_logits) if self.asked else None

    def _run(self, start: int, end: int, cache: Any, asked: dict[str, Any]) -> Any:
        """The backbone over columns [start, end), which see everything before `end`."""
        inputs = {**self.inputs, **asked, "past_key_values": cache, "use_cache": False}
        for name in ("input_ids", "position_ids"):
            inputs[name] = inputs[name][:, start:end]
        if self.attention_mask is not None:
            inputs["attention_mask"] = self.attention_mask[:, :end]
        return self.model.base_model(**inputs)

    def _predicting(self, hidden: Tensor) -> Tensor:
        """The states (N, H) that predict the trained positions, from those (B, C - 1, H) after the prefix."""
        return torch.cat([self.last_state.to(hidden.device), hidden], 1)[self.trained.to(hidden.device)]

    def _joined(self, router_logits: Any) -> Any:
        """Router logits of every layer, (B T, E), from those of the prefix and of the rest."""
        rows = len(self.trained)
        return tuple(
            torch.cat([a.view(rows, -1, a.shape[-1]), b.view(rows, -1, b.shape[-1])], 1).flatten(0, 1)
            for a, b in zip(self.router_logits, router_logits, strict=True)
        )


def shared_prefix(
    model: Any, inputs: dict[str, Any], layout: RowLayout, router_logits: bool
) -> SharedPrefix | None:
    """The step's passes with a shared prefix, or None where they would not be exact or not cheaper; the log says why.

    Where weights are sharded all processes decide alike: every pass of theirs is a gathering in step.

    Args:
        model: the causal language model, unwrapped.
        inputs: of the backbone: `input_ids` (B, T), `attention_mask` or None, `position_ids` if the batch has them.
        layout: of the batch.
        router_logits: whether the mixed pass must give the experts' router logits.
    """
    reason = cannot_share(model, inputs)
    if reason is not None:
        _say_once(logging.WARNING, f"The look-ahead runs over whole rows, prompts included: {reason}.")
        return None
    length = layout.trained.shape[1]
    padding = _padding_behind(layout)  # (B,)
    first = torch.where(layout.trained.any(1), layout.trained.int().argmax(1) + padding, length)
    facts = [first.min(), padding.max(), layout.documents.max() + 1, _holes(layout)]
    cut, moved, documents, holes = torch.stack(facts).tolist()
    if documents > len(layout.trained):
        reason = "rows of several documents (packing, padding_free) have no common prefix"
    elif holes:
        reason = "the attention mask has holes"
    if reason is not None:
        _say_once(logging.WARNING, f"The look-ahead runs over whole rows, prompts included: {reason}.")
    if not _everywhere(model, reason is None and SHORTEST * length <= cut < length, padding.device):
        return None
    _say_once(logging.INFO, "The look-ahead shares the prefix of its rows with the mixed pass.")
    positions = inputs.get("position_ids")
    aligned = {
        "input_ids": inputs["input_ids"],
        "attention_mask": inputs["attention_mask"],
        "position_ids": layout.positions if positions is None else positions.expand_as(layout.positions),
        "trained": layout.trained,
    }
    if moved:
        where = (torch.arange(length, device=padding.device) - padding[:, None]) % length  # (B, T)
        aligned = {name: None if x is None else x.gather(1, where) for name, x in aligned.items()}
    trained = aligned.pop("trained")
    return SharedPrefix(model, {**inputs, **aligned}, trained, cut, router_logits)


def cannot_share(model: nn.Module, inputs: dict[str, Any]) -> str | None:
    """Why no batch of this model can share its prefix, with a way out; None if it can."""
    config: Any = model.config
    text = config.get_text_config()
    if text.model_type not in SHARING:
        return f"sharing a prefix is not tested for {type(model).__name__} ({text.model_type})"
    if text._attn_implementation not in ATTENTION:
        return f"attn_implementation={text._attn_implementation!r} (choose one of {', '.join(ATTENTION)})"
    rope = getattr(text, "rope_parameters", None) or {}
    kinds = {str(part.get("rope_type")) for part in (rope, *rope.values()) if isinstance(part, dict)}
    if kinds & {"dynamic", "longrope"}:
        kind = ", ".join(sorted(kinds & {"dynamic", "longrope"}))
        return f"{type(model).__name__}'s rotary frequencies depend on the length ({kind}) that a call sees"
    tensors = {name for name, value in inputs.items() if isinstance(value, Tensor)}
    others = tensors - {"input_ids", "attention_mask", "position_ids"}
    if others:
        return f"the batch has {', '.join(sorted(others))}"
    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        return "ZeRO-3 partitions the weights (FSDP2 can share)"
    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        return "FSDP1 shards the weights (FSDP2 can share)"
    for name, module in model.named_modules():
        if not module.training:
            continue
        noisy = _noise_of(module)
        if noisy is not None:
            return f"{noisy} of {name or type(model).__name__} is on, which the look-ahead must not have (set it to 0)"
        function = getattr(module, "_gradient_checkpointing_func", None)
        if getattr(module, "gradient_checkpointing", False) and getattr(function, "keywords", {}).get(
            "use_reentrant", True
        ):
            return (
                "checkpointing is reentrant (set gradient_checkpointing_kwargs to {'use_reentrant': False})"
            )
    return None


def _noise_of(module: nn.Module) -> str | None:
    """The attribute that makes the module random while it trains: dropout in all its names, router jitter."""
    for name, value in vars(module).items():
        if not isinstance(value, float) or value <= 0:
            continue
        if "drop" in name or "jitter" in name:
            return name
        if name == "p" and "Drop" in type(module).__name__:
            return "dropout"
    return None


def _padding_behind(layout: RowLayout) -> Tensor:
    """(B,) int64, padding tokens behind each row's last token; 0 for a row of padding alone."""
    behind = layout.attended.flip(1).int().argmax(1)
    return torch.where(layout.attended.any(1), behind, 0)


def _holes(layout: RowLayout) -> Tensor:
    """Scalar int64, 1 if some row has padding between its tokens."""
    before = layout.attended.int().argmax(1)
    width = layout.attended.shape[1] - before - _padding_behind(layout)
    return ((layout.attended.sum(1) != width) & layout.attended.any(1)).any().long()


def _everywhere(model: nn.Module, agreed: bool, device: torch.device) -> bool:
    """Whether all processes that hold a piece of the weights agree; others need not."""
    if not any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return agreed
    vote = torch.tensor(int(agreed), device=device)
    torch.distributed.all_reduce(vote, torch.distributed.ReduceOp.MIN)
    return bool(vote)


@torch.compiler.disable
def _say_once(level: int, message: str) -> None:
    if message not in _said:
        _said.add(message)
        logger.log(level, message)

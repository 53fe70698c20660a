"""Rows whose prefix is computed once for both passes of an IFT step.

Up to a row's first trained token, the look-ahead pass and the mixed pass have the same input. This prefix is therefore
computed once, with gradient. Both passes then run only over the tokens that follow, and attend to the prefix's keys and
values; in the mixed pass gradient flows to them. Loss and gradient equal those of `algorithm.FullRows`. If the model or
the batch does not allow this, `shared_prefix` returns None and logs the reason once.

Every document becomes a row that ends at the right edge of the batch. All rows are split at the first column that any
row trains. A padded batch gets no wider. `FullRows` is used where a packed one would get so wide that it costs more.

Shape legend: B rows, T positions, P of the prefix, C = T - P after it, H width, N trained positions; from
`_right_aligned` on, B and T are those of the documents.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor
from transformers.cache_utils import Cache

from ift.step.lookahead import LookAhead
from ift.step.mixed_input import RowEmbeddings, mixed_embeddings
from ift.step.rows import RowLayout, true_positions
from ift.step.shared_prefix.cache import (
    cache_argument,
    checkpointing_keeps_caches,
    pop_keys_and_values,
    prefix_reader,
    prefix_writer,
)
from ift.step.shared_prefix.work import saves_time

logger = logging.getLogger(__name__)
_logged: set[str] = set()

# model_type of every architecture for which a test compares the shared step with `FullRows`, gradients included
SHARING = frozenset((
    "bloom", "cohere", "cohere2", "deepseek_v3", "ernie4_5", "exaone4", "falcon", "gemma", "gemma2", "gemma3_text",
    "glm", "glm4", "gpt2", "gpt_neox", "gpt_oss", "gptj", "granite", "granitemoe", "hunyuan_v1_dense", "llama",
    "ministral", "mistral", "mixtral", "nemotron", "olmo", "olmo2", "olmo3", "olmoe", "opt", "phi", "phi3",
    "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "smollm3", "stablelm", "starcoder2",
))  # fmt: skip
ATTENTION = ("sdpa", "eager")  # other implementations use other mask layouts, and were not tested
# document boundaries that trl's collator adds to packed rows, for attention kernels without a mask
BORDERS = frozenset(("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx"))


class SharedPrefix:
    """The passes of one step over rows that share their prefix. The constructor runs the prefix, with gradient.

    Args:
        model: the causal language model, unwrapped.
        inputs: of the backbone: `input_ids` (B, T), `attention_mask` (B, T) or None, `position_ids` (B, T), and options
            that are not tensors.
        trained: (N,) int64, the trained positions, indices into the flattened rows (B, C) that follow the prefix.
        cut: P >= 1, the length of the prefix; no position in it is trained.
        router_logits: whether the mixed pass returns the router logits of a mixture of experts.
        one_guess: whether every trained position has one candidate, so that the guesses can be embedded in the
            prefix's call (`RowEmbeddings`).
    """

    shared = True

    def __init__(
        self,
        model: Any,
        inputs: dict[str, Any],
        trained: Tensor,
        cut: int,
        router_logits: bool,
        one_guess: bool,
    ) -> None:
        self.model, self.inputs, self.trained, self.cut = model, inputs, trained, cut
        self.extra = {"output_router_logits": True} if router_logits else {}
        self.attention_mask = inputs["attention_mask"]
        module = model.get_input_embeddings()
        self.embedded = RowEmbeddings(module, inputs["input_ids"], cut, len(trained))
        all_rows = self.embedded.prefix_call() if one_guess else nullcontext()
        writer = prefix_writer()
        with checkpointing_keeps_caches(model), all_rows:
            output = self._run(0, cut, writer, self.extra)
        self.last_state = output[0][:, -1:]  # (B, 1, H) predicts the first position that any row trains
        self.prefix = pop_keys_and_values(writer)
        self.router_logits: Any = output.router_logits if router_logits else None

    def look_ahead_states(self) -> Tensor:
        """(N, H) hidden states, given the target's prefix. Call it without gradient and in evaluation mode."""
        length = self.inputs["input_ids"].shape[1]
        end = max(length - 1, self.cut + 1)  # the last position predicts nothing
        hidden = self._run(self.cut, end, prefix_reader(self.prefix), {})[0]
        return self._predicting(hidden[:, : length - 1 - self.cut])

    def mixed_states(self, guess: LookAhead | None, residual_lambda: float) -> tuple[Tensor, Any]:
        """(N, H) hidden states, given the mixed input, with gradient; and all tokens' router logits if requested."""
        rows, length = self.inputs["input_ids"].shape
        shape = torch.Size((rows, length - self.cut))
        with (
            mixed_embeddings(self.model, shape, self.trained, guess, residual_lambda, self.embedded),
            checkpointing_keeps_caches(self.model),
        ):
            output = self._run(self.cut, length, prefix_reader(self.prefix), self.extra)
        states = self._predicting(output[0][:, :-1])
        return states, self._joined(output.router_logits) if self.extra else None

    def _run(self, start: int, end: int, cache: Cache, extra: dict[str, Any]) -> Any:
        """The backbone over columns [start, end), which see everything before `end`."""
        inputs = {**self.inputs, **extra, cache_argument(self.model.base_model): cache, "use_cache": False}
        for name in ("input_ids", "position_ids"):
            inputs[name] = inputs[name][:, start:end]
        if self.attention_mask is not None:
            inputs["attention_mask"] = self.attention_mask[:, :end]
        return self.model.base_model(**inputs)

    def _predicting(self, hidden: Tensor) -> Tensor:
        """The hidden states (N, H) that predict the trained positions, from those (B, C - 1, H) after the prefix."""
        states = torch.cat([self.last_state.to(hidden.device), hidden], 1).flatten(0, 1)
        return states.index_select(0, self.trained.to(hidden.device))

    def _joined(self, router_logits: Any) -> Any:
        """Router logits of every layer, (B T, E), from those of the prefix and of the rest."""
        rows = len(self.inputs["input_ids"])
        return tuple(
            torch.cat([a.view(rows, -1, a.shape[-1]), b.view(rows, -1, b.shape[-1])], 1).flatten(0, 1)
            for a, b in zip(self.router_logits, router_logits, strict=True)
        )


def shared_prefix(
    model: Any,
    inputs: dict[str, Any],
    layout: RowLayout,
    router_logits: bool,
    one_guess: bool = True,
    least_work: float = 0.0,
) -> SharedPrefix | None:
    """The step's passes with a shared prefix; None, with the reason in the log, if that is not exact or not cheaper.

    If weights are sharded, all processes take the same decision, since every pass gathers weights collectively.

    Args:
        model: the causal language model, unwrapped.
        inputs: of the backbone: `input_ids` (B, T), `attention_mask` or None, `position_ids` if the batch has them.
        layout: of the batch.
        router_logits: whether the mixed pass returns the router logits of a mixture of experts.
        one_guess: whether the look-ahead has one candidate per trained position.
        least_work: tokens of the batch times parameters of a layer, below which whole rows are faster (`LEAST_WORK`).
    """
    reason = cannot_share(model, inputs)
    if reason is not None:
        _log_once(logging.WARNING, f"The look-ahead runs over whole rows, prompts included: {reason}.")
        return None
    lengths, answers = _lengths(layout)
    counts = [layout.documents.max() + 1, lengths.max(), answers.max(), layout.attended.sum()]
    counts.append(_inner_padding(layout))
    rows, width, answer, tokens, inner_padding = torch.stack(counts).tolist()  # one GPU synchronisation
    cheaper = saves_time(model, layout.trained.numel(), (rows, width, answer), least_work)
    if inner_padding:
        _log_once(
            logging.WARNING,
            "The look-ahead runs over whole rows: the attention mask has padding between tokens.",
        )
    elif not cheaper and answer:
        _log_once(
            logging.INFO,
            "A batch runs over whole rows: it is too small, or its common prefix too short, for sharing to pay.",
        )
    if not _all_processes_agree(model, cheaper and answer > 0 and not inner_padding, lengths.device):
        return None
    _log_once(logging.INFO, "The look-ahead shares the prefix of its rows with the mixed pass.")
    positions = inputs.get("position_ids")
    positions = layout.positions if positions is None else positions.expand_as(layout.positions)
    source, attended = _right_aligned(layout, lengths, tokens, (rows, width))
    aligned = {
        "input_ids": inputs["input_ids"].flatten()[source],
        "attention_mask": None if rows * width == tokens else attended.long(),
        "position_ids": positions.flatten()[source] * attended,
    }
    cut = width - answer
    trained = (layout.trained.flatten()[source] & attended)[:, cut:]
    return SharedPrefix(
        model,
        {name: value for name, value in inputs.items() if name not in BORDERS} | aligned,
        true_positions(trained, layout.facts[0]),
        cut=cut,
        router_logits=router_logits,
        one_guess=one_guess,
    )


def _lengths(layout: RowLayout) -> tuple[Tensor, Tensor]:
    """Tokens of each document, and those from its first trained one on: (B T,) int64, 0 where there is no document."""
    documents, positions = layout.documents.flatten(), layout.positions.flatten()
    lengths = torch.zeros_like(documents).index_add(0, documents, layout.attended.flatten().long())
    none = torch.full_like(positions, len(positions))  # beyond every position
    first = torch.where(layout.trained.flatten(), positions, none)
    first = none.scatter_reduce(0, documents, first, "amin")
    return lengths, (lengths - first).clamp(min=0)


def _right_aligned(
    layout: RowLayout, lengths: Tensor, tokens: int, shape: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Every document as a row that ends at the right edge: the source of each entry in the batch, and what is a token.

    Args:
        layout: of the batch.
        lengths: (B T,) tokens of each document.
        tokens: of all documents.
        shape: documents D, and W, the longest document's tokens.

    Returns:
        (D, W) int64, indices into the flattened batch, 0 on padding; (D, W) bool, False on padding.
    """
    flat = true_positions(layout.attended, tokens)
    documents = layout.documents.flatten()[flat]
    columns = shape[1] - lengths[documents] + layout.positions.flatten()[flat]
    source = torch.zeros(shape, dtype=torch.int64, device=flat.device)
    attended = torch.zeros_like(source, dtype=torch.bool)
    source[documents, columns], attended[documents, columns] = flat, True
    return source, attended


def cannot_share(model: nn.Module, inputs: dict[str, Any]) -> str | None:
    """Why no batch of this model can share its prefix, with a remedy if there is one; None if it can."""
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
    others = tensors - {"input_ids", "attention_mask", "position_ids"} - BORDERS
    if others:
        return f"the batch has {', '.join(sorted(others))}"
    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        return "ZeRO-3 partitions the weights (FSDP2 can share)"
    if any(isinstance(module, FullyShardedDataParallel) for module in model.modules()):
        return "FSDP1 shards the weights (FSDP2 can share)"
    for name, module in model.named_modules():
        if getattr(module, "_compiled_call_impl", None) is not None:
            return f"{name} is compiled: a cache would take a graph for every layer (leave torch_compile out)"
        if not module.training:
            continue
        if (noisy := _noise_of(module)) is not None:
            flag = " (--lora_dropout)" if ".lora_dropout." in name else ""
            place = f"{noisy} of {name or type(model).__name__}"
            return f"{place} is on{flag}: correct, but a step without it is cheaper"
        function = getattr(module, "_gradient_checkpointing_func", None)
        reentrant = getattr(function, "keywords", {}).get("use_reentrant", True)
        if getattr(module, "gradient_checkpointing", False) and reentrant:
            return (
                "checkpointing is reentrant (set gradient_checkpointing_kwargs to {'use_reentrant': False})"
            )
    return None


def _noise_of(module: nn.Module) -> str | None:
    """The attribute that makes the module random in training mode (dropout under any name, router jitter), if any."""
    for name, value in vars(module).items():
        if not isinstance(value, float) or value <= 0:
            continue
        if "drop" in name or "jitter" in name:
            return name
        if name == "p" and "Drop" in type(module).__name__:
            return "dropout"
    return None


def _inner_padding(layout: RowLayout) -> Tensor:
    """Scalar int64: 1 if some row has padding between its tokens, else 0."""
    before, after = (mask.int().argmax(1) for mask in (layout.attended, layout.attended.flip(1)))
    width = layout.attended.shape[1] - before - after
    return ((layout.attended.sum(1) != width) & layout.attended.any(1)).any().long()


def _all_processes_agree(model: nn.Module, agreed: bool, device: torch.device) -> bool:
    """Whether all processes agree, if the weights are sharded; each decides for itself if they are not."""
    if not any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return agreed
    vote = torch.tensor(int(agreed), device=device)
    torch.distributed.all_reduce(vote, torch.distributed.ReduceOp.MIN)
    return bool(vote)


def _log_once(level: int, message: str) -> None:
    if message not in _logged:
        _logged.add(message)
        logger.log(level, message)

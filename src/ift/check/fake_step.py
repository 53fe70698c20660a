"""Counts the bytes that the forward and backward pass of a step hold, by running them on tensors without data.

torch's fake tensors behave as tensors of a CPU and have no data, so that autograd, autocast, checkpointing and the
attention kernels allocate, cast and free the same tensors as in a run, for a model of any size. `LiveBytes` adds up the
bytes of all storages that are alive.

Of a deep model whose blocks are alike, only two and three blocks are run, and the rest is extrapolated: each phase of a
step holds a fixed amount and an equal one for each further block. Of the head's tiles, which are alike too, only the
first two and the last of each direction are run.

Shape legend: B rows, T positions, N trained positions.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ift.check.engines import blocks_of
from ift.step.lookahead import LookAhead
from ift.step.mixed_input import mixed_embeddings
from ift.step.model import unwrapped, with_head
from ift.step.scored_log_probs import every_tile, scored_log_probs

WITHOUT_MASK = "ift_without_mask"  # an attention that, as a flash kernel, keeps no (T, T) matrix and no mask
SHALLOW = (2, 3)  # blocks that are run in place of all


def _attention_without_mask(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    return sdpa_attention_forward(module, query, key, value, None, **kwargs)


AttentionInterface.register(WITHOUT_MASK, _attention_without_mask)


@dataclass(frozen=True)
class Passes:
    """How the passes of a step run.

    Attributes:
        rows: B.
        tokens: T.
        trained: N.
        masked: Whether attention gets a mask.
        mixed: Whether the input is mixed with a guess (IFT).
        full_logits: Whether the method builds the logits of all positions.
        tile_width: Vocabulary entries of the largest tile of the head.
        autocast: Whether products are computed in bfloat16 from other weights.
        checkpointing: Whether the activations of blocks are computed again in the backward pass.
        accumulates: Whether gradients of an earlier micro-batch are there.
        keeps_gradients: Whether gradients stay on the device; an engine that shards them counts its share.
    """

    rows: int
    tokens: int
    trained: int
    masked: bool
    mixed: bool
    full_logits: bool
    tile_width: int
    autocast: bool
    checkpointing: bool
    accumulates: bool
    keeps_gradients: bool


@dataclass(frozen=True)
class Peak:
    """The peak memory of the passes without the weights, in bytes.

    Attributes:
        gradients: Of the weights.
        activations: Everything else: activations, logits, casts of weights, temporary tensors.
    """

    gradients: int = 0
    activations: int = 0

    @property
    def total(self) -> int:
        """The sum."""
        return self.gradients + self.activations


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the storages that are allocated while it is active, until they are freed.

    `peaks` has the peak of each phase; the caller sets `phase`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.gradients = self.phase = 0
        self.peaks: dict[int, Peak] = {}
        self._sizes: dict[int, int] = {}  # of the storages alive, by address

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        dtype = args[0].dtype if func is torch.ops.aten._grouped_mm.default else None
        if dtype not in (None, torch.bfloat16):  # experts; this product's fake kernel knows only bfloat16
            result = func(args[0].bfloat16(), args[1].bfloat16(), *args[2:], **(kwargs or {})).to(dtype)
        else:
            result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return result

    def leave_out(self, tensor: Tensor) -> int:
        """From now on the tensor's storage counts nothing here; returns its bytes."""
        storage = tensor.untyped_storage()
        known = storage._cdata in self._sizes
        self.live -= self._sizes.get(storage._cdata, 0)
        self._sizes[storage._cdata] = 0
        if not known:
            weakref.finalize(storage, self._remove, storage._cdata)
        return int(storage.nbytes())

    def _add(self, storage: Any) -> None:
        if storage._cdata in self._sizes:
            return
        self._sizes[storage._cdata] = storage.nbytes()
        self.live += storage.nbytes()
        weakref.finalize(storage, self._remove, storage._cdata)
        if self.live + self.gradients > self.peaks.get(self.phase, Peak()).total:
            self.peaks[self.phase] = Peak(self.gradients, self.live)

    def _remove(self, address: int) -> None:
        self.live -= self._sizes.pop(address)


def passes_peak(model: nn.Module, passes: Passes) -> Peak:
    """The peak memory of the passes of one micro-batch.

    Args:
        model: On the "meta" device, as it is trained: in the dtypes of the run, with its adapter. It stays as it is.
        passes: How they run.
    """
    if depth := repeated_blocks(model):
        with suppress(_NotSeparable):
            two, three = (_run(shallow_copy(model, blocks), passes, blocks) for blocks in SHALLOW)
            return max(
                (_deeper(two[phase], three[phase], depth) for phase in two), key=lambda peak: peak.total
            )
    return max(_run(copy.deepcopy(model), passes, None).values(), key=lambda peak: peak.total)


def repeated_blocks(model: nn.Module) -> int:
    """Number of blocks of a model whose blocks are alike and too many to run all of them; 0 for others."""
    blocks = blocks_of(model)
    alike = len({sum(p.numel() for p in block.parameters()) for block in blocks}) == 1
    return len(blocks) if alike and len(blocks) > SHALLOW[1] + 1 else 0


def shallow_copy(model: nn.Module, depth: int) -> nn.Module:
    """A copy of the model with its first `depth` blocks."""
    blocks = blocks_of(model)
    rest = list(blocks[depth:])
    del blocks[depth:]
    shallow = copy.deepcopy(model)
    blocks.extend(rest)
    return shallow


class _NotSeparable(Exception):
    """The blocks have no trained weights, so their gradients do not mark the phases of a step."""


def _deeper(two: Peak, three: Peak, depth: int) -> Peak:
    """A phase's peak for `depth` blocks, from those for two and three blocks."""

    def line(first: int, second: int) -> int:
        return second + (second - first) * (depth - SHALLOW[1])

    return Peak(line(two.gradients, three.gradients), line(two.activations, three.activations))


def _run(model: Any, passes: Passes, depth: int | None) -> dict[int, Peak]:
    """The peaks of the phases of a step of the model, which has `depth` of its blocks; None: all, without phases.

    Phases: 0 until the last block begins, 1 until it has its gradients, 3 from when all but the first block have them.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), LiveBytes() as count:
        network = materialised(model, passes.checkpointing)
        held = [model.parameters(), model.buffers()]
        for tensor in [one for part in held for one in part]:
            count.leave_out(tensor)
        trained = [p for p in model.parameters() if p.requires_grad]
        for parameter in trained if passes.accumulates and passes.keeps_gradients else ():
            parameter.grad = torch.empty_like(parameter)
            count.gradients += count.leave_out(parameter.grad)
        _follow_gradients(count, trained, passes)
        if depth is not None:
            _follow_phases(count, blocks_of(model))
        count.peaks.clear()
        step_loss(network, passes, _largest_tiles).backward()
    return count.peaks


def materialised(model: Any, checkpointing: bool) -> Any:
    """The network of a model on the "meta" device, with tensors of the active mode."""
    network = unwrapped(model)
    model.to_empty(device="cpu").train()
    with suppress(KeyError):  # an adapter's own copy of a tied matrix (lora_modules_to_save) stays one
        network.tie_weights()  # `to_empty` makes copies of shared weights
    if checkpointing:
        enable = getattr(network, "activation_checkpointing_enable", network.gradient_checkpointing_enable)
        enable({"use_reentrant": False})  # older transformers have the second name alone
    return network


def _follow_gradients(count: LiveBytes, trained: list[nn.Parameter], passes: Passes) -> None:
    """Counts each gradient as such as soon as it is complete."""

    def complete(parameter: Tensor) -> None:
        assert parameter.grad is not None  # nosec B101 # for the type checker
        if not passes.keeps_gradients:
            parameter.grad = None
        elif not passes.accumulates:
            count.gradients += count.leave_out(parameter.grad)

    for parameter in trained:
        parameter.register_post_accumulate_grad_hook(complete)


def _follow_phases(count: LiveBytes, blocks: nn.ModuleList) -> None:
    """Sets the phase when the last block begins, and when the last block and the second one have their gradients."""

    def follow(block: nn.Module, phase: int) -> None:
        waiting = {p for p in block.parameters() if p.requires_grad}
        if not waiting:
            raise _NotSeparable

        def complete(parameter: Tensor) -> None:
            waiting.discard(parameter)
            if not waiting:
                count.phase = phase

        for parameter in list(waiting):
            parameter.register_post_accumulate_grad_hook(complete)

    def begin(block: nn.Module, args: Any) -> None:
        count.phase = max(count.phase, 1)

    blocks[-1].register_forward_pre_hook(begin)
    follow(blocks[-1], 2)
    follow(blocks[1], 3)


def step_loss(network: Any, passes: Passes, tiles: Any) -> Tensor:
    """The forward pass, as in `ift.step.algorithm`; `tiles` of the head as in `scored_log_probs`. Returns a number."""
    ids = torch.zeros(passes.rows, passes.tokens, dtype=torch.int64)
    mask = torch.ones_like(ids) if passes.masked else None
    positions = torch.zeros(passes.trained, dtype=torch.int64)  # (N,)
    guess = None
    if passes.mixed:
        ones = torch.ones(len(positions))
        guess = LookAhead(positions[:, None], ones[:, None], positions, ones)
    with torch.autocast("cpu", torch.bfloat16, enabled=passes.autocast):
        with mixed_embeddings(network, ids.shape, positions, guess, 0.5):
            hidden = network.base_model(input_ids=ids, attention_mask=mask, use_cache=False)[0]
        if passes.full_logits:
            logits = network.get_output_embeddings()(hidden).float()
            return nn.functional.log_softmax(logits, -1).gather(-1, ids[..., None]).sum()
        states = hidden.flatten(0, 1).index_select(0, positions)
        scores: Tensor = with_head(
            network,
            lambda head, states: scored_log_probs(states, head, positions, passes.tile_width, tiles),
            states,
        )[0]
        return scores.sum()


def _largest_tiles(tokens: int, entries: int, width: int) -> tuple[Sequence[int], Sequence[int]]:
    """Of `every_tile`, those that hold as much as any other: a second one is made while the first is still alive."""
    firsts, starts = (
        [alike[place] for place in sorted({0, min(1, len(alike) - 1), len(alike) - 1})]
        for alike in every_tile(tokens, entries, width)
    )
    return firsts, starts

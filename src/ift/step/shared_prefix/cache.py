"""Keys and values of a shared prefix, with their graph: written once, read as often as one likes.

Caches in the sense of transformers, for training: nothing grows or is overwritten, and a layer that is computed again
under gradient checkpointing finds what it found the first time.

Shape legend: B rows, P positions of the prefix, C positions that follow it, D width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.modeling_layers import GradientCheckpointingLayer

KeysAndValues = Sequence[tuple[Tensor, Tensor]]


class PrefixWriter(CacheLayerMixin):
    """A layer's keys and values of the prefix, (B, heads, P, D) each; attention gets back what it gave."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Keep them; gradient flows."""
        self.keys, self.values, self.is_initialized = key_states, value_states, True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keep them if they are the first; what is computed again in the backward pass is not kept."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that the prefix attends to, and where they begin."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """Nothing stands before the prefix."""
        return 0

    def get_max_length(self) -> int:
        """No limit."""
        return -1


class PrefixReader(CacheLayerMixin):
    """A layer's keys and values of the prefix in front of those of the C positions that follow it."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Hold them; gradient flows."""
        self.keys, self.values, self.is_initialized = key_states, value_states, True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """(B, heads, P + C, D) keys and values; nothing is kept."""
        assert self.keys is not None  # nosec B101 # for the type checker
        assert self.values is not None  # nosec B101 # for the type checker
        return torch.cat([self.keys, key_states], -2), torch.cat([self.values, value_states], -2)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that are attended to (a sliding window is told by the mask), and where they begin."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """P."""
        assert self.keys is not None  # nosec B101 # for the type checker
        return self.keys.shape[-2]

    def get_max_length(self) -> int:
        """No limit."""
        return -1


def prefix_writer() -> Cache:
    """An empty cache for the prefix's own pass."""
    return Cache(layer_class_to_replicate=PrefixWriter)


def taken_from(writer: Cache) -> KeysAndValues:
    """Every layer's keys and values out of a written cache, which forgets them: a graph must not hold itself."""
    found = [(layer.keys, layer.values) for layer in writer.layers]
    for layer in writer.layers:
        layer.keys = layer.values = None
    return found


def prefix_reader(prefix: KeysAndValues) -> Cache:
    """A cache for a pass over what follows the prefix; gradient flows to its keys and values where it is enabled."""
    return Cache(layers=[PrefixReader(keys, values) for keys, values in prefix])


@contextmanager
def checkpointing_keeps_caches(model: nn.Module) -> Iterator[None]:
    """While open, checkpointed layers are given their cache instead of none: both kinds above bear a second reading.

    A backbone's own flag does not checkpoint anything in the architectures that share; in GPT-2 it withholds the cache.
    """
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    backbones = [
        m for m in model.modules() if m not in layers and getattr(m, "gradient_checkpointing", False)
    ]
    flags: list[tuple[Any, str, bool]] = [
        *((layer, "_can_checkpoint_with_cache", True) for layer in layers),
        *((backbone, "gradient_checkpointing", False) for backbone in backbones),
    ]
    before = [getattr(module, name) for module, name, _ in flags]
    for module, name, value in flags:
        setattr(module, name, value)
    try:
        yield
    finally:
        for (module, name, _), value in zip(flags, before, strict=True):
            setattr(module, name, value)

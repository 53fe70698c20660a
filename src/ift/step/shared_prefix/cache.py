"""Keys and values of a shared prefix, with their autograd graph: written once, read any number of times.

These are transformers caches for training: nothing grows or is overwritten, so that a layer which gradient
checkpointing recomputes reads the same keys and values again.

Shape legend: B rows, P positions of the prefix, C positions that follow it, D width of a head.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin

KeysAndValues = Sequence[tuple[Tensor, Tensor]]


class PrefixWriter(CacheLayerMixin):
    """A layer's keys and values of the prefix, (B, heads, P, D) each; `update` returns its arguments."""

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Stores them; gradient flows."""
        self.keys, self.values, self.is_initialized = key_states, value_states, True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Stores those of the first call; a recomputation by checkpointing does not replace them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """The number of keys that the prefix attends to, and the first one's position."""
        return query_length, 0

    def get_seq_length(self) -> int:
        """0: nothing precedes the prefix."""
        return 0

    def get_max_length(self) -> int:
        """No limit."""
        return -1


class PrefixReader(CacheLayerMixin):
    """A layer's keys and values of the prefix, placed before those of the C positions after it."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Stores them; gradient flows."""
        self.keys, self.values, self.is_initialized = key_states, value_states, True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """(B, heads, P + C, D) keys and values; the new ones are not stored."""
        assert self.keys is not None  # nosec B101 # for the type checker
        assert self.values is not None  # nosec B101 # for the type checker
        return torch.cat([self.keys, key_states], -2), torch.cat([self.values, value_states], -2)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """The number of keys that are attended to, and the first one's position. The mask applies a sliding window."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """The length P of the prefix."""
        assert self.keys is not None  # nosec B101 # for the type checker
        return self.keys.shape[-2]

    def get_max_length(self) -> int:
        """No limit."""
        return -1


def prefix_writer() -> Cache:
    """An empty cache for the pass over the prefix."""
    return Cache(layer_class_to_replicate=PrefixWriter)


def pop_keys_and_values(writer: Cache) -> KeysAndValues:
    """Every layer's keys and values, removed from the cache that holds them.

    The graph of checkpointed layers refers to the cache; if the cache also referred to the graph, neither was freed.
    """
    prefix = [(layer.keys, layer.values) for layer in writer.layers]
    for layer in writer.layers:
        layer.keys = layer.values = None
    return prefix


def prefix_reader(prefix: KeysAndValues) -> Cache:
    """A cache for a pass over the tokens after the prefix. Gradient flows to the prefix if it is enabled."""
    return Cache(layers=[PrefixReader(keys, values) for keys, values in prefix])


def cache_argument(backbone: nn.Module) -> str:
    """The name of the backbone's argument for a cache: `cache` from transformers 5.24 on, `past_key_values` before."""
    parameters = inspect.signature(type(backbone).forward).parameters
    return "cache" if "cache" in parameters else "past_key_values"


@contextmanager
def checkpointing_keeps_caches(model: nn.Module) -> Iterator[None]:
    """While active, checkpointed layers receive their cache; transformers drops it, since its own grow when read twice.

    The flag of a backbone checkpoints nothing in the architectures that share a prefix; in GPT-2 it drops the cache.
    """
    # imported here because it is slow, and the model has imported it already
    from transformers.modeling_layers import GradientCheckpointingLayer

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

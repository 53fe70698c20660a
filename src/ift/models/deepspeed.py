"""Building models under DeepSpeed's ZeRO-3."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_zero3_partitioning() -> Iterator[None]:
    """While active, transformers builds and loads models unpartitioned.

    Under ZeRO-3 transformers partitions every model that a process builds. A model built on one rank only, such as the
    empty one for a memory estimate or the saved one for verification, would wait for the other ranks forever.
    """
    from transformers.integrations import deepspeed

    configuration = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = configuration

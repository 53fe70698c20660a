"""What DeepSpeed's ZeRO-3 does to models that are not the trained one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def not_partitioned() -> Iterator[None]:
    """While open, transformers builds and loads models whole.

    In a run under ZeRO-3 transformers partitions every model that is built in the process. A second model, such as the
    empty one of a memory estimate or the saved one that is read back, is built on one rank alone, which would wait for
    the others forever.
    """
    from transformers.integrations import deepspeed

    configuration = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = configuration

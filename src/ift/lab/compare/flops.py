"""Counts the floating-point operations of training steps, on the first steps of each epoch."""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback

COUNTED_STEPS = 4


def addmm_flops(*args: Any, **kwargs: Any) -> int:
    """FLOPs of `addmm` as ift's head and trl's call it, from shapes: in place, and on CUDA with an output dtype.

    Torch's counter knows neither; its own formula raises TypeError for the second.
    """
    (rows, inner), (_, columns) = args[1], args[2]
    return int(2 * rows * inner * columns)


def attention_flops(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """FLOPs of fused attention: two products of (T, D) with (D, S) for each row and head of the query.

    Torch's own formula raises AssertionError where queries share keys (grouped-query attention on CUDA).
    """
    batch, heads, length, width = query
    return int(2 * batch * heads * length * key[-2] * (width + value[-1]))


def attention_backward_flops(grad: Any, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """FLOPs of its backward: five products, against the forward's two."""
    return attention_flops(query, key, value) * 5 // 2


def _attention(name: str) -> dict[Any, Any]:
    """Both directions of a kernel of `scaled_dot_product_attention`."""
    return {
        getattr(torch.ops.aten, f"_scaled_dot_product_{name}"): attention_flops,
        getattr(torch.ops.aten, f"_scaled_dot_product_{name}_backward"): attention_backward_flops,
    }


UNCOUNTED = {  # by torch's counter; those of GPUs by that of older versions, where keys have fewer heads than queries
    torch.ops.aten.addmm_: addmm_flops,
    torch.ops.aten.addmm: addmm_flops,
    **_attention("flash_attention_for_cpu"),
    **_attention("flash_attention"),
    **_attention("efficient_attention"),
    **_attention("cudnn_attention"),
}


class StepFlops(TrainerCallback):
    """Counts the first `COUNTED_STEPS` steps of each epoch; counting all would slow a training down.

    Attributes:
        counted: FLOPs of each step counted, by epoch.
        steps: Steps taken so far in each epoch.
    """

    def __init__(self) -> None:
        self.counted: list[list[int]] = []
        self.steps: list[int] = []
        self._counter: Any = None

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin another count."""
        self.counted.append([])
        self.steps.append(0)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin to count, if this is one of the first steps."""
        if len(self.counted[-1]) < COUNTED_STEPS:
            self._counter = FlopCounterMode(display=False, custom_mapping=UNCOUNTED)
            self._counter.__enter__()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End the count."""
        self.steps[-1] += 1
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
            self.counted[-1].append(self._counter.get_total_flops())
            self._counter = None

    @property
    def total(self) -> float:
        """FLOPs of all steps: in each epoch their number times the mean of those counted."""
        return sum(
            steps * sum(counted) / len(counted)
            for steps, counted in zip(self.steps, self.counted, strict=True)
            if counted
        )

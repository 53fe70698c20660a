"""Formulas of floating-point operations that torch's counter lacks."""

from typing import Any

import torch


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


def grouped_flops(left: Any, right: Any, *args: Any, **kwargs: Any) -> int:
    """FLOPs of the products of experts, from shapes: each row of one matrix meets the weights of one expert alone."""
    if len(left) == len(right) == 2:  # the gradient of the weights: (K, T) with (T, N)
        return int(2 * left[0] * left[1] * right[1])
    return int(2 * left[0] * left[1] * right[-1])  # (T, K) with (E, K, N)


UNCOUNTED = {  # by torch's counter; those of GPUs by that of older versions, where keys have fewer heads than queries
    torch.ops.aten.addmm_: addmm_flops,
    torch.ops.aten.addmm: addmm_flops,
    torch.ops.aten._grouped_mm: grouped_flops,
    **_attention("flash_attention_for_cpu"),
    **_attention("flash_attention"),
    **_attention("efficient_attention"),
    **_attention("cudnn_attention"),
}

"""Whether a batch is large enough for a shared prefix to save time: the work of a launch, where that was measured."""

from __future__ import annotations

from typing import Any

# Tokens of a batch times the parameters of a layer, by kind of device. Below it a shared step, which makes more calls,
# takes longer than it saves (docs/performance.md). A kind that is not here never shares under "auto": on the one GPU
# that was measured the shared step was slower at every size tried.
LEAST_WORK = {"cpu": 1e8}
CHEAPER = 0.99  # the prefix is shared if that takes less than this share of the tokens of whole rows


def saves_time(model: Any, tokens: int, shape: tuple[int, int, int], least_work: float) -> bool:
    """Whether a shared prefix takes fewer token passes than whole rows, in a batch of the least work.

    Args:
        model: the causal language model, unwrapped.
        tokens: B T, padding included.
        shape: documents, tokens of the longest, and of the longest from its first trained token on.
        least_work: tokens of the batch times parameters of a layer; 0 asks for none.
    """
    rows, width, answer = shape
    fewer = 3 * rows * width + rows * answer < CHEAPER * 4 * tokens
    return fewer and (not least_work or tokens * layer_parameters(model) >= least_work)


def layer_parameters(model: Any) -> float:
    """Parameters of one layer on average: all but those of the embeddings and the head, divided by the layers."""
    outside = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    inside = sum(one.numel() for one in model.parameters() if id(one) not in outside)
    return float(inside / max(1, model.config.get_text_config().num_hidden_layers))

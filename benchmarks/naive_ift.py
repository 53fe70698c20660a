"""IFT as one would write it down first, to have something to be compared with: every shortcut of `ift` left out.

Two passes over rows padded to the longest length allowed, each with full (B, T, V) logits in float32, and a frozen copy
of the embedding matrix: what docs/differences.md says of the research code, in our own words.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from ift.step.equations import propagation_weights, reduce_losses, temporal_residual
from ift.step.rows import row_layout


def padded_to(batch: dict[str, Tensor], max_length: int, pad_id: int) -> dict[str, Tensor]:
    """The batch with rows of `max_length`, padding at the right."""
    missing = max_length - batch["input_ids"].shape[1]
    fill = {"input_ids": pad_id, "labels": -100, "attention_mask": 0}
    return {name: pad(batch[name], (0, missing), value=value) for name, value in fill.items()}


class NaiveIFT:
    """A model and its naive step, with the methods that `contestants` expects of a trainer.

    Args:
        model: the policy, in training mode.
        pad_id: of the padding, up to `max_length`.
    """

    max_length = 1024

    def __init__(self, model: Any, pad_id: int) -> None:
        self.model, self.pad_id = model, pad_id
        self.frozen = model.get_input_embeddings().weight.detach().clone()  # (V, H)

    def loss(self, batch: dict[str, Tensor], residual_lambda: float = 0.2) -> Tensor:
        """The loss of a batch of rows, a scalar with gradient."""
        batch = padded_to(batch, self.max_length, self.pad_id)
        ids, labels, mask = batch["input_ids"], batch["labels"], batch["attention_mask"]
        layout = row_layout(labels, mask)
        with torch.no_grad():
            logits = self.model(
                input_ids=ids, attention_mask=mask, use_cache=False
            ).logits.float()  # (B, T, V)
            guesses = torch.where(layout.trained, pad(logits.argmax(-1)[:, :-1], (1, 0)), ids)
        mixed = temporal_residual(self.frozen[ids], self.frozen[guesses], residual_lambda)  # (B, T, H)
        output = self.model(inputs_embeds=mixed, attention_mask=mask, use_cache=False)
        logits = output.logits.float()
        losses = cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        losses = pad(losses.view(ids.shape[0], -1), (1, 0)) * layout.trained
        return reduce_losses(propagation_weights(losses, layout) * losses, layout, "sequence")

"""The loss of IFT for any subclass of transformers' Trainer: put the class in front of it.

    class Trainer(IFTLossMixin, transformers.Trainer): ...

The mean is over the trained tokens of the global batch, which the trainer counts, not over its rows as in the paper
(`loss_reduction: token`). Batches have `input_ids`, `labels`, and an `attention_mask` of two dimensions if rows are
padded; packed rows need an attention that keeps them apart by position_ids.
"""

from __future__ import annotations

from typing import Any

from ift.step import ift_loss


class IFTLossMixin:
    """Goes in front of a subclass of transformers' Trainer."""

    ift_settings: dict[str, Any] = {}  # noqa: RUF012 (replaced, never changed)

    @property
    def model_accepts_loss_kwargs(self) -> bool:
        """That `compute_loss` takes the number of tokens of a step: no trainer averages micro-batches itself."""
        return True

    @model_accepts_loss_kwargs.setter
    def model_accepts_loss_kwargs(self, value: bool) -> None:
        """What a trainer finds out about its model (Axolotl 0.19: that it takes no number) does not matter here."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of IFT in training; in evaluation the trainer's own, which is comparable with other methods."""
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[misc]
        known = ("input_ids", "labels", "attention_mask", "position_ids")
        batch = {name: inputs[name] for name in known if inputs.get(name) is not None}
        settings = {"loss_reduction": "token", "step": self.state.global_step, **self.ift_settings}  # type: ignore[attr-defined]
        result = ift_loss(model, batch, num_items=num_items_in_batch, **settings)
        loss = result.loss
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:  # type: ignore[attr-defined]
            loss = loss * self.accelerator.num_processes  # type: ignore[attr-defined]  # DDP divides by it
        return (loss, result.scores) if return_outputs else loss

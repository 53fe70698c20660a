"""IFT inside Axolotl: a plugin whose trainer computes the loss with `ift_loss`. Everything else stays Axolotl's.

With this folder in PYTHONPATH, in Axolotl's YAML:

    plugins:
      - axolotl_plugin.IFTPlugin
    ift:                      # optional: fields of ift.step.StepSettings
      residual_lambda: 0.2
      propagation_gamma: 0.95

The mean is over the trained tokens of the global batch, which Axolotl's trainer counts, not over its rows as in the
paper (`loss_reduction: token`). Leave sample packing off unless your attention keeps packed rows apart by position_ids.
The same mixin works in front of any trainer that is a subclass of transformers' Trainer, LLaMA-Factory's among them.
"""

from __future__ import annotations

from typing import Any

from axolotl.integrations.base import BasePlugin
from pydantic import BaseModel

from ift.step import ift_loss


class IFTLossMixin:
    """Goes in front of a subclass of transformers' Trainer."""

    ift_settings: dict[str, Any] = {}  # noqa: RUF012 (replaced, never changed)

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


class IFTArguments(BaseModel):
    """The key that the plugin adds to Axolotl's YAML."""

    ift: dict[str, Any] | None = None


class IFTPlugin(BasePlugin):
    """Gives Axolotl the trainer."""

    def get_input_args(self) -> str:
        """Where Axolotl finds the plugin's keys."""
        return f"{__name__}.IFTArguments"

    def get_trainer_cls(self, cfg: Any) -> type:
        """Axolotl's own trainer with the loss of IFT."""
        from axolotl.core.trainers.base import AxolotlTrainer

        return type(
            "AxolotlIFTTrainer", (IFTLossMixin, AxolotlTrainer), {"ift_settings": dict(cfg.ift or {})}
        )

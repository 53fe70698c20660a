"""IFT inside Axolotl: a plugin whose trainer computes the loss with `ift_loss`. Everything else stays Axolotl's.

With this folder in PYTHONPATH, in Axolotl's YAML:

    plugins:
      - axolotl_plugin.IFTPlugin
    ift:                      # optional: fields of ift.step.StepSettings
      residual_lambda: 0.2
      propagation_gamma: 0.95

The mean is over the trained tokens of the global batch, which Axolotl's trainer counts, not over its rows as in the
paper (`loss_reduction: token`). Leave sample packing off unless your attention keeps packed rows apart by position_ids.
"""

from __future__ import annotations

from typing import Any

from axolotl.integrations.base import BasePlugin
from ift_loss_mixin import IFTLossMixin
from pydantic import BaseModel


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

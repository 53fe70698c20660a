"""The precision of weights that a trainer loads from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class KeepsDtypes:
    """A trainer that loads checkpoints into weights of the precision that the run has.

    trl trains the adapter of a quantised base in bfloat16, and peft loads it in float32. A resumed run would round
    differently from a whole one, and the best checkpoint would be saved in another precision. The values in the file
    are bfloat16 too, so nothing is lost.
    """

    model: Any

    def _load_from_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """As in transformers, in the weights' own precision."""
        self._keeping(super()._load_from_checkpoint, *args, **kwargs)  # type: ignore[misc]

    def _load_best_model(self) -> None:
        """As in transformers, in the weights' own precision."""
        self._keeping(super()._load_best_model)  # type: ignore[misc]

    def _keeping(self, load: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        before = {name: weight.dtype for name, weight in self.model.named_parameters()}
        load(*args, **kwargs)
        for name, weight in self.model.named_parameters():
            if weight.dtype != before.get(name, weight.dtype):
                weight.data = weight.data.to(before[name])

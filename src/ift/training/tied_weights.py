"""Resuming a model whose head is its input embedding, without a warning about the head."""

from __future__ import annotations

from typing import Any


class KnowsTiedWeights:
    """Mixin for a `transformers.Trainer`: a checkpoint lacks no weight that it has under another name.

    Such a checkpoint has a shared matrix once, by one of its names, and transformers warns that the other is missing.
    """

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """As in transformers, without the missing names of parameters that were loaded under another name."""
        missing = set(load_result.missing_keys)
        named = dict(self.model.named_parameters(remove_duplicate=False))  # type: ignore[attr-defined]
        loaded = {id(parameter) for name, parameter in named.items() if name not in missing}
        left = [name for name in load_result.missing_keys if id(named.get(name)) not in loaded]
        super()._issue_warnings_after_load(type(load_result)(left, load_result.unexpected_keys))  # type: ignore[misc]

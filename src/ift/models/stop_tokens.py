"""The tokens at which a saved model stops generating."""

from __future__ import annotations

from typing import Any


def stop_generation_at(model: Any, eos_ids: list[int]) -> None:
    """Adds all end-of-turn ids to the end tokens of the generation config, which is saved with the model."""
    config = getattr(model, "generation_config", None)
    if config is None:
        return
    known = config.eos_token_id
    known = [] if known is None else [known] if isinstance(known, int) else list(known)
    missing = [i for i in eos_ids if i not in known]
    if missing:
        ids = known + missing
        config.eos_token_id = ids if len(ids) > 1 else ids[0]

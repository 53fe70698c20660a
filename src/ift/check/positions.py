"""Rows, or a `max_length`, beyond the positions that a model was built for."""

from __future__ import annotations

from typing import Any, Literal

from ift.data import DataReport
from ift.methods.stage import longest_row
from ift.methods.start import start_options
from ift.models.loading import load_config

# names of the number of positions in configurations; transformers maps n_positions of GPT-2 and GPT-J to the first
NAMES = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")


def known_positions(config: Any) -> tuple[str, int] | None:
    """Name and number of a model's positions; None if its configuration has none.

    Where rotary positions are scaled, the number is that after scaling.
    """
    text = config.get_text_config()
    name = next((one for one in NAMES if isinstance(getattr(text, one, None), int)), None)
    if name is None:
        return None
    positions = int(getattr(text, name))
    scaling = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    before, factor = scaling.get("original_max_position_embeddings"), scaling.get("factor")
    if factor and (before or scaling.get("rope_type") in ("linear", "dynamic")):
        positions = max(positions, int((before or positions) * factor))
    return name, positions


def position_problem(
    stage: Any, report: DataReport, learned: int | None
) -> tuple[Literal["refused", "warning"], str] | None:
    """Level and text if rows, or the `max_length` that was set, reach beyond the model's positions; otherwise None.

    `learned` are the positions of a model with a table of them, whose longer rows are refused elsewhere.
    """
    config = stage.config
    try:
        found = known_positions(load_config(stage.model.model_name_or_path, start_options(stage)))
    except (OSError, ValueError):
        return None
    if found is None:
        return None
    name, positions = found
    longest = longest_row(report, config)
    fix = f"Fix: --max_length {positions}, or a model with a longer context"
    if longest > positions and not report.streaming:
        if learned is not None:
            return None
        text = (
            f"rows have up to {longest:,} tokens, and the model knows {positions:,} positions ({name}). {fix}"
        )
        return "refused", text
    named = "max_length" in getattr(stage, "named", ()) or report.streaming
    if not named or config.max_length is None or config.max_length <= positions:
        return None
    rows = "rows of a stream" if report.streaming else f"the longest row has {longest:,} tokens; longer ones"
    packed = " (each row of a packed sequence counts its own)" if getattr(config, "packing", False) else ""
    text = (
        f"max_length is {config.max_length:,}, and the model knows {positions:,} positions ({name}): {rows} would "
        f"reach beyond them{packed}. {fix}"
    )
    return "warning", text

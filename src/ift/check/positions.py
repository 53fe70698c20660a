"""A `max_length` beyond the positions that a model was built for."""

from __future__ import annotations

from typing import Any

from ift.data import DataReport


def position_problem(stage: Any, report: DataReport) -> str:
    """The problem and fix where rows could reach beyond the model's positions, though none here does; "" without.

    Rows that do are in the report.
    """
    config, limit = stage.config, report.limit
    named = "max_length" in getattr(stage, "named", ()) or report.streaming
    if not named or not limit.of_model or config.max_length is None or report.too_long:
        return ""
    longest = report.lengths[2]
    rows = "rows of a stream" if report.streaming else f"the longest row has {longest:,} tokens; longer ones"
    packed = " (each row of a packed sequence counts its own)" if getattr(config, "packing", False) else ""
    return (
        f"max_length is {config.max_length:,}, and the model knows {limit.positions:,} positions "
        f"({limit.positions_name}): {rows} would reach beyond them{packed}. Fix: --max_length {limit.positions}, or a "
        "model with a longer context"
    )

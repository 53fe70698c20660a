"""The number of optimiser steps of a run."""

from __future__ import annotations

import math
from typing import Any

from datasets.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled
from trl import pack_dataset


def rows_of_steps(stage: Any, prepared: Any) -> int | None:
    """Rows that the steps are made of: the kept rows, with packing those that they are packed into.

    Packing is trl's own, so that the number is that of the run.

    Returns:
        None for a stream, whose rows are not counted.
    """
    config, rows = stage.config, prepared.sets["train"]
    if rows.report.streaming:
        return None
    if not getattr(config, "packing", False) or config.max_length is None:
        return int(rows.report.rows_kept)
    dataset = rows.dataset.select_columns(["input_ids"])
    if config.shuffle_dataset:
        dataset = dataset.shuffle(seed=config.seed)  # trl's order; packing looks at a thousand rows at a time
    shown = is_progress_bar_enabled()
    disable_progress_bar()
    try:
        options = {
            "num_proc": config.dataset_num_proc,
            "keep_in_memory": True,
            "load_from_cache_file": False,
        }
        return len(pack_dataset(dataset, config.max_length, config.packing_strategy, options))
    finally:
        if shown:
            enable_progress_bar()


PACKS_NOTHING = (
    "each sequence holds a single row, so packing has no effect here: raise max_length, or leave packing out"
)


def packs_nothing(config: Any, report: Any, sequences: int) -> bool:
    """Whether packing leaves each row alone in its sequence.

    Args:
        config: The training's settings.
        report: Of the training rows; not of a stream.
        sequences: What the kept rows were packed into.
    """
    if not getattr(config, "packing", False) or config.max_length is None or sequences != report.rows_kept:
        return False
    # this strategy cuts rows where a sequence ends, so that equal numbers say nothing, but for rows that fill one
    return config.packing_strategy != "wrapped" or bool(
        report.lengths[0] == config.max_length == report.lengths[2]
    )


def count_steps(config: Any, rows: int | None, rows_per_step: int) -> int | None:
    """Optimiser steps of a run over so many rows; None if neither the rows nor `max_steps` are known."""
    if config.max_steps > 0:
        return int(config.max_steps)
    if rows is None:
        return None
    return math.ceil(math.ceil(rows / rows_per_step) * config.num_train_epochs)

"""The number of optimiser steps of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from datasets.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled
from trl import pack_dataset

from ift.check.engines import Engine
from ift.methods.engines import splits_tensors
from ift.text import counted

FEW_SEQUENCES = 20  # below it the last one, which is not full, counts


@dataclass(frozen=True)
class Work:
    """What a run trains.

    Attributes:
        found: Rows, or packed sequences, that are here; None for those of a stream.
        rows: Those that the steps are made of: `found`, or as many as were planned for.
        rows_per_step: Of all processes.
        steps: Optimiser steps; None if neither the rows nor `max_steps` are known.
        tokens_per_step: Trained tokens of a step in the mean; None in a stream.
        tokens: Trained tokens of all steps; None if they are not known.
        words: How `rows_per_step` comes about.
        planned: Whether the number of rows is that of --plan_rows.
        seen: Rows of all steps, each as often as it is trained; None if they are not known.
        packed: Whether the rows are packed sequences.
    """

    found: int | None
    rows: int | None
    rows_per_step: int
    steps: int | None
    tokens_per_step: float | None
    tokens: int | None
    words: str
    planned: bool = False
    seen: float | None = None
    packed: bool = False

    def line(self) -> str:
        """Steps, rows and trained tokens."""
        if self.steps is None:
            why = (
                "the rows of a stream are not counted (set --max_steps, or --plan_rows to the number of rows)"
            )
            return f"not known, because {why}; {self.words} each"
        plan = " (number of rows from --plan_rows)" if self.planned else ""
        if self.planned and self.packed and self.found and self.found < FEW_SEQUENCES:
            plan = (
                f" (number of rows from --plan_rows; the rows here fill {counted(self.found, 'sequence')}, the last "
                f"in part, so the steps may be up to {1 / self.found:.0%} fewer)"
            )
        if self.tokens_per_step is None:
            tokens = "trained tokens are not known: those of a stream are not counted"
        else:
            each = counted(round(self.tokens_per_step), "trained token")
            tokens = f"about {each} a step, {self.tokens or 0:,} in all"
        return f"{self.steps:,} of {self.words}{plan}; {tokens}"


def work_of(stage: Any, prepared: Any, engine: Engine, plan_rows: int | None = None) -> Work:
    """The work of a run under an engine; `plan_rows` is the size of the full data, if the given rows are a sample."""
    config, report = stage.config, prepared.sets["train"].report
    found = rows_of_steps(stage, prepared)
    rows = found
    if plan_rows is not None:
        rows = plan_rows if found is None else math.ceil(found * plan_rows / report.rows_kept)
    batch, accumulation = config.per_device_train_batch_size, config.gradient_accumulation_steps
    kwargs = config.model_init_kwargs or {}
    same = kwargs.get("tp_size") or engine.processes if splits_tensors(config) else 1  # with the same rows
    groups = max(1, engine.processes // same)
    rows_per_step = batch * accumulation * groups
    steps = count_steps(config, rows, rows_per_step)
    each = report.trained_tokens / found if found and report.trained_tokens else None
    seen = None
    if rows is not None and steps is not None:
        trained = rows_of_pass(config, rows, rows_per_step)
        seen = steps * rows_per_step if config.max_steps > 0 else trained * config.num_train_epochs
    tokens = None if each is None or seen is None else round(each * seen)
    packed = bool(getattr(config, "packing", False) and config.max_length)
    name = "packed sequences" if packed else "rows"
    processes = (
        f"{groups} process{'' if groups == 1 else 'es'}{'' if same == 1 else ' with rows of their own'}"
    )
    words = (
        f"{rows_per_step:,} {name} ({batch} per device x {accumulation} gradient accumulation x {processes})"
    )
    per_step = tokens / steps if tokens is not None and steps else None
    return Work(
        found, rows, rows_per_step, steps, per_step, tokens, words, plan_rows is not None, seen, packed
    )


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
    return math.ceil(
        math.ceil(rows_of_pass(config, rows, rows_per_step) / rows_per_step) * config.num_train_epochs
    )


def rows_of_pass(config: Any, rows: int, rows_per_step: int) -> int:
    """Rows that are trained in a pass over `rows`: with `dataloader_drop_last` those of whole batches of all processes.

    The last step of a pass may accumulate fewer batches than the others, so only a part of a batch is dropped.
    """
    batch = rows_per_step // config.gradient_accumulation_steps
    return rows // batch * batch if config.dataloader_drop_last else rows

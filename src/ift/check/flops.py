"""Counts the floating-point operations of a run, on tensors without data (see `ift.check.fake_step`)."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from ift.check.fake_step import (
    SHALLOW,
    LiveBytes,
    Passes,
    materialised,
    repeated_blocks,
    shallow_copy,
    step_loss,
)
from ift.check.flop_formulas import UNCOUNTED
from ift.check.needs import StepNeeds
from ift.check.steps import Work
from ift.data.report import DataReport
from ift.methods.stage import Stage
from ift.methods.start import start_options
from ift.step.scored_log_probs import TILE_WIDTH, every_tile

# methods whose trainers apply the head to every token of a row, and not to the trained ones alone
HEAD_EVERYWHERE = ("dft", "dpo")


def run_flops(needs: StepNeeds, report: DataReport, work: Work, stage: Stage) -> float | None:
    """Floating-point operations of all steps of a run, for rows of their mean length without padding.

    Packed rows count as whole sequences, in which attention computes the square and masks what is between rows. Only
    the flash kernels compute within each row, so that with them packed rows count as rows.

    Args:
        needs: The needs of a step.
        report: The report on the training rows.
        work: The number of rows that the run trains.
        stage: The run; with pairs a row is two sequences.

    Returns:
        None for a stream, whose rows are not counted.
    """
    if not work.found or work.seen is None:
        return None
    sides, found, seen = 2 if stage.method.needs_pairs else 1, work.found, work.seen
    if work.packed and "flash" in str(start_options(stage).further.get("attn_implementation")):
        found, seen = report.rows_kept, seen / found * report.rows_kept
    tokens, trained = (n / found / sides for n in (report.total_tokens, report.trained_tokens))
    length = max(2, round(tokens))
    scored = length if stage.method.name in HEAD_EVERYWHERE else max(1, round(trained))
    each = needs.flops(length, min(length - 1, scored))
    return each * tokens / length * sides * seen


def passes_flops(model: nn.Module, passes: Passes, further: int, tokens: int, trained: int) -> int:
    """Floating-point operations of one sequence in a step.

    Args:
        model: As in `passes_peak`.
        passes: How the forward and backward pass run.
        further: Number of forward passes without gradient: the look-ahead pass, the pass of a reference model.
        tokens: T, the length of the sequence, 2 or more.
        trained: N, the number of its trained tokens, 1 to T - 1.
    """
    one = replace(passes, rows=1, tokens=tokens, trained=trained, tile_width=TILE_WIDTH)
    if depth := repeated_blocks(model):
        two, three = (_count(shallow_copy(model, blocks), one, further) for blocks in SHALLOW)
        return three + (three - two) * (depth - SHALLOW[1])
    return _count(copy.deepcopy(model), one, further)


def _count(model: nn.Module, passes: Passes, further: int) -> int:
    with FakeTensorMode(allow_non_fake_inputs=True), LiveBytes():
        network = materialised(model, passes.checkpointing)
        with FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as both:
            step_loss(network, passes, every_tile).backward()
        with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as forward:
            step_loss(network, replace(passes, mixed=False), every_tile)
    return int(both.get_total_flops() + further * forward.get_total_flops())

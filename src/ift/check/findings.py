"""The checks before a run: rows, token ids and answer ends as the model will see them, each problem with its fix."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ift.check.engines import ONE_DEVICE, Engine
from ift.check.memory import MemoryEstimate, available_memory, estimate_memory
from ift.check.remedies import Remedy, remedies
from ift.check.rows import RowScan, scan_rows
from ift.check.trainer_build import build_error
from ift.data import DataError, DataReport, Prepared, end_of_turn_ids
from ift.data.templates import adds_bos
from ift.methods.stage import longest_row
from ift.methods.start import explain_too_long
from ift.models.limits import explain_ids_outside, special_ids

WARN_CUT, REFUSE_CUT = 0.01, 0.20  # shares of the rows, or of the trained tokens, that cutting takes

Level = Literal["refused", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One result of the check.

    Attributes:
        level: "refused" (the run does not start), "warning" or "note".
        about: Data set, or topic.
        text: The problem and its fix.
    """

    level: Level
    about: str
    text: str


def data_findings(
    sets: Mapping[str, Prepared],
    scans: Mapping[str, RowScan],
    tokenizer: Any,
    *,
    vocabulary: int | None,
    rows_per_step: int,
    allow_truncation: bool = False,
) -> list[Finding]:
    """Checks the rows of each set, given its scan.

    `vocabulary` is the number of rows of the model's embedding, None if unknown. `allow_truncation` warns instead of
    refusing if much is cut.
    """
    found = []
    for name, one in sets.items():
        found += _check_report(name, one.report, allow_truncation)
        found += _check_scan(name, scans[name], tokenizer, vocabulary)
        asks = one.report.format.startswith(("prompt-completion", "preference"))
        if (
            asks
            and one.report.prompts == "plain text"
            and tokenizer.chat_template
            and not scans[name].rendered
        ):
            text = (
                "the rows are plain text, which leaves the model's chat template out. Fix, if it is to answer in a "
                'conversation: write rows as {"messages": [...]} (docs/data.md)'
            )
            found.append(Finding("warning", name, text))
    if "eval" in sets:
        found += _check_overlap(scans["train"], scans["eval"])
    report = sets["train"].report
    if not report.streaming and report.rows_kept < rows_per_step:
        text = (
            f"{report.rows_kept:,} rows are fewer than the {rows_per_step:,} of one step. "
            "Fix: lower per_device_train_batch_size or gradient_accumulation_steps"
        )
        found.append(Finding("warning", "train", text))
    return found


def _check_overlap(train: RowScan, evaluation: RowScan) -> list[Finding]:
    """A warning if evaluation rows, or else their prompts, are also training rows or prompts."""
    for what, first, second in (
        ("rows", train.first, evaluation.first),
        ("prompts", train.prompts, evaluation.prompts),
    ):
        if shared := first.keys() & second.keys():
            row = min(second[key] for key in shared)
            text = (
                f"{len(shared):,} evaluation {what} are also training {what} (evaluation row {row} first): the "
                "evaluation loss will be too low. Fix: remove them from one of the two sets"
            )
            return [Finding("warning", "eval", text)]
    return []


def _check_report(name: str, report: DataReport, allow_truncation: bool) -> list[Finding]:
    found = []
    lost = max(report.share_cut, report.share_trained_lost)
    if lost > WARN_CUT:
        level: Level = "refused" if lost > REFUSE_CUT and not allow_truncation else "warning"
        text = (
            f"max_length {report.max_length:,} cuts {report.share_cut:.1%} of the rows and "
            f"{report.share_trained_lost:.1%} of the trained tokens; {report.rows_without_end:,} rows train no end "
            f"of the answer. Fix: raise --max_length (the longest row has {report.lengths[2]:,} tokens), or shorten "
            "the rows" + (", or use --allow_truncation" if level == "refused" else "")
        )
        found.append(Finding(level, name, text))
    for reason, rows in report.dropped.items():
        shown = ", ".join(map(str, rows[:8])) + (", ..." if len(rows) > 8 else "")
        found.append(Finding("warning", name, f"{len(rows):,} rows dropped: {reason} (row {shown})"))
    return found


def _check_scan(name: str, one: RowScan, tokenizer: Any, vocabulary: int | None) -> list[Finding]:
    found = []
    if vocabulary is not None and one.largest_id >= vocabulary:
        text = (
            f"the rows hold the token id {one.largest_id:,}, but the model has only {vocabulary:,} embeddings. "
            "Fix: use the model's own tokenizer, or resize the model's embeddings"
        )
        found.append(Finding("refused", name, text))
    of_all = f" of {one.rows:,}"
    warnings = (  # rows, of how many, what is wrong with them, the fix
        ([row for row, _ in one.duplicates], of_all, "are copies of earlier ones",
         ". Fix: remove them, unless they should count more"),
        (one.double_bos, "", "begin with the beginning-of-sequence token twice",
         ". Fix: remove it from the rows or the template"),
        (one.without_bos if adds_bos(tokenizer) else [], "", "do not begin with the beginning-of-sequence token, which "
         "the tokenizer puts before plain text", ". Fix: let the chat template write it"),
        (one.joined, of_all, "have no space or line end between the prompt and the completion",
         ". Fix: begin the completion with a space, or end the prompt with a line end"),
        (one.untrained_end, of_all, "train no token that ends an answer",
         ": the model may not learn to stop. Fix: a template that ends turns, or an --eos_token that the rows use"),
    )  # fmt: skip
    for rows, whole, what, fix in warnings:
        if rows:
            text = f"{len(rows):,}{whole} rows {what} (row {rows[0]} is the first){fix}"
            found.append(Finding("warning", name, text))
    return found


@dataclass(frozen=True)
class Preflight:
    """The result of the check before a run.

    Attributes:
        findings: In the order of the checks.
        scans: By data set.
        memory: None if no estimate is possible.
        available: Free bytes on the device.
        engine: What `memory` is divided by.
        steps: Optimiser steps of the run; None for a stream without max_steps.
    """

    findings: list[Finding]
    scans: dict[str, RowScan]
    memory: MemoryEstimate | None
    available: int
    engine: Engine
    steps: int | None

    @property
    def data_sha256(self) -> str:
        """Hash of the token ids of all training rows, in order."""
        digest = hashlib.sha256()
        for key in self.scans["train"].keys:
            digest.update(key)
        return digest.hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without the scans."""
        memory = self.memory
        return {
            "refused": self.refused,
            "findings": [asdict(one) for one in self.findings],
            "memory": None if memory is None else {**asdict(memory), "total": memory.total},
            "available_memory": self.available,
            "engine": asdict(self.engine),
            "steps": self.steps,
        }

    def memory_line(self) -> str:
        """The estimate, the memory there is, and whether the step fits; empty without an estimate."""
        if self.memory is None:
            return ""
        each = f" on each device ({self.engine})" if self.engine.processes > 1 else ""
        fits = ", it fits" if self.memory.total <= self.available else ""
        return f"memory{each}: {self.memory.summary()}; {self.available / 2**30:.1f} GiB free{fits}"

    @property
    def refused(self) -> bool:
        """Whether the run must not start."""
        return any(one.level == "refused" for one in self.findings)


def preflight(
    stage: Any,
    prepared: Any,
    *,
    allow_truncation: bool = False,
    engine: Engine = ONE_DEVICE,
    gpu_memory: float | None = None,
    progress: Callable[[int], object] = lambda rows: None,
) -> Preflight:
    """Check everything that one stage will train, without loading its weights.

    Args:
        stage: An `ift.methods.stage.Stage`.
        prepared: What `ift.methods.stage.prepare_stage` gave.
        allow_truncation: See `data_findings`.
        engine: The engine of the run and its processes.
        gpu_memory: GiB of one device; None: what is free on this machine's.
        progress: See `scan`.
    """
    config, sets = stage.config, prepared.sets
    ends = end_of_turn_ids(prepared.tokenizer)
    scans = {name: scan_rows(one, prepared.tokenizer, ends, progress) for name, one in sets.items()}
    rows_per_step = config.per_device_train_batch_size * config.gradient_accumulation_steps * engine.processes
    report = sets["train"].report
    longest = longest_row(report, config)
    memory, findings = None, []
    try:
        memory = estimate_memory(stage, longest, engine=engine)
    except DataError as error:
        findings.append(Finding("refused", "model", str(error)))
    except Exception as error:  # the model's code may raise anything, and the run may still work
        findings.append(Finding("note", "memory", f"no estimate: {type(error).__name__}: {error}"))
    findings = [
        *data_findings(
            sets,
            scans,
            prepared.tokenizer,
            vocabulary=memory.vocabulary if memory else None,
            rows_per_step=rows_per_step,
            allow_truncation=allow_truncation,
        ),
        *findings,
    ]
    if memory is not None:
        outside = explain_ids_outside(special_ids(prepared.tokenizer), memory.vocabulary)
        findings += [
            Finding("refused", "model", problem)
            for problem in (outside, explain_too_long(longest, memory.positions))
            if problem
        ]
    if wrong := build_error(stage, prepared):
        findings.append(Finding("refused", "settings", wrong))
    available = available_memory() if gpu_memory is None else round(gpu_memory * 2**30)
    if memory is not None and memory.total > available:
        ways = remedies(stage, longest, available, engine)
        findings.append(Finding("warning", "memory", _too_large(memory, available, ways)))
    steps = config.max_steps if config.max_steps > 0 else None
    if steps is None and not report.streaming:
        steps = math.ceil(math.ceil(report.rows_kept / rows_per_step) * config.num_train_epochs)
    return Preflight(findings, scans, memory, available, engine, steps)


def _too_large(found: MemoryEstimate, available: int, ways: list[Remedy]) -> str:
    """The missing memory, and settings that need less."""
    fix = ", or ".join(map(str, ways[:3])) or "a larger device, or more of them"
    return (
        f"a step needs about {found.total / 2**30:.1f} GiB, {available / 2**30:.1f} GiB are free. Fix: {fix}"
    )

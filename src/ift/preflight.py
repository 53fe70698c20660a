"""What can be known before a run: rows, ids and ends as the model will see them, each finding with its remedy."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ift.data import DataReport, Prepared, end_of_turn_ids
from ift.data.templates import adds_bos
from ift.memory import MemoryEstimate, Remedy, available_memory, estimate_memory, remedies

WARN_CUT, REFUSE_CUT = 0.01, 0.20  # shares of the rows, or of the trained tokens, that cutting takes
STREAM_ROWS = 1000  # looked at of a stream
BATCH = 1000

Level = Literal["refused", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing found.

    Attributes:
        level: "refused" (the run does not start), "warning" or "note".
        about: Data set, or topic.
        text: What was found, and the fix.
    """

    level: Level
    about: str
    text: str


@dataclass
class RowScan:
    """What one pass over the prepared rows found.

    Row numbers count from 1 in the data as loaded; in a mixture or a stream, in the rows kept of all parts together.

    Attributes:
        rows: Looked at.
        keys: Hash of every row's ids and labels, in order.
        first: Hash of a row's ids -> the first row with them.
        duplicates: (row, the earlier row with the same ids).
        prompts: Hash of the ids before the first trained token -> the first row with them; rows without are left out.
        largest_id: Of all ids and labels; -1 for none.
        double_bos: Rows that begin with the beginning-of-sequence token twice.
        without_bos: Rows that do not begin with it.
        untrained_end: Rows not cut that have no end-of-turn id among their labels.
    """

    rows: int = 0
    keys: list[bytes] = field(default_factory=list)
    first: dict[bytes, int] = field(default_factory=dict)
    duplicates: list[tuple[int, int]] = field(default_factory=list)
    prompts: dict[bytes, int] = field(default_factory=dict)
    largest_id: int = -1
    double_bos: list[int] = field(default_factory=list)
    without_bos: list[int] = field(default_factory=list)
    untrained_end: list[int] = field(default_factory=list)


def scan(
    prepared: Prepared, tokenizer: Any, ends: set[int], progress: Callable[[int], object] = lambda rows: None
) -> RowScan:
    """Looks at every prepared row once; of a stream at the first `STREAM_ROWS`; of pairs at the chosen side.

    Args:
        prepared: Rows of `prepare_dataset` or `prepare_pairs`.
        tokenizer: The one they were prepared with.
        ends: Ids that end a turn, see `ift.data.end_of_turn_ids`.
        progress: Called with the number of rows of each batch.
    """
    found, bos = RowScan(), tokenizer.bos_token_id
    dropped = (
        set() if prepared.report.parts else {n for rows in prepared.report.dropped.values() for n in rows}
    )
    numbers = (number for number in itertools.count(1) if number not in dropped)
    rows = prepared.dataset.take(STREAM_ROWS) if prepared.report.streaming else prepared.dataset
    for batch in rows.iter(batch_size=BATCH):
        pairs = "chosen_input_ids" in batch
        ids_of, labels_of = ("chosen_input_ids", "chosen_labels") if pairs else ("input_ids", "labels")
        for ids, labels in zip(batch[ids_of], batch[labels_of], strict=True):
            found.rows += 1
            number, whole = next(numbers), np.asarray(ids, dtype=np.int64)
            trained = np.asarray(labels, dtype=np.int64)
            found.keys.append(_key(np.concatenate([whole, trained])))
            key = _key(whole)
            earlier = found.first.setdefault(key, number)
            if earlier != number:
                found.duplicates.append((number, earlier))
            start = int((trained != -100).argmax())
            if start:
                found.prompts.setdefault(_key(whole[:start]), number)
            found.largest_id = max(found.largest_id, int(whole.max(initial=-1)), int(trained.max(initial=-1)))
            if bos is not None and whole[:1].tolist() != [bos]:
                found.without_bos.append(number)
            if bos is not None and whole[:2].tolist() == [bos, bos]:
                found.double_bos.append(number)
            if len(ids) != prepared.report.max_length and not ends & set(trained.tolist()):
                found.untrained_end.append(number)
        progress(len(batch[ids_of]))
    return found


def data_findings(
    sets: Mapping[str, Prepared],
    scans: Mapping[str, RowScan],
    tokenizer: Any,
    *,
    vocabulary: int | None,
    rows_per_step: int,
    allow_truncation: bool = False,
) -> list[Finding]:
    """Everything that is known about the rows.

    Args:
        sets: "train" and perhaps "eval".
        scans: Of each of them.
        tokenizer: The one they were prepared with.
        vocabulary: Rows of the model's embedding; None: unknown.
        rows_per_step: Of an optimiser step.
        allow_truncation: Only warn where much is cut.
    """
    found = []
    for name, one in sets.items():
        found += _of_report(name, one.report, allow_truncation)
        found += _of_scan(name, scans[name], tokenizer, vocabulary)
    if "eval" in sets:
        both = scans["train"].first.keys() & scans["eval"].first.keys()
        asked = (scans["train"].prompts.keys() & scans["eval"].prompts.keys()) if not both else set()
        if both or asked:
            what, shared = ("rows", both) if both else ("prompts", asked)
            where = scans["eval"].first if both else scans["eval"].prompts
            row = min(where[key] for key in shared)
            found.append(
                Finding(
                    "warning", "eval",
                    f"{len(shared):,} evaluation {what} are training {what}, too (evaluation row {row} first): the "
                    "evaluation loss will flatter. Fix: take them out of one of the two",
                )
            )  # fmt: skip
    report = sets["train"].report
    if not report.streaming and report.rows_kept < rows_per_step:
        found.append(
            Finding(
                "warning", "train",
                f"{report.rows_kept:,} rows are fewer than the {rows_per_step:,} of one step. "
                "Fix: lower per_device_train_batch_size or gradient_accumulation_steps",
            )
        )  # fmt: skip
    return found


def _of_report(name: str, report: DataReport, allow_truncation: bool) -> list[Finding]:
    found = []
    lost = max(report.share_cut, report.share_trained_lost)
    if lost > WARN_CUT:
        level: Level = "refused" if lost > REFUSE_CUT and not allow_truncation else "warning"
        remedy = f"raise --max_length (the longest row has {report.lengths[2]:,} tokens), or shorten the rows"
        found.append(
            Finding(
                level, name,
                f"max_length {report.max_length:,} cuts {report.share_cut:.1%} of the rows and "
                f"{report.share_trained_lost:.1%} of the trained tokens; {report.rows_without_end:,} rows train no end "
                f"of the answer. Fix: {remedy}"
                + (", or say --allow_truncation" if level == "refused" else ""),
            )
        )  # fmt: skip
    for reason, rows in report.dropped.items():
        shown = ", ".join(map(str, rows[:8])) + (", ..." if len(rows) > 8 else "")
        found.append(Finding("warning", name, f"{len(rows):,} rows dropped: {reason} (row {shown})"))
    return found


def _of_scan(name: str, one: RowScan, tokenizer: Any, vocabulary: int | None) -> list[Finding]:
    found = []

    def add(level: Level, rows: list[int], text: str) -> None:
        if rows:
            found.append(
                Finding(level, name, text.format(n=f"{len(rows):,}", row=rows[0], all=f"{one.rows:,}"))
            )

    if vocabulary is not None and one.largest_id >= vocabulary:
        found.append(
            Finding(
                "refused", name,
                f"the rows hold the token id {one.largest_id:,}, and the model embeds {vocabulary:,}. "
                "Fix: take the model's own tokenizer, or resize the model's embeddings",
            )
        )  # fmt: skip
    add(
        "warning",
        [row for row, _ in one.duplicates],
        "{n} of {all} rows are copies of earlier ones (row {row} is the first). Fix: drop them, unless they are meant "
        "to count more",
    )
    add(
        "warning",
        one.double_bos,
        "{n} rows begin with the beginning-of-sequence token twice (row {row} is the first). Fix: take it out of the "
        "rows or the template",
    )
    if adds_bos(tokenizer):
        add(
            "warning",
            one.without_bos,
            "{n} rows do not begin with the beginning-of-sequence token, which the tokenizer puts before plain text "
            "(row {row} is the first). Fix: let the chat template write it",
        )
    add(
        "warning",
        one.untrained_end,
        "{n} of {all} rows train no token that ends an answer (row {row} is the first): the model may not learn to "
        "stop. Fix: a template that ends turns, or an --eos_token that the rows use",
    )
    return found


def _key(ids: Any) -> bytes:
    return hashlib.blake2b(ids.tobytes(), digest_size=16).digest()


@dataclass(frozen=True)
class Preflight:
    """What is known about a run before it starts.

    Attributes:
        findings: In the order of the checks.
        scans: By data set.
        memory: None where the model's configuration does not tell.
        available: Bytes free on the device.
        steps: Optimiser steps of the run; None for a stream without max_steps.
    """

    findings: list[Finding]
    scans: dict[str, RowScan]
    memory: MemoryEstimate | None
    available: int
    steps: int | None

    @property
    def data_sha256(self) -> str:
        """Of the ids of all training rows, in their order."""
        digest = hashlib.sha256()
        for key in self.scans["train"].keys:
            digest.update(key)
        return digest.hexdigest()

    @property
    def refused(self) -> bool:
        """Whether the run must not start."""
        return any(one.level == "refused" for one in self.findings)


def preflight(
    stage: Any,
    prepared: Any,
    *,
    allow_truncation: bool = False,
    progress: Callable[[int], object] = lambda rows: None,
) -> Preflight:
    """Looks at everything that one stage will train, without its weights.

    Args:
        stage: An `ift.baselines.stage.Stage`.
        prepared: What `ift.baselines.stage.prepare_stage` gave.
        allow_truncation: See `data_findings`.
        progress: See `scan`.
    """
    config, sets = stage.config, prepared.sets
    ends = end_of_turn_ids(prepared.tokenizer)
    scans = {name: scan(one, prepared.tokenizer, ends, progress) for name, one in sets.items()}
    world = int(os.environ.get("WORLD_SIZE", 1))
    rows_per_step = config.per_device_train_batch_size * config.gradient_accumulation_steps * world
    report = sets["train"].report
    longest = longest_row(report, config)
    memory, findings = None, []
    try:
        memory = estimate_memory(stage, longest)
    except Exception as error:  # a model's own code runs here: whatever it raises, the run may still be fine
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
    available = available_memory()
    if memory is not None and memory.total > available:
        ways = remedies(stage, longest, available)
        findings.append(Finding("warning", "memory", _too_large(memory, available, ways)))
    steps = config.max_steps if config.max_steps > 0 else None
    if steps is None and not report.streaming:
        steps = math.ceil(math.ceil(report.rows_kept / rows_per_step) * config.num_train_epochs)
    return Preflight(findings, scans, memory, available, steps)


def longest_row(report: DataReport, config: Any) -> int:
    """Tokens of the longest row that a step may hold; of a stream `max_length`."""
    return min(report.lengths[2] or config.max_length or 1, config.max_length or report.lengths[2])


def _too_large(found: MemoryEstimate, available: int, ways: list[Remedy]) -> str:
    """What is missing, and what this configuration has left."""
    fix = ", or ".join(map(str, ways[:3])) or "a larger device, or more of them"
    return (
        f"a step needs about {found.total / 2**30:.1f} GiB, {available / 2**30:.1f} GiB are free. Fix: {fix}"
    )

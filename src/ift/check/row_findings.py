"""The checks of the rows before a run: lengths, copies, token ids and answer ends, each problem with its fix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ift.check.finding import Finding, Level
from ift.check.rows import RowScan
from ift.data import DataReport, Prepared
from ift.data.encodings import WRONG_CHARACTERS
from ift.data.report import TEMPLATE_FIX, TEMPLATE_REASON, cut_away, in_words_of, is_reason, row_numbers
from ift.data.review import COPIES_FIX
from ift.data.templates import adds_bos
from ift.text import counted

REFUSE_CUT = 0.20  # share of the rows, or of the trained tokens, that cutting may take

_TO_TURNS = "rename the columns to instruction and output, with --dataset_columns prompt=instruction completion=output"
_WRITE_TURNS = "write the prompt and both answers as lists of turns"


def data_findings(
    sets: Mapping[str, Prepared],
    scans: Mapping[str, RowScan],
    tokenizer: Any,
    *,
    vocabulary: int | None,
    rows_per_step: int,
    rows: int | None = None,
    allow_truncation: bool = False,
) -> list[Finding]:
    """Checks the rows of each set, given its scan.

    `vocabulary` is the number of rows of the model's embedding, None if unknown. `rows` are those that steps are made
    of, None for the kept rows. `allow_truncation` warns instead of refusing if much is cut.
    """
    found = []
    for name, one in sets.items():
        of_set = _check_report(name, one.report, allow_truncation)
        of_set += _check_scan(name, one, scans[name], tokenizer, vocabulary)
        of_set += _check_plain_text(name, one, scans[name], tokenizer)
        of_set += _check_characters(name, one)
        found += [replace(finding, text=in_words_of(name, finding.text)) for finding in of_set]
    if "eval" in sets:
        found += _check_overlap(sets, scans)
    report = sets["train"].report
    rows = report.rows_kept if rows is None else rows
    if not report.streaming and rows < rows_per_step:
        packed = " after packing" if rows < report.rows_kept else ""
        text = (
            f"{counted(rows, 'row')}{packed} {'is' if rows == 1 else 'are'} fewer than the {rows_per_step:,} of one "
            "step. Fix: lower per_device_train_batch_size or gradient_accumulation_steps"
        )
        found.append(Finding("warning", "train", text))
    return found


def _check_plain_text(name: str, prepared: Prepared, scan: RowScan, tokenizer: Any) -> list[Finding]:
    """A warning for each part whose prompts are plain text, for a model that has a chat template."""
    found = []
    for one in prepared.parts or (prepared,):
        part = one.report
        asks = part.format.startswith(("prompt-completion", "preference", "pairs"))
        if (
            not asks
            or part.prompts != "plain text"
            or not tokenizer.chat_template
            or part.name in scan.rendered
        ):
            continue
        rows = f"the rows of {part.name.removeprefix(f'{name} ')}" if prepared.parts else "the rows"
        fix = one.renaming.advice(_TO_TURNS) if part.format.startswith("prompt") else _WRITE_TURNS
        text = (
            f"{rows} are plain text, so the model's chat template is not used. Fix, if the model is to answer in "
            f"conversations: {fix} (docs/data.md)"
        )
        found.append(Finding("warning", name, text))
    return found


def _check_characters(name: str, prepared: Prepared) -> list[Finding]:
    """Warnings of the rows whose text a wrong encoding has damaged, with their places."""
    return [
        Finding("warning", name, f"{_count(len(rows), 'has', 'have')} {what} ({part.names(rows)}): {cause}")
        for part in prepared.parts or (prepared,)
        for what, cause in WRONG_CHARACTERS.items()
        if (rows := part.report.notes.get(what))
    ]


def _check_overlap(sets: Mapping[str, Prepared], scans: Mapping[str, RowScan]) -> list[Finding]:
    """A warning if evaluation rows, or else their prompts, are also training rows or prompts."""
    train, evaluation = scans["train"], scans["eval"]
    for what, first, second in (
        ("row", train.first, evaluation.first),
        ("prompt", train.prompts, evaluation.prompts),
    ):
        if shared := first.keys() & second.keys():
            row, trained = min((second[key], first[key]) for key in shared)
            same = counted(
                len(shared),
                f"evaluation {what} is also a training {what}",
                f"evaluation {what}s are also training {what}s",
            )
            places = f"evaluation {sets['eval'].name_of(row)}, training {sets['train'].name_of(trained)}"
            text = (
                f"{same} (the first: {places}): the evaluation loss will be too low. "
                "Fix: remove them from one of the two sets"
            )
            return [Finding("warning", "eval", text)]
    return []


def _check_report(name: str, report: DataReport, allow_truncation: bool) -> list[Finding]:
    """What is wrong with the lengths of the rows, in one finding, and the rows that are dropped for other reasons."""
    found = []
    if report.limit.of_model and report.too_long:
        text = f"{_count(report.too_long)} longer than {report.limit} ({_long_rows(name, report)})"
        if emptied := report.rows_cut_away:
            text += f"; of these, {_count(emptied)} dropped: nothing to learn before max_length {report.max_length:,}"
        found.append(Finding("refused", name, f"{text}. {report.limit.fix(report.lengths[2])}"))
    elif report.rows_cut or report.trained_tokens_lost:
        found.append(_truncation(name, report, allow_truncation))
    for reason, rows in report.dropped.items():
        if not cut_away(reason):
            fix = f". {TEMPLATE_FIX}" if is_reason(reason, TEMPLATE_REASON) else ""
            text = f"{_count(len(rows))} dropped: {reason} ({row_numbers(rows)}){fix}"
            found.append(Finding("warning", name, text))
    return found


def _truncation(name: str, report: DataReport, allowed: bool) -> Finding:
    """The rows that `max_length` cuts: refused if that is much."""
    lost = max(report.share_cut, report.share_trained_lost)
    level: Level = "refused" if lost > REFUSE_CUT and not allowed else "warning"
    away = [row for reason, rows in report.dropped.items() if cut_away(reason) for row in rows]
    emptied = (
        f"{_count(len(away))} dropped, with nothing left to learn ({row_numbers(away)}), " if away else ""
    )
    text = (
        f"max_length {report.max_length:,} truncates {report.share_cut:.1%} of the rows "
        f"({_long_rows(name, report)}): "
        f"{counted(report.trained_tokens_lost, 'trained token is', 'trained tokens are')} lost "
        f"({report.share_trained_lost:.1%}), {emptied}and "
        f"{counted(report.rows_without_end, 'row trains', 'rows train')} no end of the answer. "
        + report.limit.fix(report.lengths[2])
        + (", or use --allow_truncation" if level == "refused" else "")
    )
    return Finding(level, name, text)


def _count(rows: int, one: str = "is", several: str = "are") -> str:
    return counted(rows, f"row {one}", f"rows {several}")


def _long_rows(name: str, report: DataReport) -> str:
    """The numbers of the rows that are too long, by part, and the longest."""
    parts = [
        f"{part.name.removeprefix(f'{name} ')} {row_numbers(part.long_rows)}"
        for part in report.parts
        if part.too_long
    ]
    shown = "; ".join(parts) if report.parts else row_numbers(report.long_rows)
    return f"{shown}; the longest row has {report.lengths[2]:,} tokens"


def _check_scan(
    name: str, prepared: Prepared, one: RowScan, tokenizer: Any, vocabulary: int | None
) -> list[Finding]:
    found = []
    if vocabulary is not None and one.largest_id >= vocabulary:
        text = (
            f"the rows hold the token id {one.largest_id:,}, but the model has only {vocabulary:,} embeddings. "
            "Fix: use the model's own tokenizer, or resize the model's embeddings"
        )
        found.append(Finding("refused", name, text))
    of_all = f" of {one.rows:,}"
    no_bos = "begin with the beginning-of-sequence token, which the tokenizer puts before plain text"
    no_space = "no space or line end between the prompt and the completion"
    copies = [row for row, _ in one.duplicates]
    unlearned = ": the model may not learn to stop" if name == "train" else ""
    warnings = (  # rows, of how many, what is wrong with one and with several of them, the fix
        (copies, of_all, "is a copy of an earlier one", "are copies of earlier ones",
         f". Fix: {COPIES_FIX}"),
        (one.double_bos, "", "begins with the beginning-of-sequence token twice",
         "begin with the beginning-of-sequence token twice",
         ". Fix: remove it from the rows or the template"),
        (one.without_bos if adds_bos(tokenizer) else [], "", f"does not {no_bos}", f"do not {no_bos}",
          ". Fix: let the chat template write it"),
        (one.joined, of_all, f"has {no_space}", f"have {no_space}",
         ". Fix: begin the completion with a space, or end the prompt with a line end"),
        (one.untrained_end, of_all, "trains no token that ends an answer", "train no token that ends an answer",
         f"{unlearned}. Fix: a template that ends turns, or an --eos_token that the rows use"),
    )  # fmt: skip
    for rows, whole, what, of_several, fix in warnings:
        if rows:
            noun = "row" if (one.rows if whole else len(rows)) == 1 else "rows"
            what = what if len(rows) == 1 else of_several
            of = _original(prepared, one.duplicates) if rows is copies else ""
            text = f"{len(rows):,}{whole} {noun} {what} ({prepared.name_of(rows[0])} is the first{of}){fix}"
            found.append(Finding("warning", name, text))
    if one.several:
        first, second = (prepared.name_of(row) for row in min(one.several.values()))
        several = counted(len(one.several), "prompt has several answers", "prompts have several answers")
        text = f"{several}, all of them trained (first {first} and {second})"
        found.append(Finding("note", name, text))
    return found


def _original(prepared: Prepared, duplicates: list[tuple[int, int]]) -> str:
    """The row that the first copy repeats."""
    return f", a copy of {prepared.name_of(duplicates[0][1])}"

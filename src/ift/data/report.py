"""Counts of the prepared rows, reported before training."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, fields
from itertools import count
from typing import Any

from ift.data.encodings import WRONG_CHARACTERS
from ift.data.lengths import NO_LIMIT, LengthLimit
from ift.text import counted

NOT_RENDERED = "not rendered by the chat template"
HARMLESS = "; harmless, because "  # in a note, before the reason why nothing is lost
TEMPLATE_FIX = "Fix: give a template that renders it with --chat_template_path FILE.jinja"
_SCORED = {"training on": "scoring", "trained": "scored", "trains": "scores", "not train": "not score"}
# reasons to drop a row; compare them by `is_reason`
TEMPLATE_REASON = "the chat template renders nothing of the answer"
CUT_EMPTY = "nothing to learn after truncation to max_length"
CUT_AWAY = "an answer has no token left after truncation to max_length"
CUT_SAME = "chosen and rejected are the same after truncation to max_length"


@dataclass(frozen=True)
class DataReport:
    """Counts of one prepared data set, or of a mixture.

    A token is trained if it has a label and is not the first of its row. Tokens are counted after truncation, unless
    stated otherwise. For a stream only `name`, `format`, `explanation` and `max_length` are known.

    Attributes:
        name: "train", "eval" or the like.
        format: Name of the detected format.
        explanation: What is trained, in one line.
        streaming: Whether the rows are prepared lazily and not counted.
        max_length: Rows are truncated to this many tokens; None for no limit.
        limit: The limits of a row's length, that of the model included.
        long_rows: Numbers (from 1) of the rows with more tokens than the limit, dropped ones included; empty for a
            mixture, whose parts have them.
        rows_read: Number of rows read.
        rows_kept: Number of rows that are trained.
        dropped: Reason -> numbers (from 1) of the dropped rows.
        rows_cut: Kept rows that lost tokens to `max_length`.
        total_tokens: Tokens of the kept rows.
        trained_tokens: Trained tokens of the kept rows.
        trained_tokens_lost: Trained tokens lost to truncation, including those of dropped rows.
        rows_without_end: Kept rows whose last trained token does not end a turn or a text.
        merged_boundaries: Trained spans whose preceding ids differ from those of the prompt alone.
        unended_rows: Numbers (from 1) of the rows that `rows_without_end` counts; empty for a mixture.
        merged_rows: Numbers (from 1) of the rows with such spans; empty for a mixture.
        lengths: Tokens per row before truncation: median, 95th percentile, maximum.
        prompt_lengths: The same for the untrained tokens of a row; zeros for pairs.
        answer_lengths: The same for the trained tokens of a row; zeros for pairs.
        parts: Reports of the parts of a mixture.
        default_template: Whether the tokenizer had no chat template and got the default one.
        notes: Remark (content not used, or used in an unusual way) -> numbers of the rows, dropped ones included.
    """

    name: str
    format: str
    explanation: str
    streaming: bool = False
    max_length: int | None = None
    limit: LengthLimit = NO_LIMIT
    long_rows: tuple[int, ...] = ()
    rows_read: int = 0
    rows_kept: int = 0
    dropped: dict[str, tuple[int, ...]] = field(default_factory=dict)
    rows_cut: int = 0
    total_tokens: int = 0
    trained_tokens: int = 0
    trained_tokens_lost: int = 0
    rows_without_end: int = 0
    merged_boundaries: int = 0
    unended_rows: tuple[int, ...] = ()
    merged_rows: tuple[int, ...] = ()
    lengths: tuple[int, int, int] = (0, 0, 0)
    prompt_lengths: tuple[int, int, int] = (0, 0, 0)
    answer_lengths: tuple[int, int, int] = (0, 0, 0)
    parts: tuple[DataReport, ...] = ()
    default_template: bool = False
    notes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def prompts(self) -> str:
        """How prompts are written: "plain text", "chat template", "default template", "token ids", or several."""
        kinds = {one.prompts for one in self.parts}
        if not kinds:
            template = "default template" if self.default_template else "chat template"
            plain = {"tokenised": "token ids", "text": "plain text"}
            kinds = {next((kind for end, kind in plain.items() if self.format.endswith(end)), template)}
        return " and ".join(sorted(kinds))

    @property
    def share_cut(self) -> float:
        """Share of the rows read that `max_length` truncated, or left without a trained token, from 0 to 1."""
        return (self.rows_cut + self.rows_cut_away) / self.rows_read if self.rows_read else 0.0

    @property
    def rows_cut_away(self) -> int:
        """Number of rows that were dropped because truncation left them no trained token."""
        return sum(len(rows) for reason, rows in self.dropped.items() if cut_away(reason))

    @property
    def share_trained_lost(self) -> float:
        """Share of the trained tokens lost to truncation, from 0 to 1."""
        before = self.trained_tokens + self.trained_tokens_lost
        return self.trained_tokens_lost / before if before else 0.0

    @property
    def too_long(self) -> int:
        """Number of rows with more tokens than the limit, those of the parts included."""
        return len(self.long_rows) + sum(part.too_long for part in self.parts)

    def lost(self) -> list[str]:
        """A line for each reason to drop rows, and one on what truncation takes; none where all is trained."""
        lines = [
            f"{counted(len(rows), 'row')} dropped: {reason} ({row_numbers(rows)})"
            for reason, rows in self.dropped.items()
        ]
        if self.rows_cut or self.trained_tokens_lost:
            lines.append(
                f"truncated to {self.max_length:,} tokens: {counted(self.rows_cut, 'row')} ({self.share_cut:.1%} "
                f"with those dropped) {'loses its' if self.rows_cut == 1 else 'lose their'} end, and with it "
                f"{counted(self.trained_tokens_lost, 'trained token')} ({self.share_trained_lost:.1%})"
            )
        return lines

    def noted(self, without: Collection[str] = ()) -> list[str]:
        """A line for each note but those of `without`, with count and first rows; what is not rendered comes last."""
        notes = {note: rows for note, rows in self.notes.items() if note not in without}
        lines = [
            f"{counted(len(rows), 'row')}: {note} ({row_numbers(rows)})"
            for note, rows in sorted(notes.items(), key=lambda one: f"{NOT_RENDERED}: " in one[0])
        ]
        if any(f"{NOT_RENDERED}: " in note for note in notes):
            lines.append(f"{TEMPLATE_FIX}, or take it out of the rows")
        return lines

    def remarks(self) -> list[str]:
        """What is lost of the rows and what is noted of them, one a line; rows of "eval" are scored, not trained."""
        return [in_words_of(self.name, line) for line in (*self.lost(), *self.noted())]

    def lines(self, findings: bool = False, lengths: bool = False) -> list[str]:
        """The report as lines of text.

        Args:
            findings: Without what the check before a run says of rows.
            lengths: With the lengths of prompts and answers.
        """
        lines = [f"{self.name}: format: {self.format}; {self.explanation}"]
        if self.default_template:
            lines.append(
                "  the tokenizer has no chat template: the default one (User:, Assistant:) is set and saved"
            )
        if self.streaming:
            return [
                *lines,
                "  streaming: rows are checked when they are read; rows with nothing to learn are dropped and logged",
            ]
        lines.append(f"  kept {self.rows_kept:,} of {counted(self.rows_read, 'row')}")
        if not findings:
            lines += [f"  {line}" for line in self.lost()]
        lines += [f"  {line}" for line in self.noted(WRONG_CHARACTERS if findings else ())]
        lines.append(f"  {counted(self.trained_tokens, 'trained token')} of {self.total_tokens:,}")
        parts = {"prompt": self.prompt_lengths, "answer": self.answer_lengths} if lengths else {}
        for what, (median, high, top) in {"row": self.lengths, **parts}.items():
            if top or what == "row":
                lines.append(f"  tokens per {what}: median {median:,}, 95 % up to {high:,}, longest {top:,}")
        if self.rows_without_end:
            lines.append(
                f"  {counted(self.rows_without_end, 'row does', 'rows do')} not train a token that ends the answer"
                f"{_named(self.unended_rows)}"
            )
        if self.merged_boundaries:
            lines.append(
                f"  {counted(self.merged_boundaries, 'answer follows', 'answers follow')} a prompt that ends in other "
                "tokens than without the answer; a token with the end of the prompt and the start of the answer is "
                f"trained{_named(self.merged_rows)}"
            )
        lines = [in_words_of(self.name, line) for line in lines]
        for part in self.parts:
            lines.extend(f"  {line}" for line in part.lines(findings, lengths))
        return lines


def in_words_of(name: str, text: str) -> str:
    """A line about rows of a set; rows of "eval" are scored where others are trained."""
    if name.split(" ")[0] != "eval":
        return text
    for word, of_evaluation in _SCORED.items():
        text = re.sub(
            rf"(?<![\w./-]){word}(?![\w/-]|\.\w)", of_evaluation, text
        )  # not a part of a file's name
    return text


def _named(rows: Sequence[int]) -> str:
    return f" ({row_numbers(rows)})" if rows else ""


def cut_away(reason: str) -> bool:
    """Whether a reason to drop a row is that truncation left nothing to train."""
    return is_reason(reason, CUT_EMPTY, CUT_AWAY, CUT_SAME)


def is_reason(found: str, *reasons: str) -> bool:
    """Whether a reason to drop a row is one of these; in a mixture, the name of the part and a colon precede it."""
    return any(found == one or found.endswith(f": {one}") for one in reasons)


def quantiles(values: Iterable[int]) -> tuple[int, int, int]:
    """Median, 95th percentile and maximum; zeros for no values."""
    ordered = sorted(values) or [0]
    median, high, largest = (
        ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.95, 1.0)
    )
    return median, high, largest


_SUMS = (
    "rows_read", "rows_kept", "rows_cut", "total_tokens", "trained_tokens", "trained_tokens_lost", "rows_without_end",
    "merged_boundaries",
)  # fmt: skip


@dataclass(frozen=True)
class RowLengths:
    """The tokens of each row before truncation, and those of its prompt and its answer; both empty for pairs."""

    rows: Sequence[int] = ()
    prompts: Sequence[int] = ()
    answers: Sequence[int] = ()

    def quantiles(self) -> dict[str, Any]:
        """The fields of a `DataReport`."""
        named = {"lengths": self.rows, "prompt_lengths": self.prompts, "answer_lengths": self.answers}
        return {name: quantiles(values) for name, values in named.items()}


def mixture_report(name: str, parts: Sequence[DataReport], lengths: Sequence[RowLengths]) -> DataReport:
    """Adds up the reports of a mixture's parts; `lengths` are those of their rows."""
    everything = RowLengths(
        *([one for part in lengths for one in getattr(part, kind.name)] for kind in fields(RowLengths))
    )
    formats = " + ".join(dict.fromkeys(part.format for part in parts))
    return DataReport(
        name=name,
        format=f"mixture of {len(parts)}",
        explanation=formats,
        streaming=any(part.streaming for part in parts),
        max_length=parts[0].max_length,
        limit=parts[0].limit,
        dropped={f"{part.name}: {reason}": rows for part in parts for reason, rows in part.dropped.items()},
        **{name: sum(getattr(part, name) for part in parts) for name in _SUMS},
        **everything.quantiles(),
        parts=tuple(parts),
    )


def row_numbers(rows: Sequence[int]) -> str:
    """The first eight row numbers as text."""
    shown = ", ".join(str(row) for row in rows[:8])
    return f"row{'s' if len(rows) > 1 else ''} {shown}{', ...' if len(rows) > 8 else ''}"


def rows_by_text(
    texts: Iterable[Iterable[str]], numbers: Iterable[int] | None = None
) -> dict[str, tuple[int, ...]]:
    """Maps each sentence to the numbers of the rows that it is about: those given, or 1, 2, 3 and so on."""
    found: dict[str, list[int]] = {}
    for number, sentences in zip(numbers or count(1), texts, strict=False):
        for text in sentences:
            if text:
                found.setdefault(text, []).append(number)
    return {text: tuple(numbers) for text, numbers in found.items()}

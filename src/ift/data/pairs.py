"""Tokenises preference pairs with the masks of the SFT and IFT rows, so that all methods train on the same text.

A prepared pair has, for `chosen` and `rejected`, `*_input_ids` (prompt and answer), `*_attention_mask` (ones) and
`*_labels` (ids of the answer with its end-of-turn token, -100 elsewhere): the columns of trl's ORPO and CPO trainers,
and the input of `PairCollator` for DPO.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ift.data import DataError, DataReport, Part, Prepared, RowTokenizer, detect_format, ensure_chat_template
from ift.data.conversion import from_preference
from ift.data.counts import NOTE_SEPARATOR, count_trained, drop_untrained, features
from ift.data.errors import describe
from ift.data.formats import Format, column_names, unformatted
from ift.data.lengths import LengthLimit, length_limit
from ift.data.origin import Origin, RowPreparation, map_rows
from ift.data.prepare import join_parts
from ift.data.report import CUT_AWAY, CUT_SAME
from ift.data.samples import SIDES
from ift.data.source import SourceRow, columns_with_filled_nulls
from ift.data.turns import Message, Row
from ift.labels import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COLUMNS = tuple(f"{side}_{kind}" for side in SIDES for kind in ("input_ids", "attention_mask", "labels"))
IDENTICAL = "chosen and rejected are the same"


def prepare_pairs(
    parts: Sequence[Part],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None = None,
    positions: tuple[str, int] | None = None,
    num_proc: int | None = None,
    name: str = "train",
) -> Prepared:
    """Tokenises preference rows; dropped rows are counted with their reason.

    Args:
        parts: The data sets, in the order in which they are joined.
        tokenizer: Gets the default chat template, in place, if it has none and the rows are conversations.
        max_length: Each side is truncated to this many tokens; what is lost is counted.
        positions: As in `prepare_dataset`.
        num_proc: Worker processes.
        name: Name of the data in messages.

    Returns:
        The pairs, and a report with the tokens of both sides together and the lengths of the longer side.

    Raises:
        RowsRefused: Malformed pairs; the message names the first ten.
        DataError: No preference data.
    """
    return join_parts(
        parts,
        name,
        lambda part, called: _prepare(part, tokenizer, length_limit(max_length, positions), num_proc, called),
    )


def _prepare(part: Part, tokenizer: Any, limit: LengthLimit, num_proc: int | None, name: str) -> Prepared:
    check_columns(part.rows, name)
    rows, numbers = unformatted(part.rows, name), part.numbers
    columns, first_rows = column_names(rows), list(islice(rows, 5))
    form = detect_format(set(columns) - {"input_ids"}, first_rows)
    base = DataReport(
        name=name,
        format=form.name.replace("preference", "pairs"),
        explanation="chosen against rejected; the tokens of both answers are compared",
        max_length=limit.max_length,
        limit=limit,
        default_template=form.conversational and ensure_chat_template(tokenizer),
    )
    filled = columns_with_filled_nulls(rows)
    mapped = map_rows(
        rows,
        PreparePair(form, RowTokenizer(tokenizer), limit, name, filled, numbers, part.origin),
        with_indices=True,
        remove_columns=columns,
        features=features(COLUMNS),
        num_proc=num_proc,
        desc=f"Preparing {name} pairs",
    )
    return Prepared(*drop_untrained(mapped, base, "pairs", numbers), numbers, part.origin, loaded=rows)


def check_columns(rows: Any, name: str) -> None:
    """Raises DataError for a stream, and for a data set without the columns of pairs."""
    from datasets import Dataset

    if not isinstance(rows, Dataset):
        raise DataError(
            f"{name} data: pairs cannot be streamed: all are checked before training. Fix: set dataset_streaming to "
            "false"
        )
    if not set(SIDES) <= set(rows.column_names):
        raise DataError(
            f"{name} data: found columns {', '.join(rows.column_names) or 'none'}, expected pairs in chosen and "
            "rejected (and prompt). Fix: rename with --dataset_columns better=chosen worse=rejected, or train a method "
            "that needs answers only (ift, sft)"
        )


@dataclass(frozen=True)
class PreparePair(RowPreparation):
    """Prepares one row; a class, so that it can be pickled for worker processes. Attributes as in `prepare_pairs`."""

    form: Format
    tokenise: RowTokenizer
    limit: LengthLimit
    name: str
    features: Mapping[str, Any]
    numbers: tuple[int, ...] | None = None
    origin: Origin | None = None

    def prepare(self, row: Any, index: int) -> dict[str, Any]:
        """The columns of a pair and its counts; raises DataError for a malformed pair."""
        number, max_length = self.number(index), self.limit.max_length
        source = SourceRow(row, number, self.features)
        done = [self.tokenise(side, number) for side in read_pair(self.form, source)]
        notes = dict.fromkeys([*source.notes, *(note for tokens in done for note in tokens.notes)])
        result: dict[str, Any] = {"ift_reason": source.drop_reason, "ift_notes": NOTE_SEPARATOR.join(notes)}
        for side, tokens in zip(SIDES, done, strict=True):
            ids, labels = tokens.input_ids[:max_length], tokens.labels[:max_length]
            result |= {
                f"{side}_input_ids": ids,
                f"{side}_labels": labels,
                f"{side}_attention_mask": [1] * len(ids),
            }
            if not count_trained(labels):
                result["ift_reason"] = CUT_AWAY if count_trained(tokens.labels) else "an answer is empty"
        if not result["ift_reason"] and result["chosen_input_ids"] == result["rejected_input_ids"]:
            result["ift_reason"] = IDENTICAL if done[0].input_ids == done[1].input_ids else CUT_SAME
        trained = sum(count_trained(result[f"{side}_labels"]) for side in SIDES)
        longest = max(len(tokens.input_ids) for tokens in done)
        return result | {
            "ift_length": longest,
            "ift_total": sum(len(result[f"{side}_input_ids"]) for side in SIDES),
            "ift_trained": trained,
            "ift_lost": sum(count_trained(tokens.labels) for tokens in done) - trained,
            "ift_cut": max_length is not None and longest > max_length,
            "ift_ends": all(
                tokens.ends and len(tokens.input_ids) == len(result[f"{side}_input_ids"])
                for side, tokens in zip(SIDES, done, strict=True)
            ),
            "ift_merged": sum(tokens.merged for tokens in done),
        }


def read_pair(form: Format, source: SourceRow) -> tuple[Row, Row]:
    """The chosen and the rejected side in canonical form; the turns that they share are not trained.

    Raises:
        DataError: A side is missing or malformed, or they do not answer the same prompt.
    """
    for side in SIDES:
        if source.get(side) is None:
            fix = "fill it in or drop the row"
            raise source.error(side, describe(None), "an answer", fix)
    rejected, chosen = from_preference(source, "rejected"), form.read(source)
    if "messages" not in chosen or "messages" not in rejected:
        if chosen.keys() != rejected.keys():
            found, expected = "another type than chosen", "two texts, or two lists of turns"
            raise source.error("rejected", found, expected, "write both sides the same way")
        return chosen, rejected
    first, second = chosen["messages"], rejected["messages"]
    shared = _shared_turns(first, second)
    if shared == len(first) == len(second):
        return chosen, rejected  # both sides are equal: dropped and counted later
    for side, turns in zip(SIDES, (first, second), strict=True):
        role = turns[shared]["role"] if shared < len(turns) else "no further turn"
        if role != "assistant":
            raise DataError.at(
                source.number,
                f'column "{side}", turn {shared + 1}',
                f"{role} where the other side differs",
                "answers of the assistant to one and the same prompt",
                "make the turns before the answers equal, or drop the row",
            )
    for turn in (*first[:shared], *second[:shared]):
        turn["train"] = False
    return chosen, rejected


def _shared_turns(first: list[Message], second: list[Message]) -> int:
    """Number of leading turns that are the same on both sides."""
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count


@dataclass(frozen=True)
class PairCollator:
    """Collates P prepared pairs for trl's DPO: 2 P rows, [chosen; rejected], padded at the right to the longest.

    Attributes:
        pad_token_id: Id of the padding; masks exclude it.
    """

    pad_token_id: int

    def __call__(self, pairs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask` and `completion_mask` (1 on the answers), each (2 P, T) int64."""
        rows = [(pair[f"{side}_input_ids"], pair[f"{side}_labels"]) for side in SIDES for pair in pairs]
        ids = [torch.tensor(ids) for ids, _ in rows]
        answers = [(torch.tensor(labels) != IGNORED).long() for _, labels in rows]
        return {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(one) for one in ids], batch_first=True),
            "completion_mask": pad_sequence(answers, batch_first=True),
        }

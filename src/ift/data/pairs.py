"""Preference pairs, tokenised and masked as the SFT and IFT rows of the same answers are, so that methods see one text.

A prepared pair has, for `chosen` and for `rejected`, `*_input_ids` (prompt and answer), `*_attention_mask` (ones) and
`*_labels` (the ids where the answer stands, its end-of-turn token included; -100 elsewhere): the columns that trl's
ORPO and CPO trainers call theirs, and that `PairCollator` takes for DPO.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ift.data import DataError, DataReport, Part, Prepared, RowTokenizer, detect_format, ensure_chat_template
from ift.data.conversion import from_preference
from ift.data.counts import NOTE_SEPARATOR, count_trained, features, keep_trained
from ift.data.errors import describe
from ift.data.formats import Format, column_names
from ift.data.report import mixture_report
from ift.data.source import SourceRow, columns_with_filled_nulls
from ift.data.turns import Message, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SIDES = ("chosen", "rejected")
COLUMNS = tuple(f"{side}_{kind}" for side in SIDES for kind in ("input_ids", "attention_mask", "labels"))
IDENTICAL = "chosen and rejected are the same"
CUT_SAME = "chosen and rejected are the same after cutting at max_length"
CUT_AWAY = "an answer has no token left after cutting at max_length"


def prepare_pairs(
    parts: Sequence[Part],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None = None,
    num_proc: int | None = None,
    name: str = "train",
) -> Prepared:
    """Tokenises preference rows; every row read is kept, or dropped and counted with its reason.

    Args:
        parts: The data sets, in the order in which they are joined.
        tokenizer: Gets the default chat template, in place, if it has none and conversations come.
        max_length: Each side is cut to this many tokens, at its end; what that takes away is counted.
        num_proc: Processes of the preparation.
        name: What to call the data in messages.

    Returns:
        The pairs and a report whose tokens are those of both sides together, and whose lengths are the longer side's.

    Raises:
        DataError: No preference data, or a malformed pair: data set, row, column and the remedy are named.
    """
    if not parts:
        raise DataError(
            f"{name} data: found no data sets, expected at least one. Fix: set dataset_name or datasets"
        )
    names = [name] if len(parts) == 1 else [f"{name} {part.name}" for part in parts]
    done = [
        _prepare(part.rows, tokenizer, max_length, num_proc, called)
        for part, called in zip(parts, names, strict=True)
    ]
    if len(done) == 1:
        return done[0]
    from datasets import concatenate_datasets

    joined = concatenate_datasets([part.dataset for part in done])
    return Prepared(joined, mixture_report(name, [part.report for part in done]))


def _prepare(rows: Any, tokenizer: Any, max_length: int | None, num_proc: int | None, name: str) -> Prepared:
    check_columns(rows, name)
    columns, first_rows = column_names(rows), list(islice(rows, 5))
    form = detect_format(set(columns) - {"input_ids"}, first_rows)
    base = DataReport(
        name=name,
        format=form.name.replace("preference", "pairs"),
        explanation="chosen against rejected; the tokens of both answers are compared",
        max_length=max_length,
        default_template=form.conversational and ensure_chat_template(tokenizer),
    )
    mapped = rows.map(
        PreparePair(form, RowTokenizer(tokenizer), max_length, name, columns_with_filled_nulls(rows)),
        with_indices=True,
        remove_columns=columns,
        features=features(COLUMNS),
        num_proc=num_proc,
        desc=f"Preparing {name} pairs",
    )
    return Prepared(*keep_trained(mapped, base, "pairs"))


def check_columns(rows: Any, name: str) -> None:
    """Raise DataError for a stream, and for a data set without the columns of pairs."""
    from datasets import Dataset

    if not isinstance(rows, Dataset):
        raise DataError(
            f"{name} data: pairs cannot be streamed: each is checked. Fix: set dataset_streaming to false"
        )
    if not set(SIDES) <= set(rows.column_names):
        raise DataError(
            f"{name} data: found columns {', '.join(rows.column_names) or 'none'}, expected pairs in chosen and "
            "rejected (and prompt). Fix: rename with --dataset_columns better=chosen worse=rejected, or train a method "
            "that needs answers only (ift, sft)"
        )


@dataclass(frozen=True)
class PreparePair:
    """Prepares one row; a class, so that worker processes can be handed it.

    Attributes:
        form: Format of the data set.
        tokenise: As for the rows of SFT and IFT.
        max_length: Tokens that a side may have; None cuts nothing.
        name: Of the data set, for messages.
        features: See `columns_with_filled_nulls`.
    """

    form: Format
    tokenise: RowTokenizer
    max_length: int | None
    name: str
    features: Mapping[str, Any]

    def __call__(self, row: Any, index: int) -> dict[str, Any]:
        """The columns of a pair and what is counted about it; raises DataError for a malformed one."""
        number = index + 1
        source = SourceRow(row, number, self.features)
        try:
            for side in SIDES:
                if row.get(side) is None:
                    raise DataError.at(
                        number, f'column "{side}"', describe(None), "an answer", "fill it in or drop the row"
                    )
            rejected, chosen = from_preference(source, "rejected"), self.form.read(source)
            self._check_prompt(chosen, rejected, number)
            done = [self.tokenise(side, number) for side in (chosen, rejected)]
        except DataError as error:
            raise DataError(f"{self.name} data, {error}") from error
        notes = dict.fromkeys([*source.notes, *(note for tokens in done for note in tokens.notes)])
        result: dict[str, Any] = {"ift_reason": source.untrained, "ift_notes": NOTE_SEPARATOR.join(notes)}
        for side, tokens in zip(SIDES, done, strict=True):
            ids, labels = tokens.input_ids[: self.max_length], tokens.labels[: self.max_length]
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
            "ift_cut": self.max_length is not None and longest > self.max_length,
            "ift_ends": all(
                tokens.ends and len(tokens.input_ids) == len(result[f"{side}_input_ids"])
                for side, tokens in zip(SIDES, done, strict=True)
            ),
            "ift_merged": sum(tokens.merged for tokens in done),
        }

    @staticmethod
    def _check_prompt(chosen: Row, rejected: Row, number: int) -> None:
        """Both sides must answer one prompt; turns that they share are the prompt and are not compared."""
        if "messages" not in chosen or "messages" not in rejected:
            if chosen.keys() != rejected.keys():
                raise DataError.at(
                    number, 'column "rejected"', "an answer of another form than chosen",
                    "two texts, or two lists of turns", "write both sides the same way",
                )  # fmt: skip
            return
        first, second = chosen["messages"], rejected["messages"]
        shared = _shared_turns(first, second)
        if shared == len(first) == len(second):
            return  # the same pair: counted
        for side, turns in zip(SIDES, (first, second), strict=True):
            role = turns[shared]["role"] if shared < len(turns) else "nothing more"
            if role != "assistant":
                raise DataError.at(
                    number,
                    f'column "{side}", turn {shared + 1}',
                    f"{role} where the other side differs",
                    "answers of the assistant to one and the same prompt",
                    "make the turns before the answers equal, or drop the row",
                )
        for turn in (*first[:shared], *second[:shared]):
            turn["train"] = False


def _shared_turns(first: list[Message], second: list[Message]) -> int:
    """How many leading turns are the same on both sides."""
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count


@dataclass(frozen=True)
class PairCollator:
    """Stacks P prepared pairs as trl's DPO takes them, [chosen; rejected], padded to the longest at the right.

    Attributes:
        pad_token_id: What padding is filled with; only the masks tell it from tokens.
    """

    pad_token_id: int

    def __call__(self, pairs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask` and `completion_mask` (1 on the answers), each (2 P, T) int64."""
        rows = [(pair[f"{s}_input_ids"], pair[f"{s}_labels"]) for s in SIDES for pair in pairs]
        length = max(len(ids) for ids, _ in rows)
        pads = [length - len(ids) for ids, _ in rows]
        return {
            "input_ids": torch.tensor(
                [[*ids, *[self.pad_token_id] * pad] for (ids, _), pad in zip(rows, pads, strict=True)]
            ),
            "attention_mask": torch.tensor(
                [[1] * len(ids) + [0] * pad for (ids, _), pad in zip(rows, pads, strict=True)]
            ),
            "completion_mask": torch.tensor(
                [
                    [int(label != -100) for label in labels] + [0] * pad
                    for (_, labels), pad in zip(rows, pads, strict=True)
                ]
            ),
        }

"""Detects the format of a data set from its columns and first rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ift.data import conversion
from ift.data.errors import DataError
from ift.data.hints import explain_one_object, explain_one_turn_per_row, suggest_renaming
from ift.data.known_names import COLUMNS, find
from ift.data.source import SourceRow
from ift.data.turns import Row
from ift.text import quoted

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    AnyDataset = TypeVar("AnyDataset", Dataset, IterableDataset)

ACCEPTED = (
    "chosen [+ prompt] (preference: the chosen side)",
    "messages (turns with role and content)",
    "conversations (ShareGPT: turns with from and value)",
    "prompt + completion (text, or turns)",
    "instruction + output [+ input] (Alpaca)",
    "text (every token trained)",
    "input_ids [+ labels] (tokenised already)",
)
DETECTION_ROWS = 5  # rows from which the format of a data set is detected


@dataclass(frozen=True)
class Format:
    """A detected format.

    Attributes:
        name: Short name, as shown before training.
        kind: "turns" (rendered with a chat template), "text" or "tokenised".
        explanation: What is trained, in one line.
        converter: Function of `ift.data.conversion` for rows of this format; call `read`, which also checks the row.
        silently_unused: Columns that `explanation` already describes as unused.
    """

    name: str
    kind: Literal["turns", "text", "tokenised"]
    explanation: str
    converter: Callable[[SourceRow], Row]
    silently_unused: tuple[str, ...] = ()

    @property
    def conversational(self) -> bool:
        """Whether rows are rendered with a chat template."""
        return self.kind == "turns"

    def read(self, source: SourceRow) -> Row:
        """Converts a row to the canonical form; also handles marks, media, unused columns and damaged text.

        Raises:
            DataError: A malformed row.
        """
        source.refuse_media()
        row = self.converter(source)
        source.read_marks(answers=self.name not in ("text", "tokenised"))
        source.note_wrong_characters()
        for column in source.unused():
            if column not in self.silently_unused:
                source.note(f"column {column}: not used in training")
        return row

    def convert(self, row: Row, number: int) -> Row:
        """Converts row `number` (from 1), see `read`."""
        return self.read(SourceRow(row, number))


def detect_format(columns: Iterable[str], first_rows: Sequence[Mapping[str, Any]] = ()) -> Format:
    """Detects the format of a data set; raises DataError, with the accepted formats, if none matches.

    Tokenised rows take precedence, then preference, messages, ShareGPT, prompt-completion, Alpaca, text. So
    UltraFeedback-binarized (`chosen` and `messages`) is a preference set, and UltraChat (`prompt` and `messages`) is
    conversational. `first_rows` distinguish strings from turns in `prompt`, `completion` and `chosen`.
    """
    found = set(columns)
    if "input_ids" in found:
        return Format("tokenised", "tokenised", _tokenised_explanation(found), conversion.from_tokenised)
    if "chosen" in found:
        return _preference(found, first_rows)
    if "messages" in found:
        return Format("chat messages", "turns", "training on all assistant turns", conversion.from_messages)
    if "conversations" in found:
        return Format("ShareGPT", "turns", "training on all assistant turns", conversion.from_sharegpt)
    if {"prompt", "completion"} <= found:
        return _prompt_completion(first_rows)
    if {"instruction", "output"} <= found:
        return Format(
            "Alpaca",
            "turns",
            "one user turn (instruction, blank line, input); training on the answer (output)",
            conversion.from_alpaca,
        )
    if wrong := explain_one_turn_per_row(found) or ("text" not in found and explain_one_object(first_rows)):
        raise DataError(f"no known data format: {wrong}")
    if "text" in found:
        return Format("text", "text", "training on EVERY token, there is no prompt", conversion.from_text)
    columns_found = ", ".join(sorted(found)) or "none"
    raise DataError(
        f"no known data format: found columns {columns_found}. Accepted: {'; '.join(ACCEPTED)}. "
        f"Fix: {suggest_renaming(found, first_rows)}"
    )


def other_format(form: Format, row: Mapping[str, Any]) -> str:
    """A hint for a malformed row that would be valid in another format."""
    try:
        other = detect_format([column for column, value in row.items() if value not in (None, "")], [row])
    except DataError:
        return ""
    if other.converter is form.converter:
        return ""
    return (
        f" (This row looks like {other.name}, and a data set has one format. Write each format to a separate file, and "
        "list the files under datasets: in the YAML file)"
    )


def _tokenised_explanation(found: set[str]) -> str:
    if "labels" in found:
        return "training on the tokens that have labels"
    masks = [name for name in find(COLUMNS, "completion_mask").names if name in found]
    if masks:
        return f"training on the tokens in {' and '.join(masks)}"
    return "no labels; training on EVERY token"


def _preference(found: set[str], first_rows: Sequence[Mapping[str, Any]]) -> Format:
    text = any(isinstance(row.get("chosen"), str) for row in first_rows)
    in_text = text and not _has_turns(first_rows, "prompt")
    unused = " (rejected is not used)" if "rejected" in found else ""
    return Format(
        f"preference, {'text' if in_text else 'conversational'}",
        "text" if in_text else "turns",
        f"training on the chosen answer{unused}",
        conversion.from_preference,
        ("rejected",),
    )


def _prompt_completion(first_rows: Sequence[Mapping[str, Any]]) -> Format:
    if _has_turns(first_rows, "prompt") or _has_turns(first_rows, "completion"):
        return Format(
            "prompt-completion, conversational",
            "turns",
            "training on the assistant turns of the completion",
            conversion.from_prompt_completion,
        )
    return Format(
        "prompt-completion, text",
        "text",
        "no chat template; training on the completion and an end-of-sequence token",
        conversion.from_prompt_completion,
    )


def _has_turns(rows: Sequence[Mapping[str, Any]], column: str) -> bool:
    return any(isinstance(row.get(column), list | tuple | dict) for row in rows)


def parse_columns(
    given: Mapping[str, str] | Iterable[str], where: str = "--dataset_columns"
) -> dict[str, str]:
    """The new name of each column of `dataset_columns`, given as a mapping or as `old=new` pairs.

    Raises:
        DataError: A pair is invalid, or names a column a second time; the message begins with `where`.
    """
    pairs = given.items() if isinstance(given, Mapping) else [pair.partition("=")[::2] for pair in given]
    mapping: dict[str, str] = {}
    for old, new in pairs:
        pair = f"{old}={new}" if new else old
        if not (old and new):
            raise DataError(f"{where}: found {pair!r}, expected old=new. Fix: write question=instruction")
        if "=" in new:
            fix = "in YAML {question: instruction, answer: output}; on the command line each pair without quotes"
            raise DataError(
                f"{where}: found {pair!r}, which is more than one pair in one text. Fix: write {fix}"
            )
        if old in mapping or new in mapping.values():
            raise DataError(f"{where}: {pair!r} names a column a second time. Fix: name each once")
        mapping[old] = new
    return mapping


def rename_columns(
    dataset: AnyDataset, mapping: Mapping[str, str], where: str = "dataset_columns"
) -> AnyDataset:
    """Renames columns, old name to new.

    Raises:
        DataError: An unknown old name, or a new name that is taken; the message begins with `where`.
    """
    if not mapping:
        return dataset
    check_renaming(column_names(dataset), mapping, where)
    return dataset.rename_columns(dict(mapping))


def check_renaming(
    columns: Sequence[str], mapping: Mapping[str, str], where: str = "dataset_columns"
) -> None:
    """Raises DataError, from `where`, for an old name that is not among the columns, or a new name that is taken."""
    for old, new in mapping.items():
        if old not in columns:
            raise DataError(
                f'{where}: found no column "{old}" among {", ".join(columns)}. Fix: name one of these'
            )
        if new in columns and new not in mapping:
            raise DataError(
                f'{where}: "{old}" cannot become "{new}", which exists. Fix: rename "{new}" to something else'
            )


def unformatted(dataset: AnyDataset, name: str) -> AnyDataset:
    """The data set without a format such as "torch", so that values are plain Python objects.

    Raises:
        DataError: The data set has a transform (`with_transform`, `set_transform`).
    """
    if getattr(dataset, "format", {}).get("type") == "custom":
        raise DataError(
            f"{name} data: found a data set with a transform (with_transform or set_transform), which runs each time "
            "that a row is read; rows are prepared once, before training. Fix: apply the function with dataset.map(...)"
        )
    return dataset.with_format(None)


def column_names(dataset: Dataset | IterableDataset) -> list[str]:
    """Column names of a data set; for a stream without known features, those of its first row."""
    if dataset.column_names is not None:
        return list(dataset.column_names)
    return list(next(iter(first_rows(dataset, 1)), {}))


def first_rows(dataset: Dataset | IterableDataset, count: int) -> list[Any]:
    """The first `count` rows; raises DataError if the file of a stream cannot be read."""
    try:
        return list(islice(dataset, count))
    except DataError:
        raise
    except Exception as error:  # the reader of a stream may raise anything
        raise DataError(
            f"the first rows cannot be read: {quoted(error)}. Fix: check the file; without streaming the line is named"
        ) from error

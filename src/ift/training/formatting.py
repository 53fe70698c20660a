"""trl's `formatting_func`: a function of the user's own that makes each row a text."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from datasets import Dataset
from trl.data_utils import is_conversational, is_conversational_from_value

from ift.data import DataError
from ift.data.formats import column_names, first_rows

logger = logging.getLogger(__name__)


def format_rows(dataset: Any, formatting_func: Callable[[Any], str], name: str, num_proc: int | None) -> Any:
    """Rows of plain text, one for each row of `dataset`: what the function returns. Every token of them is trained.

    Rows with `input_ids` are returned as they are, with a warning, as in trl.

    Raises:
        DataError: Rows for which trl would not use the text either: conversations, and rows with a prompt.
    """
    columns, first = column_names(dataset), first_rows(dataset, 1)
    if "input_ids" in columns:
        logger.warning("%s data: the rows have input_ids, so formatting_func is not used", name)
        return dataset
    found = "a prompt" if "prompt" in columns else ""
    if first and (is_conversational(first[0]) or is_conversational_from_value(first[0])):
        found = "a conversation"
    if found:
        raise DataError(
            f"{name} data: formatting_func is given, and the rows have {found}, where trl does not use its text. Fix: "
            "leave formatting_func out, and the answers are trained; or train every token of its text: dataset.map("
            'lambda row: {"text": formatting_func(row)}, remove_columns=dataset.column_names)'
        )
    options = {"num_proc": num_proc} if isinstance(dataset, Dataset) else {}
    return dataset.map(lambda row: {"text": formatting_func(row)}, remove_columns=columns, **options)

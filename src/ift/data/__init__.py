"""Converts rows in any of seven formats, with any chat template, to token ids and training labels.

Importing this package imports neither torch, transformers, trl nor datasets.
"""

from ift.data.errors import DataError
from ift.data.formats import Format, detect_format, parse_columns, rename_columns
from ift.data.loading import load_rows, split_names
from ift.data.masks import RowTokenizer, TokenisedRow
from ift.data.prepare import Part, Prepared, prepare_dataset, prepare_mixture
from ift.data.report import DataReport
from ift.data.templates import end_of_turn_ids, ensure_chat_template, turn_endings
from ift.data.training_sets import LoadedData, load_train_and_eval

__all__ = [
    "DataError",
    "DataReport",
    "Format",
    "LoadedData",
    "Part",
    "Prepared",
    "RowTokenizer",
    "TokenisedRow",
    "detect_format",
    "end_of_turn_ids",
    "ensure_chat_template",
    "load_rows",
    "load_train_and_eval",
    "parse_columns",
    "prepare_dataset",
    "prepare_mixture",
    "rename_columns",
    "split_names",
    "turn_endings",
]

"""A column of JSON values that keeps long numbers exact; the `Json` feature of `datasets` rounds them."""

from __future__ import annotations

import json
import re
from typing import Any

from datasets import Json
from datasets.table import array_cast
from datasets.utils.json import ujson_loads

from ift.data.errors import DataError

_LONG_NUMBER = re.compile(r"\d{19}")


class JsonColumn(Json):
    """Values of any type, stored as JSON text and decoded by Python's `json`."""

    def encode_example(self, example_data: Any) -> str | None:
        """JSON text of a value; None for null. Raises DataError for an integer of more than 64 bits."""
        if example_data is None:
            return None
        text = json.dumps(example_data, ensure_ascii=False)
        if _LONG_NUMBER.search(text):
            try:
                ujson_loads(text)
            except ValueError as error:  # datasets would store it as JSON text inside JSON text
                raise DataError(
                    f"found a number of more than 64 bits, which cannot be stored, in {text[:60]}.... Fix: make it text"
                ) from error
        return text

    def decode_example(self, example_data: str | None, token_per_repo_id: Any = None) -> Any:
        """The value of a JSON text."""
        return None if example_data is None else json.loads(example_data)

    def cast_storage(self, storage: Any) -> Any:
        """Keeps an array of JSON texts unchanged."""
        return storage if storage.type == self.pa_type else array_cast(storage, self.pa_type)

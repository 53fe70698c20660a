"""The columns that the user renamed in a data set, and advice on renaming in the names that its file has."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from ift.data.errors import DataError

FLAG = "--dataset_columns"
_PAIR = r"(?:'[^'=]+=[^'=]+'|[^\s=,;()'\"]+=[^\s=,;()'\".]+)"
_ADVICE = re.compile(rf"{FLAG}((?: {_PAIR})+)")


def flag(pairs: Iterable[tuple[str, str]]) -> str:
    """The words of a command line that rename columns, from pairs of an old and a new name."""
    return " ".join([FLAG, *(shlex.quote(f"{old}={new}") for old, new in pairs)])


@dataclass(frozen=True)
class Renaming:
    """The columns that were renamed in a data set.

    Attributes:
        columns: Old name -> new name.
        entry: Name of the mixture's entry that the data set is; "" for a single data set.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    entry: str = ""

    def advice(self, text: str) -> str:
        """A message whose advice to rename columns names those of the file, with the pairs that were given before.

        In a mixture the advice is for the data set's own entry.
        """
        return _ADVICE.sub(self._of_file, text) if self.columns or self.entry else text

    @contextmanager
    def advising(self) -> Iterator[None]:
        """While active, the message of a DataError is changed as by `advice`."""
        try:
            yield
        except DataError as error:
            error.args = (self.advice(str(error)),)
            if error.fault is not None:
                error.fault = replace(error.fault, fix=self.advice(error.fault.fix))
            raise

    def _of_file(self, found: re.Match[str]) -> str:
        before = {new: old for old, new in self.columns.items()}
        advised = dict(word.split("=", 1) for word in shlex.split(found[1]))
        pairs = {before.get(name, name): new for name, new in advised.items()}
        kept = {old: new for old, new in self.columns.items() if old in pairs or new not in pairs.values()}
        whole = [(old, new) for old, new in (kept | pairs).items() if old != new]
        if not self.entry:
            return flag(whole)
        shown = ", ".join(f"{_in_yaml(old)}: {_in_yaml(new)}" for old, new in whole)
        return f"dataset_columns: {{{shown}}} in the entry {self.entry} of datasets"


def check_names(columns: Mapping[str, str], present: Mapping[str, list[str]]) -> None:
    """Raises DataError for a column to rename that no data set of a mixture has.

    `present` are the columns of the entries without a renaming of their own, by name.
    """
    if columns and not present:
        raise DataError(
            "dataset_columns: has no effect, because every entry of datasets has its own. Fix: leave one of them out"
        )
    known = {column for names in present.values() for column in names}
    missing = next((old for old in columns if old not in known), None)
    if missing is None:
        return
    found = "; ".join(f"{name} has {', '.join(names)}" for name, names in present.items())
    raise DataError(
        f'dataset_columns: found no column "{missing}" in any of the data sets ({found}). Fix: name one of these'
    )


def _in_yaml(name: str) -> str:
    return name if re.fullmatch(r"\w[\w -]*", name) else json.dumps(name, ensure_ascii=False)

"""The score `sql`: a query is right if it has the same result as the reference, on a database that it cannot change."""

from __future__ import annotations

import re
import sqlite3
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ift.lab.scores.answer import Answer, ScoreError
from ift.lab.scores.texts import unfenced
from ift.text import quoted

SECONDS = 5.0  # a query may take
MOST_ROWS = 100_000  # a result may have
LONGEST_VALUE = 1_000_000  # bytes, of a text or a query
MEMORY = 512 * 2**20  # bytes that all queries together may hold
FLOAT_DIGITS = 10  # that are compared: a sum depends on the order of its terms

_ALLOWED = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)
_FORBIDDEN_FUNCTIONS = ("load_extension", "fts3_tokenizer")
_TOKENS = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`|\[[^\]]*\]|--[^\n]*|/\*.*?(?:\*/|$)|[()]|\w+", re.DOTALL)
Rows = list[tuple[Any, ...]]


class Database:
    """An SQLite file, opened read-only; a query can read tables and do nothing else.

    Raises:
        ScoreError: The file is missing or no SQLite database.
    """

    def __init__(self, file: Path) -> None:
        self._references: dict[str, Rows] = {}
        self._deadline = 0.0
        try:
            if not file.is_file():
                raise sqlite3.OperationalError("no such file")
            self._connection = sqlite3.connect(f"file:{quote(str(file.absolute()))}?mode=ro", uri=True)
            self._connection.execute("SELECT count(*) FROM sqlite_master")
            self._connection.execute(f"PRAGMA hard_heap_limit={MEMORY}")
            self._connection.execute("PRAGMA temp_store=MEMORY")
        except sqlite3.Error as error:
            raise ScoreError(f"--score_db {file}: {quoted(error)}; give an SQLite file") from error
        limits = {sqlite3.SQLITE_LIMIT_LENGTH: LONGEST_VALUE, sqlite3.SQLITE_LIMIT_SQL_LENGTH: LONGEST_VALUE,
                  sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1000, sqlite3.SQLITE_LIMIT_ATTACHED: 0}  # fmt: skip
        for limit, value in limits.items():
            self._connection.setlimit(limit, value)
        self._connection.text_factory = lambda text: text.decode(errors="surrogateescape")
        self._connection.set_authorizer(_authorise)
        self._connection.set_progress_handler(lambda: time.monotonic() > self._deadline, 10_000)

    def run(self, query: str) -> Rows:
        """The rows of a query's result.

        Raises:
            ValueError: The query fails, has no result, or exceeds a limit.
        """
        self._deadline = time.monotonic() + SECONDS
        try:
            cursor = self._connection.execute(unfenced(query))
            if cursor.description is None:
                raise ValueError("it is no query")
            rows = cursor.fetchmany(MOST_ROWS + 1)
            cursor.close()
        except (sqlite3.Error, sqlite3.Warning, MemoryError) as error:
            late = time.monotonic() > self._deadline
            raise ValueError(
                f"it takes more than {SECONDS:g} s" if late else str(error) or "memory"
            ) from error
        if len(rows) > MOST_ROWS:
            raise ValueError(f"its result has more than {MOST_ROWS:,} rows")
        return [tuple(map(_comparable, row)) for row in rows]

    def right(self, query: str, reference: str) -> float:
        """Whether a query has the reference's result, in its order if the reference has one; 0 if the query fails."""
        expected = self._expected(reference)
        try:
            found = self.run(query)
        except ValueError:
            return 0.0
        if is_ordered(reference):
            return float(found == expected)
        return float(Counter(found) == Counter(expected))

    def check(self, answer: Answer) -> None:
        """Run the references of a row.

        Raises:
            ScoreError: One of them fails.
        """
        for reference in answer.references:
            try:
                self._expected(reference)
            except ValueError as error:
                raise ScoreError(
                    f"sql: row {answer.id}: the reference {reference!r:.200} fails: {quoted(error)}; correct or "
                    "drop the row"
                ) from error

    def _expected(self, reference: str) -> Rows:
        if reference not in self._references:
            self._references[reference] = self.run(reference)
        return self._references[reference]


def is_ordered(query: str) -> bool:
    """Whether a query has an ORDER BY of its own, outside of parentheses, texts and comments."""
    depth, words = 0, list[str]()
    for token in _TOKENS.findall(unfenced(query)):
        depth += {"(": 1, ")": -1}.get(token, 0)
        if not depth and not token.startswith(("--", "/*", ")")):
            words.append(token.upper())
    return any(pair == ("ORDER", "BY") for pair in pairwise(words))


def _authorise(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    allowed = action in _ALLOWED and not (
        action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in _FORBIDDEN_FUNCTIONS
    )
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def _comparable(value: Any) -> Any:
    return float(f"{value:.{FLOAT_DIGITS}g}") if isinstance(value, float) else value

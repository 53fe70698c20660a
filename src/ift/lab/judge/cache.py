"""Stores the judge's replies by everything that determines them, so that no reply is paid for twice."""

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ift.lab.judge.errors import JudgeError
from ift.lab.judge.replies import Reply


class ReplyCache:
    """A table of replies in one SQLite file, safe with several threads; a reply is on disk when `put` returns.

    Every method raises JudgeError where the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise JudgeError(f"--output_dir {path.parent}: cannot be made ({error.strerror})") from error
        with self._explained():
            self._base = sqlite3.connect(path, check_same_thread=False)
            with self._base:
                self._base.execute(
                    "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, text TEXT NOT NULL, "
                    "prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL)"
                )
                # a second table, because files of earlier versions, whose replies were paid for, do not have it
                self._base.execute(
                    "CREATE TABLE IF NOT EXISTS problems (key TEXT PRIMARY KEY, problem TEXT NOT NULL)"
                )

    def get(self, key: str) -> Reply | None:
        """The reply under a key, if there is one."""
        with self._lock, self._explained():
            row = self._base.execute(
                "SELECT text, prompt_tokens, completion_tokens, coalesce(problem, '') FROM replies "
                "LEFT JOIN problems USING (key) WHERE key = ?",
                (key,),
            ).fetchone()
        return Reply(*row) if row else None

    def put(self, key: str, reply: Reply) -> Reply:
        """Keeps a reply and returns the one that counts: the first that was kept under this key."""
        with self._lock, self._explained(), self._base:
            added = self._base.execute(
                "INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?)",
                (key, reply.text, reply.prompt_tokens, reply.completion_tokens),
            ).rowcount
            if added and reply.problem:
                self._base.execute("INSERT OR REPLACE INTO problems VALUES (?, ?)", (key, reply.problem))
        kept = self.get(key)
        assert kept is not None  # nosec B101 # for the type checker
        return kept

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """SQLite's errors with the file's name."""
        try:
            yield
        except sqlite3.Error as error:
            raise JudgeError(
                f"{self._path}: the replies cannot be read or kept ({error}); give another --output_dir, or wait "
                "until no other run uses this one"
            ) from error


def reply_key(model: str, messages: list[dict[str, str]], max_tokens: int, attempt: int) -> str:
    """A hash of judge, messages (which hold our prompts' version), limit, and the number of the attempt, from 0."""
    return hashlib.sha256(json.dumps([model, messages, max_tokens, attempt]).encode()).hexdigest()

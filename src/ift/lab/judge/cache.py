"""Replies of judges on disk, keyed by all that decides them: nothing is paid for twice, a stopped run goes on."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from pathlib import Path

from ift.lab.judge.endpoint import Reply


class ReplyCache:
    """A table of replies in one SQLite file; a reply is on the disk when `put` returns. Safe with several threads.

    Args:
        path: The file; its folder is made.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._base = sqlite3.connect(path, check_same_thread=False)
        with self._base:
            self._base.execute(
                "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, text TEXT NOT NULL, "
                "prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL)"
            )

    def get(self, key: str) -> Reply | None:
        """The reply under a key, if it is there."""
        with self._lock:
            row = self._base.execute(
                "SELECT text, prompt_tokens, completion_tokens FROM replies WHERE key = ?", (key,)
            ).fetchone()
        return Reply(*row) if row else None

    def put(self, key: str, reply: Reply) -> Reply:
        """Keeps a reply and returns the one that counts: the first that was kept under this key."""
        with self._lock, self._base:
            self._base.execute(
                "INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?)",
                (key, reply.text, reply.prompt_tokens, reply.completion_tokens),
            )
        kept = self.get(key)
        assert kept is not None  # nosec B101 # for the type checker
        return kept

    def close(self) -> None:
        """Close the file."""
        self._base.close()


def reply_key(model: str, messages: list[dict[str, str]], max_tokens: int, attempt: int) -> str:
    """A hash of what decides a reply: the judge, every word it is asked, the limit, and which reading this is.

    Args:
        model: The judge's name.
        messages: What it is asked; the version of our prompts stands in their words.
        max_tokens: Longest reply.
        attempt: 0, or the number of unreadable replies to the same question before it.
    """
    return hashlib.sha256(json.dumps([model, messages, max_tokens, attempt]).encode()).hexdigest()

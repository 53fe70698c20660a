"""Operations on the words of a command line that need no parser: one form for all flags, and dropping flags."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Collection, Iterator
from typing import Any, NoReturn


class UsageError(Exception):
    """A command line or configuration file that cannot be parsed; the message says where, and what to write instead."""


class UsageParser(argparse.ArgumentParser):
    """A parser that raises UsageError instead of printing the usage and exiting."""

    def error(self, message: str) -> NoReturn:
        """Raises UsageError."""
        raise UsageError(with_example(message))


def with_example(message: str) -> str:
    """Argparse's message, with an example where a value has the wrong type."""
    examples = {
        "float": "a number, such as 0.5",
        "int": "a whole number, such as 1",
        "object": "a JSON object, such as '{\"name\": 1}', or a mapping in the YAML file",
    }
    found = re.search(r": invalid (\w+) value: ", message)
    example = examples.get(found[1]) if found else None
    return f"{message}. Fix: give {example}" if example else message


def split_by_stage(arguments: list[str], number: int, stages: int) -> tuple[list[str], list[str]]:
    """The arguments common to all stages, and those of one stage (`--2.flag value`, as `--flag value`)."""
    common: list[str] = []
    own: list[str] = []
    into: list[str] | None = common
    for word in arguments:
        match = re.match(r"--(\d+)\.(.+)$", word)
        if match and not 1 <= int(match[1]) <= stages:
            raise UsageError(f"{word}: there is no stage {match[1]}; the method has {stages}.")
        if match:
            into = own if int(match[1]) == number else None
            word = f"--{match[2]}"
        elif word.startswith("--"):
            into = common
        if into is not None:
            into.append(word)
    return common, own


def drop_flags(words: list[str], elsewhere: set[str]) -> list[str]:
    """`words` without the flags in `elsewhere` and their values."""
    kept, dropping = [], False
    for word in words:
        if word.startswith("--"):
            dropping = word in elsewhere
        if not dropping:
            kept.append(word)
    return kept


def drop_words(arguments: list[str], launch: list[str]) -> list[str]:
    """`arguments` without the words of `launch`, which occur in them in the same order."""
    rest, taken = [], list(launch)
    for word in arguments:
        if taken and word == taken[0]:
            taken.pop(0)
        else:
            rest.append(word)
    return rest


def split_equals(arguments: list[str]) -> list[str]:
    """Splits `--flag=value` into two words."""
    return [part for word in arguments for part in _halves(word)]


def normalised_words(arguments: list[str]) -> list[str]:
    """Like `split_equals`, with flags in underscores; argparse takes `--test-rows` for `--test_rows` only if told."""
    return [
        word.replace("-", "_").replace("__", "--", 1) if word.startswith("--") else word
        for word in split_equals(arguments)
    ]


def _halves(word: str) -> Iterator[str]:
    match = re.match(r"(--[\w.-]+)=(.*)$", word, re.DOTALL)
    yield from match.groups() if match else (word,)


def value_of(arguments: list[str], flag: str) -> str | None:
    """The word after a flag; None if the flag is not given."""
    if flag not in arguments:
        return None
    position = arguments.index(flag) + 1
    if position == len(arguments):
        raise UsageError(f"{flag} needs a value.")
    return arguments[position]


def expand_home(value: Any) -> Any:
    """Expands a path that begins with ~/, also in a list; anything else is unchanged."""
    if isinstance(value, list):
        return [expand_home(one) for one in value]
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~/") else value


def named(text: str, known: Collection[str]) -> list[str]:
    """Splits a comma-separated list of names; a known name may contain commas, and the longest match is used."""
    parts, names = [part.strip() for part in text.split(",") if part.strip()], []
    while parts:
        size = next((n for n in range(len(parts), 1, -1) if ", ".join(parts[:n]) in known), 1)
        names.append(", ".join(parts[:size]))
        del parts[:size]
    return names

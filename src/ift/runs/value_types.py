"""Types of flags and YAML keys where those of argparse accept what no setting can be."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

JSON_FILES = ("accelerator_config", "deepspeed", "fsdp_config")  # settings that may also be a file's name


def narrow_types(parser: argparse.ArgumentParser, mappings: Collection[str]) -> None:
    """Lets the parser refuse numbers that are not finite, and text for `mappings` that is no JSON object."""
    for action in parser._actions:
        if action.type is float:
            action.type = finite
        elif action.dest in mappings:
            action.type = object_or_file if action.dest in JSON_FILES else json_object


def is_valid(kind: Any, text: str) -> bool:
    """Whether a type of argparse takes a text."""
    try:
        kind(text)
    except (ValueError, TypeError, argparse.ArgumentTypeError):
        return False
    return True


def finite(text: str) -> float:
    """A number; raises ArgumentTypeError for inf, nan and what is no number."""
    if not is_valid(float, text) or not math.isfinite(float(text)):
        raise argparse.ArgumentTypeError(f"invalid float value: {text!r}")
    return float(text)


def json_object(text: str) -> str:
    """The text, which transformers parses; raises ArgumentTypeError if it is no JSON object."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"invalid object value: {text!r}")
    return text


def object_or_file(text: str) -> str:
    """The text, a JSON object or the name of a file that exists; empty is off."""
    if text and not Path(text).is_file() and not is_valid(json_object, text):
        raise argparse.ArgumentTypeError(f"invalid object value: {text!r}, which is no file either")
    return text

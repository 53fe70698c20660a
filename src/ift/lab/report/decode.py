"""Converts JSON values to typed dataclasses and back; checks every key and type, and names the place in errors."""

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from ift.text import did_you_mean

T = TypeVar("T")
_NAMES = {float: "a finite number", int: "a whole number", str: "a text", bool: "true or false"}


class ReportError(ValueError):
    """Records cannot be read, saved or compared. The message has the file, the key, what was found, and the fix."""


def decode(kind: type[T], value: object, place: str = "") -> T:
    """Make a dataclass, with nested values of the annotated types, from the output of `json.loads`.

    `place` has the keys that lead to the value, such as `scores.test`, for messages.

    Raises:
        ReportError: A key is unknown or missing, or a value has another type.
    """
    if not isinstance(value, dict):
        raise _wrong(place or "the file", value, "an object {...}")
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    for key in value:
        if key not in known:
            hint = did_you_mean(str(key), known, repr) or f"; known: {', '.join(known)}"
            raise ReportError(f"{_join(place, key)}: unknown key{hint}")
    hints = get_type_hints(kind)
    found: dict[str, Any] = {}
    for name, field in known.items():
        if name in value:
            found[name] = _decode(hints[name], value[name], _join(place, name))
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ReportError(f"{_join(place, name)}: this key is missing; add it")
    return kind(**found)


def _decode(kind: Any, value: object, place: str) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        choices = [choice for choice in inner if choice is not type(None)]
        if len(choices) == 1:
            return _decode(choices[0], value, place)
        for choice in sorted(choices, key=lambda choice: type(value) is not choice):  # 10 stays whole
            try:
                return _decode(choice, value, place)
            except ReportError:
                continue
        expected = " or ".join(_NAMES.get(choice, "a list [...]") for choice in choices)
        raise _wrong(place, value, expected)
    if origin is list:
        if not isinstance(value, list):
            raise _wrong(place, value, "a list [...]")
        return [_decode(inner[0], one, f"{place}[{index}]") for index, one in enumerate(value)]
    if origin is dict:
        if not isinstance(value, dict):
            raise _wrong(place, value, "an object {...}")
        return {key: _decode(inner[1], one, _join(place, key)) for key, one in value.items()}
    if is_dataclass(kind) and isinstance(kind, type):
        return decode(kind, value, place)
    return _scalar(kind, value, place)


def _scalar(kind: Any, value: object, place: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
        raise _wrong(place, value, _NAMES[kind])
    return value


def encode(value: object, place: str = "") -> Any:
    """Convert dataclasses, mappings, sequences and scalars to JSON values; a number that is not finite becomes null.

    Raises:
        ReportError: A value has another type, such as a tensor, or a key is not a text.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: encode(getattr(value, one.name), _join(place, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ReportError(f"{_join(place, key)}: the key is {type(key).__name__}; make it a text")
        return {key: encode(one, _join(place, key)) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [encode(one, f"{place}[{index}]") for index, one in enumerate(value)]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    raise ReportError(f"{place}: found {type(value).__name__}; give a plain number, text, list or object")


def _join(place: str, key: object) -> str:
    return f"{place}.{key}" if place else str(key)


def _wrong(place: str, value: object, expected: str) -> ReportError:
    shown = repr(value)
    return ReportError(f"{place}: found {shown if len(shown) <= 60 else shown[:57] + '...'}; give {expected}")

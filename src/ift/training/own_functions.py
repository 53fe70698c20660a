"""Functions of the user's own that replace a part of the step, as attributes of a trainer or in its class."""

from __future__ import annotations

import inspect
from functools import partial
from types import FunctionType
from typing import Any

PARAMETERS = {  # attribute of an `IFTTrainer` -> what its function is called with
    "token_weights": ("losses", "layout"),
    "change_guess": ("guess", "input_ids", "layout", "settings"),
    "score_tokens": ("hidden", "head", "targets"),
}


def use_functions_of_class(trainer: Any) -> None:
    """Lets each function in the class of a trainer be called as it is written: as a plain function or as a method.

    Python would pass the trainer to each of them. A function whose first parameter is `self` stays a method; any other
    becomes an attribute of the trainer, which is called with the parameters of `PARAMETERS` alone.

    Raises:
        ValueError: An attribute is no function, or takes other parameters.
    """
    for name, parameters in PARAMETERS.items():
        function, in_class = getattr(trainer, name), inspect.getattr_static(trainer, name)
        if function is None:
            continue
        bound = name not in vars(trainer) and isinstance(in_class, FunctionType | partial)
        if bound and "self" not in _names(in_class)[:1]:
            function = in_class
            setattr(trainer, name, function)
        place, expected = f"the attribute {name} of {type(trainer).__name__}", ", ".join(parameters)
        if not callable(function):
            more = "; IFTConfig(token_weights=...) takes FILE.py:function" if name == "token_weights" else ""
            raise ValueError(
                f"{place} is {function!r}; expected a function of ({expected}). Fix: give the function itself{more}"
            )
        if not _takes(function, len(parameters)):
            raise ValueError(
                f"{place} is a function of ({', '.join(_names(in_class))}); expected one of ({expected}), or a method, "
                "whose first parameter is self. Fix: define it with these parameters"
            )


def _names(function: Any) -> list[str]:
    """The names of the parameters of a function; empty if Python does not know them."""
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def _takes(function: Any, count: int) -> bool:
    """Whether a function can be called with this number of arguments; true if Python does not know."""
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    except ValueError:
        return True
    return True

"""The arguments of `ift train`: trl's grammar (flags and flat YAML, flags win), with typos refused by name and line."""

from __future__ import annotations

import argparse
import difflib
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml
from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, TrlParser

from ift.config import IFTConfig
from ift.data.formats import parse_columns


class UsageError(Exception):
    """A command line or configuration file that cannot be read; the message says where and what to write instead."""


@dataclass
class ColumnArguments:
    """How columns with other names are read."""

    dataset_columns: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Columns to rename before the format is detected: question=prompt answer=completion."
        },
    )


@dataclass
class TrainArguments:
    """Everything `ift train` was told.

    Attributes:
        script: trl's ScriptArguments (data set name, splits).
        config: the IFTConfig.
        model: trl's ModelConfig (model, LoRA, quantisation).
        mixture: trl's DatasetMixtureConfig (`datasets:` of a YAML file).
        columns: column name -> the name ift knows.
        launch: what belongs to `accelerate launch`.
        words: the command line without it: what each process is started with.
    """

    script: Any
    config: IFTConfig
    model: Any
    mixture: Any
    columns: dict[str, str]
    launch: list[str]
    words: list[str]


class Parser(TrlParser):
    """trl's parser, whose errors are short UsageErrors; it checks the types of YAML values, with file and line."""

    nodes: dict[str, yaml.Node] = {}  # noqa: RUF012 (replaced, never changed)
    file: str | None = None

    def set_defaults_with_config(self, **kwargs: Any) -> list[str]:
        """Check the values of the YAML file before they become defaults."""
        actions = {action.dest: action for action in self._actions}
        checked = {key: self._checked(actions[key], kwargs[key]) for key in kwargs if key in actions}
        return super().set_defaults_with_config(**{**kwargs, **checked})

    def _checked(self, action: argparse.Action, value: Any) -> Any:
        """`value` as the flag would read it: argparse takes what is no string unseen."""
        kind: Any = action.type or str
        many, choices = action.nargs in ("+", "*"), list(action.choices or [])
        if value is None or isinstance(value, dict) or (isinstance(value, list) and (many or kind is str)):
            return value
        if isinstance(value, bool) and (choices or kind is str):  # YAML takes `no` for false
            value = self.nodes[action.dest].value
        if not _reads(kind, str(value)) or (choices and kind(str(value)) not in choices):
            wanted = ("true or false", "true"), ("a number", "0.5"), ("a whole number", "1")
            fits = [words for words, example in wanted if _reads(kind, example)]
            wish = f"one of {', '.join(map(str, choices))}" if choices else fits[0]
            line = self.nodes[action.dest].start_mark.line + 1
            raise UsageError(f"{self.file}, line {line}: {action.dest} is {value!r}; give {wish}.")
        return [kind(str(value))] if many else kind(str(value))

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage of some 300 flags."""
        raise UsageError(message)


def _reads(kind: Any, text: str) -> bool:
    try:
        kind(text)
    except (ValueError, TypeError, argparse.ArgumentTypeError):
        return False
    return True


def make_parser() -> Parser:
    """The parser of `ift train`, for flags and YAML keys alike."""
    kinds = (ScriptArguments, IFTConfig, ModelConfig, DatasetMixtureConfig, ColumnArguments)
    return Parser(kinds, prog="ift train", allow_abbrev=False, add_help=False)


def parse(arguments: list[str]) -> TrainArguments:
    """Read the command line and the YAML file that it may name.

    Raises:
        UsageError: unknown flag or key (with a suggestion, and the file and line), wrong type, value out of range,
            options in conflict.
    """
    # trl warns of its own default: filtered here, where every verb that trains comes by
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing", category=FutureWarning)
    parser = make_parser()
    arguments = _split_equals(arguments)
    config_file = _value_of(arguments, "--config")
    parser.file, parser.nodes = config_file, top_level(Path(config_file)) if config_file else {}
    lines = {key: node.start_mark.line + 1 for key, node in parser.nodes.items()}
    try:
        *parsed, from_file, from_flags = parser.parse_args_and_config(
            arguments, return_remaining_strings=True, separate_remaining_strings=True
        )
        launch = _launch_flags(parser, from_file, lines, config_file) + _launch_flags(parser, from_flags)
        words = _without(arguments, from_flags)
        renamed = parse_columns(parsed[-1].dataset_columns)
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from error
    script, config, model, mixture, _ = parsed
    if model.model_name_or_path is None:
        raise UsageError("no model: give --model_name_or_path, a Hub id or a local folder.")
    if script.dataset_name is None and not mixture.datasets:
        raise UsageError(
            "no data: give --dataset_name (a Hub id, a folder or a file), or `datasets:` in the YAML file."
        )
    return TrainArguments(script, config, model, mixture, renamed, launch, words)


def top_level(path: Path) -> dict[str, yaml.Node]:
    """The value node of every top-level key of a YAML file; raises UsageError for one that is no flat mapping."""
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(node, yaml.MappingNode):
        raise UsageError(f"--config {path} must hold `key: value` lines.")
    found: dict[str, yaml.Node] = {}
    for key, value in node.value:
        if key.value in found:
            first = found[key.value].start_mark.line + 1
            raise UsageError(
                f"{path}, line {key.start_mark.line + 1}: {key.value} was already set on line {first}; keep one."
            )
        found[key.value] = value
    return found


def _without(arguments: list[str], launch: list[str]) -> list[str]:
    """`arguments` without `launch`, which stands in them in order."""
    rest, taken = [], list(launch)
    for word in arguments:
        if taken and word == taken[0]:
            taken.pop(0)
        else:
            rest.append(word)
    return rest


def _launch_flags(
    parser: Parser, words: list[str], lines: dict[str, int] | None = None, file: str | None = None
) -> list[str]:
    """`words` if all of them are accelerate's launch flags and their values; UsageError for the first that is not."""
    from accelerate.commands.launch import launch_command_parser

    known = {name: action for action in launch_command_parser()._actions for name in action.option_strings}
    known["--accelerate_config"] = argparse.Action(["--accelerate_config"], "accelerate_config")
    kept: list[str] = []
    values = 0  # words that may still belong to the flag before
    for word in words:
        if word.startswith("--") and word in known:
            values = 0 if known[word].nargs == 0 else 1
        elif lines is not None and not values and word in ("True", "False"):  # a switch of the YAML file
            kept = kept if word == "True" else kept[:-1]
            continue
        elif word.startswith("--") or not values:
            options = [*parser._option_string_actions, *known]
            raise UsageError(_unknown(word, options, lines, file))
        else:
            values = 0
        kept.append(word)
    return kept


def _unknown(word: str, options: list[str], lines: dict[str, int] | None, file: str | None) -> str:
    key = word.lstrip("-")
    near = difflib.get_close_matches(key, [option.lstrip("-") for option in options], n=1, cutoff=0.6)
    if lines is not None and key in lines:
        where, dashes = f"{file}, line {lines[key]}: unknown key {key!r}", ""
    elif not word.startswith("-"):
        return f"{word!r} does not belong to any flag."
    else:
        where, dashes = f"unknown flag {word}", "--"
    return where + (
        f"; did you mean {dashes}{near[0]}?" if near else "; `ift train --help-all` lists them all."
    )


def _split_equals(arguments: list[str]) -> list[str]:
    """`--flag=value` as two words."""
    return [part for word in arguments for part in _halves(word)]


def _halves(word: str) -> Iterator[str]:
    match = re.match(r"(--[\w-]+)=(.*)$", word, re.DOTALL)
    yield from match.groups() if match else (word,)


def _value_of(arguments: list[str], flag: str) -> str | None:
    if flag not in arguments:
        return None
    position = arguments.index(flag) + 1
    if position == len(arguments):
        raise UsageError(f"{flag} needs a value.")
    return arguments[position]

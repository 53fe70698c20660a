"""Parses the YAML file of `--config` without executing anything; errors name the line."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from ift.data.errors import DataError
from ift.data.formats import parse_columns
from ift.runs.argv import UsageError, UsageParser, expand_home


def parse_yaml_file(path: Path) -> dict[str, yaml.Node]:
    """The value node of every top-level key of a YAML file.

    Raises:
        UsageError: The file cannot be read, is not a mapping, has a key that is no text, or sets a key twice, at any
            depth.
    """
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        if node is not None:
            yaml.SafeLoader("").construct_document(node)  # raises for tags such as !!python/...
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"--config {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(node, yaml.MappingNode):
        raise UsageError(f"--config {path} must hold `key: value` lines.")
    _refuse_repeated_keys(path, node)
    for key, _ in node.value:
        if key.tag != "tag:yaml.org,2002:str":
            read = yaml.SafeLoader("").construct_object(key)
            place = f"{path}, line {key.start_mark.line + 1}"
            raise UsageError(f"{place}: YAML reads the key {key.value} as {read!r}; write it in quotes.")
    return {key.value: value for key, value in node.value}


def text_as_written(node: yaml.Node, value: Any) -> Any:
    """The text of a value as it is in the file (also in a list), for settings that are strings; null stays null.

    YAML 1.1 parses 2024_10_05 as a number, 1.10 as 1.1 and 010 as 8.
    """
    if isinstance(value, str) or value is None:
        return value
    if isinstance(node, yaml.ScalarNode):
        return node.value
    if isinstance(node, yaml.SequenceNode) and isinstance(value, list):
        return [text_as_written(child, one) for child, one in zip(node.value, value, strict=True)]
    return value


def flags_in_file(path: str, names: Collection[str], parser: UsageParser) -> list[str]:
    """The words of a command line that the keys `names` of a YAML file stand for; a list becomes `a,b`.

    Raises:
        UsageError: The file cannot be parsed, or `parser` refuses a value; the message names the line.
    """
    words: list[str] = []
    for name, node in parse_yaml_file(Path(path)).items():
        if name not in names:
            continue
        value = yaml.SafeLoader("").construct_document(node)
        if value is None or value is False:
            continue
        value = expand_home(text_as_written(node, value)) if value is not True else True
        parts = value if isinstance(value, list) else [value]
        flag = [f"--{name}"] if value is True else [f"--{name}={','.join(map(str, parts))}"]
        try:
            parser.parse_known_args(flag)
        except UsageError as error:
            raise UsageError(f"{path}, line {node.start_mark.line + 1}: {error}") from error
        words += flag
    return words


def parse_renaming(node: yaml.Node, file: str | None) -> dict[str, str]:
    """The new names of `dataset_columns:`, by old name: a mapping, a list of `old=new`, or one `old=new`.

    Raises:
        DataError: A name is no text or is missing, or occurs twice; the message names file and line.
    """
    where = f"{file}, line {node.start_mark.line + 1}: dataset_columns"
    if isinstance(node, yaml.MappingNode):
        children = [one for pair in node.value for one in pair]
    else:
        children = node.value if isinstance(node, yaml.SequenceNode) else [node]
    if not all(isinstance(one, yaml.ScalarNode) for one in children):
        fix = "Fix: write {question: instruction, answer: output}"
        raise DataError(f"{where}: found a list or a mapping in place of a name. {fix}")
    names = [one.value for one in children]
    if isinstance(node, yaml.MappingNode):
        return parse_columns(dict(zip(names[::2], names[1::2], strict=True)), where)
    return parse_columns(names, where)


def _refuse_repeated_keys(path: Path, node: yaml.Node) -> None:
    """Raises UsageError for a repeated key; YAML would silently keep the last."""
    waiting, seen = [node], set()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:  # with aliases a node may contain itself
            continue
        seen.add(id(one))
        first: dict[str, int] = {}
        for child in one.value if isinstance(one, yaml.MappingNode | yaml.SequenceNode) else ():
            if isinstance(one, yaml.SequenceNode):
                waiting.append(child)
                continue
            key, value = child
            line = key.start_mark.line + 1
            if key.value in first:
                raise UsageError(
                    f"{path}, line {line}: {key.value} was already set on line {first[key.value]}; keep one."
                )
            if isinstance(key, yaml.ScalarNode):
                first[key.value] = line
            waiting.append(value)

"""The YAML file of `--config`, parsed without executing anything; errors name the line."""

from __future__ import annotations

from pathlib import Path

import yaml

from ift.runs.argv import UsageError


def top_level(path: Path) -> dict[str, yaml.Node]:
    """The value node of every top-level key of a YAML file.

    Raises:
        UsageError: A file that cannot be read, is not a mapping, or sets a key twice, at any depth.
    """
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        if node is not None:
            yaml.SafeLoader("").construct_document(
                node
            )  # refuses tags that are not plain data (!!python/...)
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"--config {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(node, yaml.MappingNode):
        raise UsageError(f"--config {path} must hold `key: value` lines.")
    _refuse_repeated_keys(path, node)
    return {key.value: value for key, value in node.value}


def _refuse_repeated_keys(path: Path, node: yaml.Node) -> None:
    """Raise UsageError for a repeated key, of which YAML silently keeps the last."""
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

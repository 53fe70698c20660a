"""Unknown flags and keys: their messages, and a check of names that needs neither torch nor trl.

Importing the dataclasses of trl and transformers takes seconds, so their fields are first read from the source files.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

import yaml

from ift.methods.table import METHODS, Method, parse_methods
from ift.runs.argv import UsageError, split_equals, value_of
from ift.runs.foreign_files import foreign_tool
from ift.runs.removed import REMOVED
from ift.runs.yaml_file import parse_yaml_file
from ift.text import did_you_mean
from ift.training.other_tools import suggest_equivalent

FIELD, OPTION = r"^    (\w+): ", r"\"--(\w[\w-]*)\""
SOURCES = (  # where the names that `ift train` takes for methods with the settings of IFT are defined
    ("transformers", "training_args.py", FIELD),
    ("trl", "trainer/base_config.py", FIELD),
    ("trl", "trainer/sft_config.py", FIELD),
    ("trl", "trainer/model_config.py", FIELD),
    ("trl", "scripts/utils.py", FIELD),
    ("accelerate", "commands/launch.py", OPTION),
    ("ift", "training/config.py", FIELD),
    ("ift", "runs/arguments.py", FIELD),
    ("ift", "generation/during_training.py", FIELD),
)
WITHOUT_A_FIELD = {"config", "env", "accelerate_config", "help", "help_all", "debug"}
SHORTEST_PREFIX = 4


def refuse_unknown_names(arguments: list[str]) -> None:
    """Refuses flags that `ift train` does not have, as its parser would, but at once.

    What this lets through, the parser decides: names of other methods' settings, all values, and a command line with a
    YAML file, whose unknown keys it names together with its wrong values.

    Raises:
        UsageError: An unknown method or flag, or a YAML file that cannot be parsed or is another tool's.
    """
    words = split_equals(arguments)
    file = value_of(words, "--config")
    nodes = parse_yaml_file(Path(file).expanduser()) if file else {}
    refuse_foreign_file(file, nodes)
    methods = wanted_methods(words, nodes)
    known = known_names()
    if file or not known or any(method.config != METHODS["ift"].config for method in methods):
        return
    problems = []
    for word in words:
        flag = re.sub(r"^--\d+\.", "--", word)  # of a stage
        name = flag.lstrip("-").replace("-", "_")
        if word.startswith("--") and name not in known and name.removeprefix("no_") not in known:
            problems.append(unknown(flag, known, None, None))
    if problems:
        raise UsageError("\n".join(problems))


def wanted_methods(arguments: list[str], nodes: dict[str, yaml.Node] | None = None) -> tuple[Method, ...]:
    """The methods named on the command line, else in the YAML file, else `ift`."""
    written = nodes["method"].value if nodes and "method" in nodes else "ift"
    try:
        return parse_methods(str(value_of(arguments, "--method") or written))
    except ValueError as error:
        raise UsageError(str(error)) from error


def known_names() -> set[str]:
    """Names of flags, with underscores; empty if a source file is not where it is expected."""
    found = set(WITHOUT_A_FIELD)
    for package, path, pattern in SOURCES:
        spec = importlib.util.find_spec(package)  # imports nothing
        if spec is None or spec.origin is None or not (file := Path(spec.origin).parent / path).is_file():
            return set()
        found |= {
            name.replace("-", "_")
            for name in re.findall(pattern, file.read_text(encoding="utf-8"), re.MULTILINE)
        }
    return found


def refuse_foreign_file(file: str | None, nodes: dict[str, yaml.Node]) -> None:
    """Raises UsageError for a configuration file of another tool, with the command that converts it."""
    if found := foreign_tool(nodes.keys()):
        tool, signs = found
        raise UsageError(
            f"{file} is a configuration of {tool} ({', '.join(signs)}). Convert it first: ift convert-config {file} "
            "--output ift.yaml"
        )


def unknown(word: str, options: Iterable[str], lines: dict[str, int] | None, file: str | None) -> str:
    """The message for an unknown flag, or for an unknown key on one of the `lines` of a file."""
    key = word.lstrip("-")
    name = key.replace("-", "_")
    if word.startswith("--") and name in REMOVED:
        place = f"{file}, line {lines[key]}: {key}" if lines is not None and key in lines else word
        return f"{place}: {REMOVED[name]}"
    if lines is not None and key in lines:
        where, dashes = f"{file}, line {lines[key]}: unknown key {key!r}", ""
    elif not word.startswith("-"):
        return f"{word!r} does not belong to any flag."
    else:
        where, dashes = f"unknown flag {word}", "--"
    names = sorted({option.lstrip("-") for option in options})
    hint = suggest_equivalent(key, dashes) or did_you_mean(key, names, lambda near: dashes + near)
    begun = [one for one in names if one.startswith(name)] if len(name) >= SHORTEST_PREFIX else []
    if not hint and len(begun) == 1:
        hint = f"; did you mean {dashes}{begun[0]}?"
    return where + (hint or "; `ift train --help-all` lists them all.")


def launch_flags(
    options: set[str], words: list[str], lines: dict[str, int] | None = None, file: str | None = None
) -> tuple[list[str], list[str]]:
    """The words that are accelerate's launch flags (with underscores) and their values, and messages for all others."""
    from accelerate.commands.launch import launch_command_parser

    known = {name: action for action in launch_command_parser()._actions for name in action.option_strings}
    known["--accelerate_config"] = argparse.Action(["--accelerate_config"], "accelerate_config")
    kept: list[str] = []
    problems: list[str] = []
    values = 0  # words that may still be values of the last flag
    refused = False  # whether the last flag is unknown, and its values are passed over
    for given in words:
        word = "--" + given[2:].replace("-", "_") if given.startswith("--") else given
        word = word if word in known else given
        if word.startswith("--") and word in known:
            values, refused = 0 if known[word].nargs == 0 else 1, False
        elif refused and not word.startswith("--"):
            continue
        elif lines is not None and not values and word in ("True", "False"):  # a switch of the YAML file
            kept = kept if word == "True" else kept[:-1]
            continue
        elif word.startswith("--") or not values:
            problems.append(unknown(word, [*options, *known], lines, file))
            refused = word.startswith("--")
            continue
        else:
            values = 0
        kept.append(word)
    return kept, problems


def last_given(launch: list[str]) -> list[str]:
    """Launch flags, each with the values that were given last; `--accelerate_config` and `--config_file` are one."""
    found: dict[str, list[str]] = {}
    name = ""
    for word in launch:
        if word.startswith("--"):
            name = "--accelerate_config" if word == "--config_file" else word
            found.pop(name, None)
            found[name] = []
        found[name].append(word)
    return [word for words in found.values() for word in words]

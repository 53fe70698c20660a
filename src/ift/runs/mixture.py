"""The entries of `datasets:` in a YAML file."""

from __future__ import annotations

from dataclasses import dataclass, fields

import yaml
from trl.scripts.utils import DatasetConfig

from ift.runs.argv import UsageError, expand_home
from ift.runs.yaml_file import parse_renaming, text_as_written
from ift.text import did_you_mean


@dataclass
class DatasetEntry(DatasetConfig):
    """An entry of a mixture: trl's, which can also rename columns.

    Attributes:
        dataset_columns: The columns to rename in this data set, old name -> new name; None for those of the run.
    """

    dataset_columns: dict[str, str] | None = None


def parse_mixture(node: yaml.Node, file: str) -> list[DatasetEntry]:
    """The entries of `datasets:`, with strings as they are in the file and fractions as numbers.

    Raises:
        UsageError: Entries are no mappings, or have unknown keys or invalid values; the message names each, with its
            line.
        DataError: Columns to rename are invalid; see `parse_renaming`.
    """
    known = [one.name for one in fields(DatasetEntry)]
    entries: list[DatasetEntry] = []
    problems: list[str] = []
    for child in node.value if isinstance(node, yaml.SequenceNode) else [node]:
        place = f"{file}, line {child.start_mark.line + 1}: datasets"
        if not isinstance(child, yaml.MappingNode):
            problems.append(f"{place}: give a list of entries such as `- path: rows.jsonl`.")
            continue
        entry = dict(yaml.SafeLoader("").construct_document(child))
        nodes = {key.value: one for key, one in child.value}
        wrong = [
            f"{file}, line {key.start_mark.line + 1}: datasets: unknown key {key.value!r}"
            + (did_you_mean(key.value, known) or f"; an entry has {', '.join(known)}.")
            for key, _ in child.value
            if key.value not in known
        ]
        if "path" not in nodes:
            wrong.append(f"{place}: an entry has no path; give `- path: rows.jsonl`.")
        for key in ("path", "name", "data_dir", "data_files", "split", "columns"):
            if key in entry:
                entry[key] = expand_home(text_as_written(nodes[key], entry[key]))
        if entry.get("dataset_columns") is not None:
            entry["dataset_columns"] = parse_renaming(nodes["dataset_columns"], file)
        if entry.get("fraction") is not None:
            try:
                entry["fraction"] = float(entry["fraction"])
            except (ValueError, TypeError):
                wrong.append(f"{place}: fraction is {entry['fraction']!r}; give a number.")
        problems += wrong
        if not wrong:
            entries.append(DatasetEntry(**entry))
    if problems:
        raise UsageError("\n".join(problems))
    return entries

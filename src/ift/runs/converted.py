"""What became of another tool's configuration file: its report, and the file for `ift train --config`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from ift.runs.harmless_names import is_harmless

LAUNCH = "ift train --config THIS_FILE --num_processes N, where N is the number of GPUs (not in the file)"


LONGEST_SHOWN = 300  # characters of a value


@dataclass
class Converted:
    """What became of a configuration file.

    Attributes:
        tool: A key of `SIGNS`.
        settings: For `ift train`.
        kept: Names with the same name and value here.
        translated: Name elsewhere -> the settings that it became.
        lost: Name elsewhere -> why there is none here.
        implied: Defaults of the other tool that were written out: name here -> (value, what ift does without it).
        differences: Sentences about defaults that no setting of the file takes over.
        empty: Names without a value.
        missing: What must be filled in by hand -> what it is, or why it is missing.
    """

    tool: str
    settings: dict[str, Any] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    translated: dict[str, dict[str, Any]] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    implied: dict[str, tuple[Any, str]] = field(default_factory=dict)
    differences: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def groups(self) -> dict[str, dict[str, str]]:
        """The lost names, with their reasons, in two groups: those that change what is trained come first."""
        harmless = {name: reason for name, reason in self.lost.items() if is_harmless(name, reason)}
        changing = {name: reason for name, reason in self.lost.items() if name not in harmless}
        return {
            "lost, and this changes what is trained": changing,
            "lost, but the training stays the same (speed, memory, logs, files, evaluation)": harmless,
        }

    def report(self) -> list[str]:
        """Lines for the user, one for every name that was not kept as it is."""
        lines = [f"kept: {', '.join(self.kept) or 'nothing'}"]
        results: dict[str, list[str]] = {}
        for name, found in self.translated.items():
            results.setdefault(_shown(found), []).append(name)
        lines += [f"translated: {', '.join(names)} -> {shown}" for shown, names in results.items()]
        lines += [
            f"written out, because it is {self.tool}'s default: {name}: {value} (ift's default: {here})"
            for name, (value, here) in self.implied.items()
        ]
        for heading, lost in self.groups.items():
            lines += [f"{heading} ({len(lost)}):"] if lost else []
            lines += [f"  {names}: {reason}" for reason, names in _by_reason(lost).items()]
        lines += [f"default that differs from {self.tool}'s: {one}" for one in self.differences]
        lines += [f"keys without a value: {', '.join(self.empty)}"] if self.empty else []
        lines += [f"launch with: {LAUNCH}"] if "accelerate_config" in self.settings else []
        return lines + [f"fill in: {name}, {what}" for name, what in self.missing.items()]

    def yaml_text(self, source: str) -> str:
        """The file for `ift train --config`, what was lost as comments at its end."""
        lines = [
            f"# From {source} ({self.tool}) by ift convert-config. Look at it, then: ift check --config THIS_FILE"
        ]
        lines += [f"# FILL IN: {name}, {what}" for name, what in self.missing.items()]
        lines += [f"# Launch with: {LAUNCH}"] if "accelerate_config" in self.settings else []
        lines.append(yaml.safe_dump(self.settings, sort_keys=False, width=110, allow_unicode=True).rstrip())
        lines += ["", f"# Defaults of {self.tool}: {', '.join(self.implied)}"] if self.implied else []
        for heading, lost in self.groups.items():
            lines += ["", f"# {heading.capitalize()}:"] if lost else []
            lines += [
                f"#   {names}: {' '.join(reason.split())}" for reason, names in _by_reason(lost).items()
            ]
        lines += ["", f"# Defaults that differ from {self.tool}'s:"] if self.differences else []
        return "\n".join([*lines, *(f"#   {one}" for one in self.differences)]) + "\n"


def _by_reason(lost: Mapping[str, str]) -> dict[str, str]:
    """Reason -> the names that are lost for it, in their order."""
    found: dict[str, list[str]] = {}
    for name, reason in lost.items():
        found.setdefault(str(reason), []).append(name)
    return {reason: ", ".join(names) for reason, names in found.items()}


def _shown(settings: Mapping[str, Any]) -> str:
    """Settings with their values; a long value is named, as the new file has it whole."""
    return ", ".join(
        f"{name}: {value}" if len(str(value)) <= LONGEST_SHOWN else f"{name} (long: see the new YAML)"
        for name, value in settings.items()
    )

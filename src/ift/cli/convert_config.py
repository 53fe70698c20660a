"""`ift convert-config FILE`: a configuration of another tool as a file for `ift train --config`."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from ift.runs.argv import UsageError


def main(file: Path, output: Path | None, method: str | None) -> int:
    """Converts, writes the YAML to `output` or standard output and the report to standard error; returns the exit code.

    Raises:
        UsageError: The file cannot be converted.
        ValueError: `output` cannot be written.
    """
    from ift.files import check_target, write_atomically
    from ift.runs.convert_config import convert_file
    from ift.text import visible

    if output is not None:
        check_target(output, [file])
    found = convert_file(file, method)
    text = found.yaml_text(file.name)
    if output is None:
        print(text, end="")
    else:
        if output.exists():
            raise UsageError(f"--output {output}: this file exists. Fix: name another one, or delete it")
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(output, text)
    for line in [f"{file}: {found.tool}", *found.report()]:
        print(visible(line), file=sys.stderr)
    if output is not None:
        print(f"written: {output}; next: ift check --config {output}", file=sys.stderr)
    return 0


def command(
    file: str = typer.Argument(help="YAML of Axolotl, LLaMA-Factory, alignment-handbook, trl or unsloth."),
    output: str = typer.Option(None, "--output", help="File to write (default: standard output)."),
    method: str = typer.Option(None, "--method", help="Method to train instead of the file's (sft: ift)."),
) -> int:
    """Convert a configuration of another tool: each key is kept, translated, or named as lost."""
    target = None if output is None else Path(output).expanduser()
    return main(Path(file).expanduser(), target, method)

"""`ift report`: run records as tables, figures and one HTML page, or packed into one file; curves of training runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from ift.runs.argv import UsageError
from ift.runs.extras import needs_extra
from ift.text import counted


def main(
    runs: list[str], output_dir: str, baseline: str | None, methods: str | None, metric: str | None
) -> int:
    """Writes the report of records, or of training runs, to `output_dir`; returns the exit code."""
    needs_extra("report", "matplotlib")
    from ift.files import check_target
    from ift.lab.report.training_runs import training_folders, write_training_report
    from ift.lab.report.writing import write

    out = Path(output_dir).expanduser()
    page = out / "report.md"
    check_target(page, replaces=lambda start: start.startswith((b"# Report\n", b"# Training runs\n")))
    if folders := training_folders(runs):
        _refuse(
            {"baseline": baseline, "methods": methods, "metric": metric},
            "is for records of ift compare, and these are training runs: leave it out",
        )
        print("\n".join(write_training_report(folders, out)))
        return 0
    print("\n".join(write(runs, out, baseline, methods, metric)))
    return 0


def main_pack(runs: list[str], path: str, points: int | None, samples: int | None) -> int:
    """Packs the records into one file; returns the exit code."""
    from ift.files import check_target
    from ift.lab.report import pack
    from ift.lab.report.study import POINTS

    file = Path(path).expanduser()
    check_target(file, replaces=lambda start: b'"format":"ift-run"' in start.replace(b" ", b""))
    count = pack(runs, file, POINTS if points is None else points, samples)
    print(f"{file}: {counted(count, 'run')}, {file.stat().st_size:,} bytes")
    return 0


def command(
    runs: Annotated[
        list[str],
        typer.Argument(help="Run records, packed files, folders, or runs of ift train."),
    ],
    output_dir: str = typer.Option(None, "--output_dir", help="Folder for the report (default: ift-report)."),
    baseline: str = typer.Option(None, help="Method to compare the others with (default: sft, if present)."),
    methods: str = typer.Option(None, help="Methods to show, in this order, such as sft,ift (default: all)."),
    metric: str = typer.Option(
        None,
        help="Score to plot and to compare (default: exact_match if the records have it, else the study's own score).",
    ),
    pack: str = typer.Option(
        None, help="Pack the records into this .jsonl file instead of writing a report."
    ),
    pack_points: int = typer.Option(None, "--pack_points", help="Points of each packed curve (default: 50)."),
    pack_samples: int = typer.Option(
        None, "--pack_samples", help="Problems per split whose answers are packed (default: all)."
    ),
) -> int:
    """Turn run records into tables, figures and one HTML page, or pack them into one file."""
    of_report = {"output_dir": output_dir, "baseline": baseline, "methods": methods, "metric": metric}
    of_pack = {"pack_points": pack_points, "pack_samples": pack_samples}
    if pack is None:
        _refuse(of_pack, "needs --pack: give both, or leave it out")
        out = "ift-report" if output_dir is None else output_dir
        return main(runs, out, baseline, methods, metric)
    _refuse(of_report, "is for a report, and --pack writes none: leave it out")
    return main_pack(runs, pack, pack_points, pack_samples)


def _refuse(options: Mapping[str, object], why: str) -> None:
    for name, value in options.items():
        if value is not None:
            raise UsageError(f"--{name} {why}")

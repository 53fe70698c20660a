"""`ift report`: run records to tables, figures and one HTML page, or into one file."""

from __future__ import annotations

from pathlib import Path

from ift.runs.extras import needs_extra


def main(runs: list[str], output_dir: str, baseline: str | None, methods: str | None, metric: str) -> int:
    """Write the report into `output_dir`; returns the exit code."""
    from ift.lab.report.writing import write

    needs_extra("report", "matplotlib")
    print("\n".join(write(runs, Path(output_dir), baseline, methods, metric)))
    return 0


def main_pack(runs: list[str], path: str, points: int | None, samples: int | None) -> int:
    """Write the records into one file; returns the exit code."""
    from ift.lab.report import pack
    from ift.lab.report.study import POINTS

    file = Path(path)
    count = pack(runs, file, POINTS if points is None else points, samples)
    print(f"{file}: {count} run{'s' if count > 1 else ''}, {file.stat().st_size:,} bytes")
    return 0

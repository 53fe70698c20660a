"""`ift report`: run records to tables, figures and one HTML page, or into one file."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path


def main(runs: list[str], output_dir: str, baseline: str | None, methods: str | None, metric: str) -> int:
    """Write the report into `output_dir`; returns the exit code, 1 where the records allow none."""
    from ift.lab.report.writing import write
    from ift.runs.extras import needs_extra

    needs_extra("report", "matplotlib")
    return _told(lambda: write(runs, Path(output_dir), baseline, methods, metric))


def main_pack(runs: list[str], path: str, points: int | None, samples: int | None) -> int:
    """Write the records into one file; returns the exit code, 1 where they allow none."""
    from ift.lab.report import pack
    from ift.lab.report.study import POINTS

    def packed() -> list[str]:
        file = Path(path)
        count = pack(runs, file, POINTS if points is None else points, samples)
        return [f"{file}: {count} run{'s' if count > 1 else ''}, {file.stat().st_size:,} bytes"]

    return _told(packed)


def _told(make: Callable[[], list[str]]) -> int:
    """Print what `make` has to say, or what was wrong in one line; returns the exit code."""
    from ift.lab.report import ReportError

    try:
        written = make()
    except ReportError as error:
        print(f"ift report: {error}.", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"ift report: {error.filename}: {error.strerror}.", file=sys.stderr)
        return 1
    print("\n".join(written))
    return 0

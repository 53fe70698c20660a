"""`ift report`: run records to tables, figures and one HTML page."""

from __future__ import annotations

import sys
from pathlib import Path


def main(runs: list[str], output_dir: str, baseline: str | None, methods: str | None, metric: str) -> int:
    """Write the report into `output_dir`; returns the exit code, 1 where the records allow none."""
    from ift.lab.report import ReportError
    from ift.lab.report.writing import write

    try:
        written = write(runs, Path(output_dir), baseline, methods, metric)
    except ReportError as error:
        print(f"ift report: {error}.", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"ift report: {error.filename}: {error.strerror}.", file=sys.stderr)
        return 1
    print("\n".join(written))
    return 0

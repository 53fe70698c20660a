"""Turns run records into Markdown tables, figures and one self-contained HTML page (docs/report.md)."""

from ift.lab.report.decode import ReportError
from ift.lab.report.intervals import Estimate, mean_interval, paired_difference
from ift.lab.report.provenance import provenance
from ift.lab.report.records import (
    SCHEMA,
    Cost,
    DataSplit,
    Provenance,
    RunRecord,
    Sample,
    Trial,
    find,
    load,
    save,
)  # fmt: skip
from ift.lab.report.study import pack

__all__ = [
    "SCHEMA", "Cost", "DataSplit", "Estimate", "Provenance", "ReportError", "RunRecord", "Sample", "Trial",
    "find", "load", "mean_interval", "pack", "paired_difference", "provenance", "save",
]  # fmt: skip

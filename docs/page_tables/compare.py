"""The table of docs/compare.md that comes from the code."""

from __future__ import annotations

from ift.lab.compare.plan import FURTHER, PARTS
from page_tables import table


def variants() -> str:
    """The names of `ift ablate --variants`, and the flags of `ift train` that each stands for."""
    rows = []
    for one in (*PARTS, *FURTHER):
        flags = " ".join(f"--{name} {value}" for name, value in one.settings.items())
        rows.append([f"`{one.label}`", f"`{flags or f'--method {one.method}'}`"])
    return table(["variant", "flags of `ift train`"], rows)

"""The result of the check before a run."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

from ift.check.disk import Disk
from ift.check.engines import Engine
from ift.check.finding import Finding
from ift.check.memory_words import TIGHT
from ift.check.needs import MemoryEstimate
from ift.check.rows import RowScan
from ift.check.steps import Work


@dataclass(frozen=True)
class Preflight:
    """The result of the check before a run.

    Attributes:
        findings: In the order of the checks.
        scans: By data set.
        memory: None if no estimate is possible.
        available: Bytes of the device that a run can use.
        engine: What `memory` is divided by.
        work: Steps, rows and trained tokens of the run.
        gpu_memory: GiB of the GPU that is planned for; None for this machine's device.
        batch: The batch that `memory` assumes, in words.
        disk: What the run writes; None without an estimate.
        missing: What this machine lacks of a run that is planned for another one, each in some words.
    """

    findings: list[Finding]
    scans: dict[str, RowScan]
    memory: MemoryEstimate | None
    available: int
    engine: Engine
    work: Work
    gpu_memory: float | None = None
    batch: str = ""
    disk: Disk | None = None
    missing: tuple[str, ...] = ()

    @property
    def data_sha256(self) -> str:
        """Hash of the token ids of all training rows, in order."""
        digest = hashlib.sha256()
        for key in self.scans["train"].keys:
            digest.update(key)
        return digest.hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without the scans."""
        memory = self.memory
        return {
            "refused": self.refused,
            "findings": [asdict(one) for one in self.findings],
            "memory": None if memory is None else {**asdict(memory), "total": memory.total},
            "available_memory": self.available,
            "fits": self.fits,
            "memory_of": self.batch,
            "engine": asdict(self.engine),
            "steps": self.work.steps,
            "rows_per_step": self.work.rows_per_step,
            "trained_tokens_per_step": self.work.tokens_per_step,
            "trained_tokens": self.work.tokens,
            "disk": None if self.disk is None else {**asdict(self.disk), "total": self.disk.total},
            "missing": list(self.missing),
        }

    def memory_line(self) -> str:
        """The estimate and its batch, the available memory, and whether the step fits; empty without an estimate."""
        if self.memory is None:
            return ""
        each = f" on each device ({self.engine})" if self.engine.processes > 1 else ""
        share = self.memory.total / max(1, self.available)
        fits = "it fits" if share <= TIGHT else "it fits, but tightly" if share <= 1 else "it does not fit"
        of = "the free memory" if self.gpu_memory is None else f"a {self.gpu_memory:g} GB GPU"
        usable = f"{self.available / 2**30:.1f} GiB of {of} can be used"
        return f"memory{each}: {self.memory.summary()} {self.batch}; {usable}: {fits}"

    @property
    def fits(self) -> bool | None:
        """Whether a step fits into memory; None without an estimate."""
        return None if self.memory is None else self.memory.total <= self.available

    @property
    def refused(self) -> bool:
        """Whether the run must not start."""
        return any(one.level == "refused" for one in self.findings)

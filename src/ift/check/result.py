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
        flops: Floating-point operations of all steps; None if they are not known or were not counted.
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
    flops: float | None = None

    @property
    def data_sha256(self) -> str:
        """Hash of the token ids and labels of all training rows, in order; of pairs, of both sides."""
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
            "engine": {"name": self.engine.full_name, "processes": self.engine.processes},
            "steps": self.work.steps,
            "rows_per_step": self.work.rows_per_step,
            "trained_tokens_per_step": self.work.tokens_per_step,
            "trained_tokens": self.work.tokens,
            "flops": self.flops,
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

    def hours(self, tflops: float | None) -> float | None:
        """Hours of all steps on GPUs that sustain `tflops` TFLOP/s each; None without them or without a count."""
        if tflops is None or self.flops is None:
            return None
        return self.flops / (tflops * 1e12 * self.engine.processes) / 3600

    def compute_line(self, tflops: float | None) -> str:
        """The floating-point operations of the run, and the hours that they take or how to ask for them."""
        if self.flops is None or not self.work.steps:
            why = (
                "rows of a stream are not counted"
                if self.work.found is None
                else "this model cannot be counted"
            )
            return f"compute: not known, because {why}"
        counts = (
            f"about {self.flops:.2e} FLOPs in all, {self.flops / self.work.steps:.2e} a step, without padding"
        )
        hours = self.hours(tflops)
        if hours is None:
            return f"compute: {counts}; --gpu_tflops N adds the hours on GPUs that sustain N TFLOP/s each"
        minutes = f"{60 * hours:.2g} minutes" if hours > 1 / 60 else "less than a minute"
        time = f"{hours:,.1f} hours" if hours >= 1 else minutes
        gpus = self.engine.processes
        on = "one GPU that sustains" if gpus == 1 else f"{gpus} GPUs that each sustain"
        return f"compute: {counts}; {time} on {on} {tflops:g} TFLOP/s, without evaluation and saving"

    @property
    def fits(self) -> bool | None:
        """Whether a step fits into memory; None without an estimate."""
        return None if self.memory is None else self.memory.total <= self.available

    @property
    def refused(self) -> bool:
        """Whether the run must not start."""
        return any(one.level == "refused" for one in self.findings)

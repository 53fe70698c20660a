"""Records for docs/reliability.md, by the machinery of the tests.

    python benchmarks/reliability.py equality   # losses and gradients of one batch, however it is split: a minute
    python benchmarks/reliability.py kills      # a run that is killed twenty times: two minutes
    python benchmarks/reliability.py engines    # tests/engines, with DeepSpeed installed: half an hour

Writes docs/records/reliability/WHAT.json; `python docs/fill_tables.py` then fills the page.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / folder) for folder in ("docs", "tests/cli", "tests/training", "tests")]

from ift.lab.report.decode import encode  # noqa: E402
from ift.lab.report.provenance import provenance  # noqa: E402
from page_tables.reliability import (  # noqa: E402
    RECORDS,
    Case,
    EngineRecord,
    EqualityRecord,
    Kill,
    KillRecord,
)

KILLS = 20


def equality(folder: Path) -> EqualityRecord:
    """One process in other splits, then two processes, against one process that takes the batch at once."""
    from test_distributed import TOLERANCE

    return EqualityRecord(
        provenance=provenance(),
        tolerance=TOLERANCE,
        float32=rounding(),
        cases=[*splits(folder), *of_two_processes(folder)],
    )


def rounding() -> float:
    """The gradient of the plain run, in float32, against the float64 oracle."""
    from ift import ift_loss
    from models import double, gradient_gap, padded, tiny_model, uneven_rows
    from reference import ift_step

    model = tiny_model()
    batch = padded(*uneven_rows(model))
    ift_loss(model, batch).loss.backward()
    twin = double(model)
    ift_step(twin, **batch).loss.backward()
    ours, theirs = ({name: p.grad.double() for name, p in one.named_parameters()} for one in (model, twin))
    return gradient_gap(ours, theirs)


def splits(folder: Path) -> Iterator[Case]:
    """Rows a micro-batch x micro-batches, and packed, in one process."""
    from models import gradient_gap, tiny_model, trained, uneven_rows

    rows = uneven_rows(tiny_model())
    for reduction in ("sequence", "token"):

        def run(reduction: str = reduction, **options: Any) -> Any:
            name = f"{reduction} {options}"
            return trained(folder / name, tiny_model(), rows, loss_reduction=reduction, **options)

        whole = run()
        for batch, steps in ((4, 2), (2, 4), (1, 8)):
            other = run(per_device_train_batch_size=batch, gradient_accumulation_steps=steps)
            gap = gradient_gap(other.gradients[0], whole.gradients[0])
            yield Case(f"{batch} x {steps}", reduction, 1, loss_gap(other, whole), gap)
        other = run(packing=True, max_length=64)
        gap = gradient_gap(other.gradients[0], whole.gradients[0])
        yield Case("packed", reduction, 1, loss_gap(other, whole), gap)


def loss_gap(ours: Any, theirs: Any) -> float:
    """|difference| / loss of the first step of two trainers."""
    first, expected = (run.state.log_history[0]["loss"] for run in (ours, theirs))
    return abs(first - expected) / abs(expected)


def of_two_processes(folder: Path) -> Iterator[Case]:
    """The cases of tests/training/test_distributed.py."""
    import distributed_worker
    import two_processes
    from models import gradient_gap

    found = two_processes.of_two_processes(ROOT / "tests" / "distributed_worker.py", folder)
    for label in distributed_worker.NAMES:
        kind, _, name = label.partition(", ")
        two, one = found[label], distributed_worker.run_case(label, folder / "one" / label, 8)
        if kind == "DDP":
            ours, theirs = two["gradients"], one["gradients"]
            losses = [(a["loss"], b["loss"]) for a, b in zip(two["logs"], one["logs"], strict=True)]
        else:
            ours, theirs, losses = [two["gradients"]], [one["gradients"]], [(two["loss"], one["loss"])]
        gaps = [gradient_gap(a, b) for a, b in zip(ours, theirs, strict=True)]
        loss = max(abs(a - b) / abs(b) for a, b in losses)
        yield Case(f"{kind}, 2 processes", name, len(gaps), loss, max(gaps))


def kills(folder: Path) -> KillRecord:
    """A run of `ift train` that is killed `KILLS` times."""
    from killed_runs import SAVE_EVERY, STEPS, killed_run
    from short_runs import ROWS

    from conftest import CHATML, save_tiny

    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS["messages"]))
    run = killed_run(save_tiny(folder / "model", CHATML), rows, folder, KILLS)
    return KillRecord(
        provenance=provenance(),
        save_every=SAVE_EVERY,
        last_step=STEPS,
        kills=[Kill(**asdict(kill)) for kill in run.kills],
        equal=run.equal,
        steps_whole=run.steps == [*range(1, STEPS + 1), STEPS],
    )


def engines(folder: Path) -> EngineRecord:
    """What became of every test of tests/engines."""
    report = folder / "report.xml"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-m",
        "slow",
        "-o",
        "junit_family=xunit1",
        f"--junitxml={report}",
    ]
    subprocess.run(
        [*command, "-p", "no:cacheprovider", str(ROOT / "tests" / "engines")], cwd=ROOT, check=False
    )
    outcomes: dict[str, dict[str, str]] = {}
    gaps = {}
    for case in ET.parse(report).getroot().iter("testcase"):
        test, _, parameters = case.attrib["name"].removesuffix("]").partition("[")
        wrong = [kind for kind in ("failure", "error", "skipped") if case.find(kind) is not None]
        outcomes.setdefault(test, {})[parameters] = wrong[0] if wrong else "passed"
        measured = {one.attrib["name"]: float(one.attrib["value"]) for one in case.iter("property")}
        if {"weights", "numbers"} <= measured.keys():
            gaps[parameters] = [float(f"{measured[name]:.3g}") for name in ("weights", "numbers")]
    return EngineRecord(provenance(), version("deepspeed"), outcomes, gaps)


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["equality", "kills", "engines"])
    return parser


def main() -> None:
    """Make a record."""
    what = make_parser().parse_args().what
    with tempfile.TemporaryDirectory() as temporary:
        found = {"equality": equality, "kills": kills, "engines": engines}[what](Path(temporary))
    place = RECORDS / f"{what}.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(encode(found), indent=1) + "\n")
    print(f"written: {place.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

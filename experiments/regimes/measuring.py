"""Trains contenders of a regime, measures them, and adds a line for each run to a file; for the scripts beside it."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from contenders import CONTENDERS, VARIANTS
from run import FIRST_SEED, REGIMES, lines_of, trained

from ift.lab.report import provenance


def parser_of(doc: str | None, regime: str, contenders: str) -> argparse.ArgumentParser:
    """The flags of a script, with its defaults."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pack", type=Path, nargs="+", help="Files of runs to pack; nothing is trained.")
    parser.add_argument("--regime", choices=REGIMES, default=regime)
    parser.add_argument("--contenders", default=contenders, help="Labels, separated by commas.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, required=True)
    return parser


def measure_missing(
    args: argparse.Namespace,
    early: Callable[[Any], dict[str, Any]] | None,
    end: Callable[[Any, int], dict[str, Any]],
) -> None:
    """Trains the runs that have no line in `args.output` and adds one for each.

    Args:
        args: Of `parser_of`.
        early: What is measured of the model after the regime's early step; None: nothing.
        end: What is measured of the trained model, with the seed of the run.
    """
    done = {(one["regime"], one["contender"], one["seed"]) for one in lines_of(args.output)}
    for seed in range(FIRST_SEED, FIRST_SEED + args.seeds):
        for label in args.contenders.split(","):
            if (args.regime, label, seed) in done:
                continue
            begin = time.perf_counter()
            line: dict[str, Any] = {"regime": args.regime, "contender": label, "seed": seed}

            def at_early_step(when: str, model: Any, _: Any, line: dict[str, Any] = line) -> None:
                if early is not None and when == "early":
                    line["early"] = early(model)

            contender = (CONTENDERS | VARIANTS)[label]
            starts = args.output.with_suffix(".starts")
            model, _ = trained(contender, REGIMES[args.regime], seed, starts, at_early_step)
            line |= {"end": end(model, seed), "provenance": asdict(provenance())}
            with args.output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(f"{args.regime}, {label}, seed {seed}: {time.perf_counter() - begin:.0f} s", flush=True)


def pack(files: list[Path], output: Path, shorten: Callable[[dict[str, Any]], None]) -> None:
    """Adds the runs of `files` to a record, with the provenance of each regime's first; `shorten` changes a run."""
    lines = lines_of(output)
    for line in (one for file in files for one in lines_of(file)):
        of_regime = [one for one in lines if one["regime"] == line["regime"]]
        if any((one["contender"], one["seed"]) == (line["contender"], line["seed"]) for one in of_regime):
            continue
        if of_regime:
            del line["provenance"]
        shorten(line)
        lines.append(line)
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    output.write_text(text, encoding="utf-8")

"""The flags of `ift check`; those of `ift train` pass through."""

from __future__ import annotations

import argparse

from ift.runs.argv import UsageError, UsageParser, split_equals


def make_parser() -> argparse.ArgumentParser:
    """The parser of the check's own flags."""
    parser = UsageParser(
        "ift check",
        usage="ift check [flags] [flags of ift train or ift compare, --config FILE too]",
        description="Read the rows as the model will see them, and report what a run would train, what is wrong with "
        "it and how much memory and how many steps it needs. Nothing is trained. Exit codes: 0: ift train would start "
        "(also if a step may not fit, or a plan lacks weights or DeepSpeed); 1: it would "
        "refuse the run; 2: usage error. --debug shows tracebacks.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--show",
        type=int,
        metavar="N",
        help="Print N rows with their trained tokens; loads the model if its weights are here.",
    )
    parser.add_argument(
        "--time", action="store_true", help="Train three steps, discard them, and report the time of a step."
    )
    parser.add_argument(
        "--gpu_memory",
        type=float,
        metavar="GB",
        help="Plan for a GPU with this memory, such as 24 for a 24 GB card; this machine needs no GPU.",
    )
    parser.add_argument(
        "--gpu_tflops",
        type=float,
        metavar="N",
        help="TFLOP/s that each of your GPUs sustains in training; gives the hours of the run.",
    )
    parser.add_argument(
        "--plan_length",
        type=int,
        metavar="N",
        help="Estimate the memory for rows of N tokens (default: the longest row after --max_length).",
    )
    parser.add_argument(
        "--plan_rows",
        type=int,
        metavar="N",
        help="Training rows of the full data set (without those held out), if the given rows are a sample; for steps, "
        "trained tokens and disk space.",
    )
    parser.add_argument("--json", action="store_true", help="Print JSON instead of text.")
    return parser


def parse_options(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The check's flags, and the arguments for `ift train`; raises UsageError for a number below its minimum."""
    options, words = make_parser().parse_known_args(split_equals(arguments))
    for flag, least in (
        ("show", 1),
        ("gpu_memory", 1),
        ("gpu_tflops", 0.01),
        ("plan_length", 2),
        ("plan_rows", 1),
    ):
        value = getattr(options, flag)
        if value is not None and not value >= least:
            raise UsageError(f"--{flag} {value:g}: give {least} or more")
    return options, words

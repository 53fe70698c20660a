"""`ift show MODEL DATA`: a step of training on a few rows, token by token, in the terminal and as an HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path

import typer

from ift.runs.argv import UsageError, UsageParser, split_equals

SHOWN = ("ift", "sft")


def command(context: typer.Context) -> int:
    """Show a step on a few rows: each token's loss, look-ahead and weight (takes the flags of `ift train`)."""
    return main(context.args)


def make_parser() -> argparse.ArgumentParser:
    """The parser of the verb's own arguments; flags of `ift train` pass through."""
    parser = UsageParser(
        "ift show",
        usage="ift show MODEL DATA [-n ROWS] [--output FILE.html] [flags of ift train]\n"
        "       ift show --config FILE.yaml [the same flags]",
        description="Run the first rows through a step of training, one by one, without changing the model, and show "
        "for each trained token its loss, the look-ahead's token where it is wrong, the weight, and whether the step "
        "raises its loss. MODEL is a folder or Hub id of a model or an adapter; DATA are rows in any format that ift "
        "train reads. Instead of them, --config FILE.yaml or flags of ift train may name both. --debug shows "
        "tracebacks.",
        allow_abbrev=False,
    )
    parser.add_argument("-n", type=int, default=3, metavar="ROWS", help="Number of rows (default: 3).")
    parser.add_argument(
        "--output", default="ift-show.html", metavar="FILE", help="The page (default: ift-show.html)."
    )
    return parser


def main(arguments: list[str]) -> int:
    """Shows the rows and writes the page; returns the exit code.

    Raises:
        UsageError: An argument is missing or wrong, or the method has no step of IFT.
        DataError, ValueError: The model or the rows cannot be loaded, or IFT cannot train the model.
    """
    parser = make_parser()
    if not arguments or {"-h", "--help"} & set(arguments):
        parser.print_help()
        return 0
    options, words = parser.parse_known_args(_with_flags(split_equals(arguments)))
    if options.n < 1:
        raise UsageError(f"-n {options.n}: give 1 or more")
    from rich.console import Console

    from ift.files import check_target, write_atomically
    from ift.lab.show.page import html_page
    from ift.lab.show.step import prepare_first_rows, shown_rows
    from ift.lab.show.terminal import LEGEND, PLAIN_LEGEND, lines
    from ift.runs.arguments import parse
    from ift.runs.check_run import check_model
    from ift.runs.plan import ift_settings
    from ift.text import visible

    run_args = parse(words)
    if run_args.method.name not in SHOWN:
        raise UsageError(f"--method {run_args.method.name}: a step can be shown for {' and '.join(SHOWN)}")
    output = Path(options.output).expanduser()
    check_target(output, replaces=lambda start: b"<title>A step of " in start)
    check_model(run_args)
    rows = list(shown_rows(run_args, prepare_first_rows(run_args, options.n), options.n))
    console = Console(highlight=False)
    colour = console.color_system is not None and not console.no_color
    for row in rows:
        console.print(row.summary, style="bold", markup=False)
        for line in lines(row, console.width, colour):
            console.print(line, no_wrap=True)
        console.print()
    console.print(LEGEND if colour else PLAIN_LEGEND, style="dim", markup=False)
    final = "; shown with the final lambda" if run_args.config.residual_warmup_ratio else ""
    settings = f"{ift_settings(run_args.config)}{final}; each row as a step of its own"
    data = run_args.script.dataset_name or "a mixture"
    title = visible(f"A step of {run_args.model.model_name_or_path} on {data}")
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, html_page(rows, title, settings))
    console.print(visible(f"page: {output}"), markup=False)
    return 0


def _with_flags(words: list[str]) -> list[str]:
    """The command line with MODEL and DATA, if they are its first words, as flags of `ift train`.

    Raises:
        UsageError: Only one of them is there, or neither they nor the flags that replace them.
    """
    first = next((place for place, word in enumerate(words) if word.startswith("-")), len(words))
    flags = {word.replace("-", "_") for word in words[first:]}
    named = bool({"__config", "__model_name_or_path"} & flags)
    if first == 2:
        return ["--model_name_or_path", words[0], "--dataset_name", words[1], *words[2:]]
    if first == 0 and named:
        return words
    raise UsageError(
        "give MODEL and DATA first: ift show MODEL DATA -n 3; or name both in --config FILE.yaml"
    )

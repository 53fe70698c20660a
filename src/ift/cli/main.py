"""The command `ift`. Nothing heavy is imported before a verb runs, so that `ift --help` is fast."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer

from ift.cli import (
    chat,
    check,
    compare,
    convert_config,
    demo,
    env,
    evaluate,
    frozen_lake,
    generate,
    judge,
    merge,
    modelfile,
    report,
    score,
    show,
    train,
)
from ift.cli.column_option import WithRayAndColumns
from ift.cli.exit_codes import Verbs
from ift.cli.ray_option import WithRay
from ift.cli.usage_errors import OneLineErrors
from ift.runs.argv import UsageError
from ift.runs.removed import REMOVED

app = Verbs(
    name="ift",
    cls=OneLineErrors,
    help="Intuitive Fine-Tuning: align a language model from target answers alone.",
    no_args_is_help=True,
    epilog="Every command has --debug, which shows the traceback of an error.",
    add_completion=False,
    pretty_exceptions_enable=False,
    # --output-dir is --output_dir, as in trl
    context_settings={
        "token_normalize_func": lambda name: name.replace("-", "_"),
        "help_option_names": ["-h", "--help"],
    },
)
OWN_PARSER = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

app.command("train", context_settings=OWN_PARSER)(train.command)
app.command("check", context_settings=OWN_PARSER)(check.command)
app.command("demo")(demo.command)
app.command("chat")(chat.command)
app.command("compare", context_settings=OWN_PARSER)(compare.compare)
app.command("ablate", context_settings=OWN_PARSER)(compare.ablate)
app.command("frozen-lake")(frozen_lake.command)
app.command("convert-config")(convert_config.command)
app.command("merge", cls=WithRayAndColumns)(merge.command)
app.command("modelfile")(modelfile.command)
app.command("report")(report.command)
app.command("evaluate", cls=WithRay)(evaluate.command)
app.command("generate", cls=WithRayAndColumns)(generate.command)
app.command("score")(score.command)
app.command("judge")(judge.command)
app.command("show", context_settings=OWN_PARSER)(show.command)
app.command("env")(env.command)


@app.command("precompute-lookahead", hidden=True, context_settings=OWN_PARSER)
def precompute_lookahead(context: typer.Context) -> int:
    """Removed."""
    raise UsageError(REMOVED["precompute-lookahead"])


def _version(wanted: bool) -> None:
    if wanted:
        from ift import __version__

        print(f"ift {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def is_no_reduction(record: logging.LogRecord) -> bool:
    """Whether a message of `datasets` is another than "num_proc must be <= 8. Reducing num_proc to 8 ..."."""
    return not str(record.msg).startswith("num_proc must be <=")


def main() -> None:
    """Entry point of the `ift` command; environment variables set by the user are kept."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # transformers would open a pull request on the Hub for a model without safetensors
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    # bars of datasets and transformers appear only for steps that take longer than this, in seconds
    os.environ.setdefault("TQDM_DELAY", "5")
    if not sys.stderr.isatty():  # in a log: a line now and then
        os.environ.setdefault("TQDM_MININTERVAL", "30")
    # at its import it says that a kernel for CPUs is missing, also to commands that load no model
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    # of datasets, for fewer rows than worker processes: it then starts fewer
    logging.getLogger("datasets.arrow_dataset").addFilter(is_no_reduction)
    app(sys.argv[1:])


if __name__ == "__main__":
    main()

"""`ift compare` and `ift ablate`: several methods on the same rows, over seeds, with what they cost."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from rich.console import Console

from ift.cli.endings import INTERRUPTED
from ift.lab.compare.study_args import FIRST_SETTING, StudyArgs
from ift.runs.argv import UsageError, UsageParser, split_equals
from ift.text import did_you_mean, visible

if TYPE_CHECKING:
    from ift.lab.compare.run_study import StudyResult

DESCRIPTIONS = {
    "compare": "Compare methods on the same rows: scores, paired differences, costs. Settings are chosen on "
    "validation rows.",
    "ablate": "Take IFT apart: lambda, gamma, propagation, look-ahead and controls, one change at a time.",
}
STUDY_FLAGS: dict[str, dict[str, Any]] = {
    "--budget": {"default": "quick", "help": "Methods, seeds and trials: quick (minutes on the testbed) or full "
                 "(hours) [quick]."},
    "--seeds": {"type": int, "help": "Runs of each method [as the budget says]."},
    "--jobs": {"type": int, "help": "Processes at the same time [as many as cores and memory allow]."},
    "--setting": {"help": f"Setting of the testbed: family, size and noise of its rows [{FIRST_SETTING}]."},
}  # fmt: skip
USER_DATA_FLAGS: dict[str, dict[str, Any]] = {
    "--train_rows": {"type": int, "help": "Train on at most so many rows [all that are not held out]."},
    "--validation_rows": {"type": int, "help": "Rows to choose settings on [a tenth, at most 200]."},
    "--test_rows": {"type": int, "help": "Rows to score on [a fifth, at most 500; all of a test split, at most "
                    "500]."},
    "--learning_rates": {"help": "Learning rates to choose from, such as 1e-5,3e-5; a single one is used without "
                         "a search [around --learning_rate]."},
    "--pair_learning_rates": {"help": "The same for methods that learn from pairs [around a tenth of it]."},
    "--metric": {"help": "Score that settings are chosen by: exact_match, target_log_likelihood_per_token or "
                 "choice_accuracy [exact_match where there are final answers]."},
    "--answer_pattern": {"help": "How a final answer is found: ####, boxed, a regular expression, or none "
                         "[#### or boxed]."},
    "--max_new_tokens": {"type": int, "help": "Longest generated answer [a quarter more than the longest target]."},
}  # fmt: skip


def make_parser(verb: str) -> UsageParser:
    """The parser of the study's own flags; it leaves those of `ift train`."""
    parser = UsageParser(
        f"ift {verb}",
        usage=f"ift {verb} [flags]\n       ift {verb} [flags] --model_name_or_path MODEL --dataset_name DATA\n"
        "           [any flag of ift train, also --config FILE.yaml]",
        description=DESCRIPTIONS[verb] + " Without a model and data: on the embedded testbed.",
        allow_abbrev=False,
    )
    folder = f"ift-{verb}"
    parser.add_argument("--output_dir", "--output-dir", default=folder, help=f"Folder of the study; a repeated "
                        f"command resumes in it [{folder}].")  # fmt: skip
    if verb == "compare":
        parser.add_argument("--methods", help="Such as sft,ift,dpo,sft+ift [as the budget says].")
    else:
        parser.add_argument(
            "--variants", help="Such as 'ift lambda 0.4,ift as released' [as the budget says]."
        )
    for name, options in STUDY_FLAGS.items():
        parser.add_argument(name, **options)
    group = parser.add_argument_group("with a model and data of your own")
    for name, options in USER_DATA_FLAGS.items():
        group.add_argument(name, **options)
    return parser


def main(verb: str, arguments: Sequence[str]) -> int:
    """Run `ift compare` or `ift ablate`; returns the exit code (0 done, 130 stopped)."""
    console = Console(highlight=False, soft_wrap=True)

    say = partial(console.print, markup=False)
    args, train_words = parse(verb, arguments)
    from ift.lab.compare.run_study import report_study, run_study
    from ift.lab.compare.testbed import study_on_testbed
    from ift.lab.compare.user_study import user_study
    from ift.lab.progress import WorkProgress

    try:
        study = user_study(args, train_words, say) if train_words else study_on_testbed(args)
        with WorkProgress(console, seconds=0) as progress:
            run_study(study, args.jobs, progress, say)
    except KeyboardInterrupt:
        print(f"\nift {verb}: stopped. Repeat the command to resume.", file=sys.stderr)
        return INTERRUPTED
    _show(report_study(study), console)
    return 0


def parse(verb: str, arguments: Sequence[str]) -> tuple[StudyArgs, list[str]]:
    """The study's arguments, and the flags of `ift train` (none for a study on the testbed).

    Raises:
        UsageError: an unknown flag, a value out of range, or flags that do not belong together.
    """
    parser = make_parser(verb)
    parsed, train_words = parser.parse_known_args(split_equals(list(arguments)))
    if not train_words:
        for flag in USER_DATA_FLAGS:
            if getattr(parsed, flag[2:]) is not None:
                raise UsageError(
                    f"{flag} is for data of your own: give --model_name_or_path and --dataset_name too"
                )
    elif not {"--model_name_or_path", "--dataset_name", "--config"} & {*train_words}:
        options = [name for name in parser._option_string_actions if name.startswith("--")]
        raise UsageError(
            f"unknown flag {train_words[0]}{did_you_mean(train_words[0], options) or ';'} "
            "Flags of ift train need --model_name_or_path and --dataset_name (or --config) as well"
        )
    elif parsed.setting is not None:
        raise UsageError("--setting is one of the testbed's; leave it out to compare on your own data")
    return StudyArgs.from_namespace(verb, sys.argv[1:], parsed), train_words


def _show(result: StudyResult, console: Console) -> None:
    """Print the tables of scores and costs, and where the records and the report are."""
    from ift.lab.report.tables import cost_cells, score_cells

    comparison = result.comparison
    for split in comparison.splits:
        heads, lines = score_cells(comparison, split, result.metric)
        seeds = heads.index("by seed")  # for the report alone: a terminal is narrow
        rows = [row[:seeds] + row[seeds + 1 :] for row in (heads, *lines)]
        _print_table(console, split, [row[: seeds + 1] for row in rows])
        for begin in range(seeds + 1, len(rows[0]), 3):
            other = [[row[0], *row[begin : begin + 3]] for row in rows]
            _print_table(console, f"{split}: other scores", other)
    heads, lines = cost_cells(comparison)
    _print_table(console, "cost of one training", [heads, *lines])
    for line in result.lines:
        console.print(line, markup=False)


def _print_table(console: Console, title: str, rows: list[list[str]]) -> None:
    from rich.box import SIMPLE
    from rich.markup import escape
    from rich.table import Table

    if len(rows[0]) > 1:
        table = Table(*rows[0], title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
        table.columns[0].no_wrap = True
        for row in rows[1:]:
            table.add_row(*(escape(visible(cell)) for cell in row))
        console.print(table, soft_wrap=False)

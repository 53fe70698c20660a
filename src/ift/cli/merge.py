"""`ift merge ADAPTER`: an adapter merged into its base, saved only if the outputs are unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ift.cli.column_option import COLUMNS, FLAG
from ift.cli.model_options import ALLOW_PICKLE, DTYPE, TRUST_REMOTE_CODE
from ift.runs.argv import UsageError
from ift.text import counted

if TYPE_CHECKING:
    from ift.models.loading import LoadOptions


def main(
    adapter: str, folder: Path, rows: str | None, options: LoadOptions, columns: Sequence[str] = ()
) -> int:
    """Merges, compares and saves; returns the exit code.

    Raises:
        DataError: The adapter, its base or the rows cannot be loaded, the folder is not empty, or the outputs differ.
    """
    from ift.models.loading import other_dtype, warn_of_remote_code
    from ift.models.merging import merge_to_new_folder, refuse_merge_target
    from ift.models.model_folder import check_model_path, warn_of_unfinished_run
    from ift.runs.model_card import write_merged_card
    from ift.runs.progress import next_commands
    from ift.text import visible

    check_model_path(adapter, allow_pickle=options.allow_pickle_weights)
    refuse_merge_target(adapter, folder)
    warn_of_unfinished_run(adapter)
    if options.trust_remote_code:
        warn_of_remote_code(adapter)
    ids = [] if rows is None else _row_ids(adapter, rows, options, columns)
    found = merge_to_new_folder(adapter, folder, ids, options)
    write_merged_card(adapter, folder)
    compared = (
        f"{counted(len(ids), 'row')} of {rows}"
        if ids
        else "one sentence (--rows FILE compares on rows of yours)"
    )
    print(visible(f"{folder}: the merged model gives the outputs of {adapter} on {compared}: {found}"))
    if note := other_dtype(adapter, options):
        print(visible(f"{adapter}: {note}"))
    for label, command in next_commands(str(folder)).items():
        print(visible(f"{label:<10}{command}"))
    return 0


def _row_ids(adapter: str, rows: str, options: LoadOptions, columns: Sequence[str]) -> list[list[int]]:
    """Token ids of the first rows of a file, prepared as `ift train` prepares them."""
    from ift.methods.stage import load_data
    from ift.runs.arguments import parse
    from ift.runs.train_stage import first_rows

    words = ["--model_name_or_path", adapter, "--dataset_name", rows]
    words += ["--trust_remote_code"] if options.trust_remote_code else []
    words += ["--allow_pickle_weights"] if options.allow_pickle_weights else []
    words += [FLAG, *columns] if columns else []
    run_args = parse(words)
    return first_rows(run_args, load_data(run_args))


def command(
    adapter: str = typer.Argument(help="A folder or Hub id of an adapter."),
    output_dir: str = typer.Option(..., "--output_dir", help="New or empty folder for the merged model."),
    rows: str = typer.Option(
        None, "--rows", help="Rows to compare the outputs on, in any format that ift train reads."
    ),
    columns: list[str] = COLUMNS,
    dtype: str = DTYPE,
    trust_remote_code: bool = TRUST_REMOTE_CODE,
    allow_pickle: bool = ALLOW_PICKLE,
) -> int:
    """Merge an adapter into its base, and save the result if its outputs are the adapter's."""
    from ift.models.loading import LoadOptions

    options = LoadOptions(dtype, None, trust_remote_code, allow_pickle)
    if columns and rows is None:
        raise UsageError(f"{FLAG}: there are no rows to rename. Fix: add --rows FILE, or leave it out")
    return main(adapter, Path(output_dir).expanduser(), rows, options, columns)

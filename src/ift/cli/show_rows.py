"""`ift check --show`: rows as the model sees them, token by token."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.text import Text

from ift.data import Prepared
from ift.data.samples import ids_and_labels
from ift.labels import IGNORED
from ift.methods.stage import PreparedRows
from ift.runs.arguments import TrainArguments
from ift.runs.check_run import load_guesser
from ift.text import TRAINED, bracketed, counted, token_texts

GUESS = "the model's guess for the token before it"


def _first_rows(one: Prepared, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """The first `count` rows with their numbers from 1; of a mixture, as many of each data set as of the others."""
    if one.report.streaming or not one.parts:
        yield from enumerate(itertools.islice(one.dataset, count), start=1)
        return
    ends = list(itertools.accumulate(part.report.rows_kept for part in one.parts))
    parts = [range(end - part.report.rows_kept, end) for part, end in zip(one.parts, ends, strict=True)]
    in_turn = (index for layer in itertools.zip_longest(*parts) for index in layer if index is not None)
    for index in sorted(itertools.islice(in_turn, count)):
        yield index + 1, one.dataset[index]


def show_rows(
    run_args: TrainArguments, prepared: PreparedRows, count: int, console: Console, guesses: bool = True
) -> None:
    """Prints rows: prompt dim, trained tokens green (without colour: in brackets), and the model's other guesses.

    Without `guesses` the rows alone are shown, and no weights are loaded.
    """
    tokenizer, one = prepared.tokenizer, prepared.sets["train"]
    guess = load_guesser(run_args) if guesses else None
    special = set(tokenizer.all_special_ids)
    colour = console.color_system is not None and not console.no_color
    console.print()
    for number, row in _first_rows(one, count):
        ids, labels = ids_and_labels(row)
        guessed, parts = ids[:1] + guess(ids)[:-1] if guess else ids, list[Text]()  # none in the first place
        texts = token_texts(tokenizer, ids, guessed)
        wrong = ""
        for token, label, (piece, other) in zip(ids, labels, texts, strict=True):
            shown = repr(piece)[1:-1] if token in special else piece
            style = "green" if label != IGNORED else "dim"
            style = f"magenta {'bold' if label != IGNORED else 'dim'}" if token in special else style
            parts.append(Text.assemble((shown, style)))
            wrong += f"‹{other}›".replace("\n", "\\n") if label != IGNORED and other else ""
            if piece:  # the guesses within a character stand behind it
                parts[-1].append(wrong, "red")
                wrong = ""
        parts.append(Text(wrong, "red"))
        parts = (
            parts if colour else bracketed(parts, [label != IGNORED for label in [*labels, labels[-1]]], Text)
        )
        place = f"{one.name_of(number)}," if one.parts else f"row {number} of the kept rows,"
        console.print(Text.assemble((place, "bold"), f" {counted(len(ids), 'token')}"))
        console.print(Text().join(parts))
    marks = [
        "prompt dim",
        "[green]trained[/green]",
        "[magenta]special token[/magenta]",
        f"[red]‹{GUESS}›[/red]",
    ]
    marks = marks if colour else [f"{TRAINED[0]}trained{TRAINED[1]}", f"‹{GUESS}›"]
    console.print(f"({', '.join(marks if guess else marks[:-1])})")
    if guess is None:
        console.print("(without the model's guesses: its weights are not here)")

"""`ift check --show`: rows as the model sees them, token by token."""

from __future__ import annotations

import itertools

from rich.console import Console
from rich.text import Text

from ift.data.samples import ids_and_labels
from ift.methods.stage import PreparedRows
from ift.runs.arguments import TrainArguments
from ift.runs.check_run import load_guesser
from ift.text import TRAINED, bracketed, counted, visible


def show_rows(run_args: TrainArguments, prepared: PreparedRows, count: int, console: Console) -> None:
    """Prints rows: prompt dim, trained tokens green (without colour: in brackets), and the model's other guesses."""
    tokenizer, one = prepared.tokenizer, prepared.sets["train"]
    guess = load_guesser(run_args)
    special = set(tokenizer.all_special_ids)
    colour = console.color_system is not None and not console.no_color
    console.print()
    for number, row in enumerate(itertools.islice(one.dataset, count), start=1):
        ids, labels = ids_and_labels(row)
        guesses, parts = guess(ids), list[Text]()
        for position, (token, label) in enumerate(zip(ids, labels, strict=True)):
            piece = visible(tokenizer.decode([token], clean_up_tokenization_spaces=False))
            shown = repr(piece)[1:-1] if token in special else piece
            style = "green" if label != -100 else "dim"
            style = f"magenta {'bold' if label != -100 else 'dim'}" if token in special else style
            parts.append(Text.assemble((shown, style)))
            if label != -100 and position and guesses[position - 1] != token:
                guessed = visible(tokenizer.decode([guesses[position - 1]]))
                parts[-1].append(f"‹{guessed}›".replace("\n", "\\n"), "red")
        parts = parts if colour else bracketed(parts, [label != -100 for label in labels], Text)
        console.print(f"[bold]row {number}[/bold] of the kept rows, {counted(len(ids), 'token')}")
        console.print(Text().join(parts))
    console.print(
        "(prompt dim, [green]trained[/green], [magenta]special token[/magenta], [red]‹the model's guess›[/red])"
        if colour
        else f"({TRAINED[0]}trained{TRAINED[1]}, ‹the model's guess›)"
    )

"""`ift check --show`: rows as the model sees them, token by token."""

from __future__ import annotations

import itertools

from rich.console import Console
from rich.text import Text

from ift.data.samples import ids_and_labels
from ift.methods.stage import PreparedRows
from ift.runs.arguments import TrainArguments
from ift.runs.check_run import load_guesser
from ift.text import visible


def show_rows(run_args: TrainArguments, prepared: PreparedRows, count: int, console: Console) -> None:
    """Prints rows: prompt dim, trained tokens green, and the model's guess where it differs."""
    tokenizer, one = prepared.tokenizer, prepared.sets["train"]
    guess = load_guesser(run_args)
    special = set(tokenizer.all_special_ids)
    console.print()
    for number, row in enumerate(itertools.islice(one.dataset, count), start=1):
        ids, labels = ids_and_labels(row)
        guesses, text = guess(ids), Text()
        for position, (token, label) in enumerate(zip(ids, labels, strict=True)):
            piece = visible(tokenizer.decode([token], clean_up_tokenization_spaces=False))
            shown = repr(piece)[1:-1] if token in special else piece
            style = "green" if label != -100 else "dim"
            text.append(shown, f"magenta {'bold' if label != -100 else 'dim'}" if token in special else style)
            if label != -100 and position and guesses[position - 1] != token:
                guessed = visible(tokenizer.decode([guesses[position - 1]]))
                text.append(f"‹{guessed}›".replace("\n", "\\n"), "red")
        console.print(f"[bold]row {number}[/bold] of the kept rows, {len(ids)} tokens")
        console.print(text)
    console.print(
        "(prompt dim, [green]trained[/green], [magenta]special token[/magenta], [red]‹the model's guess›[/red])"
    )

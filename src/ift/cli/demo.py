"""`ift demo`: SFT and IFT on the included base model."""

from __future__ import annotations

import typer


def command(
    output_dir: str = typer.Option(
        "ift-demo", "--output_dir", help="Folder for the models, the record and the curves."
    ),
    seed: int = typer.Option(0, help="Seed of the training rows and their order."),
    train_rows: int = typer.Option(None, "--train_rows", help="Number of training rows (default: 400)."),
    test_rows: int = typer.Option(
        None, "--test_rows", help="Number of held-out problems to score on (default: 500)."
    ),
) -> int:
    """Train a tiny included model with SFT and with IFT and compare them (minutes on a laptop, no download).

    A smaller variant: ift demo --train_rows 64 --test_rows 50
    """
    from ift.lab.demo import main

    return main(output_dir, seed, train_rows, test_rows)

"""`ift`: the verbs. Nothing heavy is imported before a verb runs, so that `ift --help` is instant."""

from __future__ import annotations

import sys

import typer

app = typer.Typer(
    name="ift",
    help="Intuitive Fine-Tuning: align a language model from target answers alone.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command(context_settings=PASS_ON)
def train(context: typer.Context) -> None:
    """Fine-tune a model on good answers, or by another --method (trl's flags; `ift train --help` lists them)."""
    from ift.cli.train import main as run

    raise typer.Exit(run(context.args))


@app.command()
def demo(
    output_dir: str = typer.Option(
        "ift-demo", "--output_dir", "--output-dir", help="Where the models, the record and the curves go."
    ),
    seed: int = typer.Option(0, help="Seed of the data order."),
    train_rows: int = typer.Option(
        None, "--train_rows", "--train-rows", help="Training rows. [default: the demo's own]"
    ),
    test_rows: int = typer.Option(
        None, "--test_rows", "--test-rows", help="Held-out problems to score on. [default: the demo's own]"
    ),
) -> None:
    """See IFT and SFT train a tiny embedded model, and what comes out (minutes on a laptop, no download)."""
    from ift.cli.demo import main as run

    raise typer.Exit(run(output_dir, seed, train_rows, test_rows))


@app.command()
def chat(
    model: str = typer.Argument(help="A folder or Hub id of a model or an adapter."),
    prompt: str = typer.Option(None, help="Ask this once instead of chatting."),
    max_new_tokens: int = typer.Option(
        512, "--max_new_tokens", "--max-new-tokens", help="Longest answer, in tokens."
    ),
) -> None:
    """Talk to a trained model."""
    from ift.cli.chat import main as run

    raise typer.Exit(run(model, prompt, max_new_tokens))


@app.command()
def env() -> None:
    """Print what a bug report needs: versions, hardware, and nothing secret."""
    from ift.cli.env import main as run

    raise typer.Exit(run())


def main() -> None:
    """Entry point of the `ift` command."""
    app(sys.argv[1:])


if __name__ == "__main__":
    main()

"""`ift`: the verbs. Nothing heavy is imported before a verb runs, so that `ift --help` is instant."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Annotated

import typer

from ift.cli.endings import Verbs
from ift.runs.argv import UsageError
from ift.runs.removed import REMOVED

app = Verbs(
    name="ift",
    help="Intuitive Fine-Tuning: align a language model from target answers alone.",
    no_args_is_help=True,
    epilog="Every verb takes --debug: it shows the traceback of what goes wrong.",
    add_completion=False,
    pretty_exceptions_enable=False,
)


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


PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command(context_settings=PASS_ON)
def train(context: typer.Context) -> None:
    """Fine-tune a model on good answers, or by another --method (trl's flags; `ift train --help` lists them)."""
    from ift.cli.train import main as run

    raise typer.Exit(run(context.args))


@app.command(context_settings=PASS_ON)
def check(context: typer.Context) -> None:
    """Say before a run what it will train, what is wrong with it and what it will take (arguments of `ift train`)."""
    from ift.cli.check import main as run

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
    from ift.lab.demo import main as run

    raise typer.Exit(run(output_dir, seed, train_rows, test_rows))


DTYPE = typer.Option("auto", help="Of the weights, such as bfloat16. [auto: as saved]")
DEVICE = typer.Option(None, help="Such as cuda:1. [default: the accelerator there is]")
TRUST = typer.Option(
    False, "--trust_remote_code", "--trust-remote-code", help="Run Python code that comes with the model."
)
PICKLES = typer.Option(
    False, "--allow_pickle_weights", "--allow-pickle-weights", help="Load .bin files if there are no others."
)


@app.command()
def chat(
    model: str = typer.Argument(help="A folder or Hub id of a model or an adapter."),
    prompt: str = typer.Option(None, help="Ask this once instead of chatting."),
    max_new_tokens: int = typer.Option(
        512, "--max_new_tokens", "--max-new-tokens", help="Longest answer, in tokens."
    ),
    dtype: str = DTYPE,
    device: str = DEVICE,
    trust_remote_code: bool = TRUST,
    allow_pickle: bool = PICKLES,
) -> None:
    """Talk to a trained model."""
    from ift.cli.chat import main as run
    from ift.models.loading import LoadOptions

    options = LoadOptions(dtype, device, trust_remote_code, allow_pickle)
    raise typer.Exit(run(model, prompt, max_new_tokens, options))


@app.command(context_settings=PASS_ON)
def compare(context: typer.Context) -> None:
    """Compare methods on the same rows: scores, paired differences, costs; settings chosen on validation."""
    from ift.cli.compare import main as run

    raise typer.Exit(run("compare", context.args))


@app.command(context_settings=PASS_ON)
def ablate(context: typer.Context) -> None:
    """Take IFT apart: lambda, gamma, propagation, look-ahead, controls, one change at a time."""
    from ift.cli.compare import main as run

    raise typer.Exit(run("ablate", context.args))


@app.command(name="precompute-lookahead", hidden=True, context_settings=PASS_ON)
def precompute_lookahead(context: typer.Context) -> None:
    """Removed."""
    raise UsageError(REMOVED["precompute-lookahead"])


@app.command(name="frozen-lake")
def frozen_lake(
    output_dir: str = typer.Option(
        "frozen-lake", "--output_dir", "--output-dir", help="Where the record and the pictures go."
    ),
    seeds: int = typer.Option(200, help="Agents, seeds 0 to N - 1, all trained at once."),
    map_size: int = typer.Option(4, "--map_size", "--map-size", help="Cells per side."),
    seed: int = typer.Option(None, help="Of a random map; without it gymnasium's own (sizes 4 and 8)."),
    hole_density: float = typer.Option(0.2, "--hole_density", "--hole-density", help="Of a random map."),
    firm: bool = typer.Option(False, "--firm", help="Ice that does not slip."),
    skill: float = typer.Option(0.6, help="Share of the optimum in the agents before training."),
    habit: float = typer.Option(0.5, help="Share of the detour in them, on its cells."),
    residual_lambda: float = typer.Option(0.2, "--residual_lambda", "--residual-lambda", help="Of IFT."),
    propagation_gamma: float = typer.Option(
        0.95, "--propagation_gamma", "--propagation-gamma", help="Of IFT."
    ),
    propagation: str = typer.Option("bellman", help="Of IFT: bellman, cumsum, none or position."),
    lookahead: str = typer.Option("greedy", help="Of IFT: greedy, sample, expected or random."),
    beta: float = typer.Option(0.1, help="Of DPO and TDPO."),
    orpo_beta: float = typer.Option(0.1, "--orpo_beta", "--orpo-beta", help="Of ORPO."),
    optimizer: str = typer.Option("sgd", help="sgd, momentum, adam or rmsprop."),
    learning_rate: float = typer.Option(0.1, "--learning_rate", "--learning-rate", help="Constant."),
    steps: int = typer.Option(20, help="Training steps."),
    window: bool = typer.Option(True, help="Also sweep the settings and map where the order holds."),
) -> None:
    """Find out which method comes nearest to a known optimum (paper, section 5.3; a minute, no download)."""
    from ift.cli.frozen_lake import main as run

    lake = {"size": map_size, "seed": seed, "hole_density": hole_density, "slippery": not firm}
    settings = {
        "residual_lambda": residual_lambda,
        "gamma": propagation_gamma,
        "propagation": propagation,
        "lookahead": lookahead,
        "beta": beta,
        "orpo_beta": orpo_beta,
        "optimizer": optimizer,
        "learning_rate": learning_rate,
        "steps": steps,
    }
    raise typer.Exit(run(output_dir, seeds, lake, {"skill": skill, "habit": habit}, settings, window))


@app.command()
def report(
    runs: Annotated[list[str], typer.Argument(help="Run records, files of --pack, or folders to search.")],
    output_dir: str = typer.Option(
        None,
        "--output_dir",
        "--output-dir",
        help="Where the page, tables and figures go. [default: ift-report]",
    ),
    baseline: str = typer.Option(
        None, help="Take differences to this method. [default: sft where it is there]"
    ),
    methods: str = typer.Option(None, help="Show these alone, in this order: sft,ift. [default: all]"),
    metric: str = typer.Option(
        None, help="The score to draw and to take differences of. [default: exact_match]"
    ),
    pack: str = typer.Option(None, help="Write the records into this one .jsonl file, and no report."),
    pack_points: int = typer.Option(
        None, "--pack_points", "--pack-points", help="Of each curve there, at most. [default: 50]"
    ),
    pack_samples: int = typer.Option(
        None,
        "--pack_samples",
        "--pack-samples",
        help="Problems a split whose answers go there. [default: all]",
    ),
) -> None:
    """Turn run records into tables, figures and one HTML page, or into one file to hand on."""
    from ift.cli.report import main as run
    from ift.cli.report import main_pack as run_pack

    of_report = {"output_dir": output_dir, "baseline": baseline, "methods": methods, "metric": metric}
    of_pack = {"pack_points": pack_points, "pack_samples": pack_samples}
    if pack is None:
        _refuse(of_pack, "is for a file of --pack: give that too, or leave it out")
        out = "ift-report" if output_dir is None else output_dir
        raise typer.Exit(run(runs, out, baseline, methods, "exact_match" if metric is None else metric))
    _refuse(of_report, "is for a report, and --pack makes none: leave it out")
    raise typer.Exit(run_pack(runs, pack, pack_points, pack_samples))


def _refuse(options: Mapping[str, object], why: str) -> None:
    for name, value in options.items():
        if value is not None:
            raise UsageError(f"--{name} {why}")


@app.command()
def evaluate(
    models: Annotated[list[str], typer.Argument(help="Run folders, checkpoints, adapters or Hub ids.")],
    tasks: str = typer.Option(
        "paper", help="paper: all of the paper's; or names of lm-eval's tasks, commas between."
    ),
    data: str = typer.Option(None, help="Folder of local data sets, in the Hub's layout. [default: the Hub]"),
    limit: int = typer.Option(None, help="Questions per task: to try it out. [default: all]"),
    num_fewshot: int = typer.Option(
        None, "--num_fewshot", "--num-fewshot", help="Examples before a question. [default: the paper's]"
    ),
    batch_size: str = typer.Option("auto", "--batch_size", "--batch-size", help="Or a number."),
    output_dir: str = typer.Option(
        "ift-evaluate", "--output_dir", "--output-dir", help="Where results, answers and records go."
    ),
    dtype: str = DTYPE,
    device: str = DEVICE,
    trust_remote_code: bool = TRUST,
    allow_pickle: bool = PICKLES,
) -> None:
    """Measure models on the paper's benchmarks, with lm-eval; several models are compared."""
    from ift.cli.evaluate import main as run
    from ift.models.loading import LoadOptions

    options = LoadOptions(dtype, device, trust_remote_code, allow_pickle)
    raise typer.Exit(run(models, tasks, data, limit, num_fewshot, batch_size, output_dir, options))


@app.command()
def generate(
    model: str = typer.Argument(help="A run folder, checkpoint, adapter or Hub id."),
    prompts: str = typer.Argument(help="A .jsonl or .json file of prompts."),
    output: str = typer.Option(None, help="The file to write. [default: MODEL-PROMPTS.jsonl or .json]"),
    form: str = typer.Option(
        None, "--format", help="jsonl, alpaca-eval or mt-bench. [default: by the prompts]"
    ),
    max_new_tokens: int = typer.Option(1024, "--max_new_tokens", "--max-new-tokens", help="Longest answer."),
    temperature: float = typer.Option(0.0, help="0: greedy; above it: sampled."),
    top_p: float = typer.Option(1.0, "--top_p", "--top-p", help="Of sampling."),
    seed: int = typer.Option(0, help="Of sampling."),
    batch_size: int = typer.Option(8, "--batch_size", "--batch-size", help="Prompts answered together."),
    system: str = typer.Option(None, help="A system text before every prompt that has none."),
    limit: int = typer.Option(None, help="Answer the first N prompts alone."),
    dtype: str = DTYPE,
    device: str = DEVICE,
    trust_remote_code: bool = TRUST,
    allow_pickle: bool = PICKLES,
) -> None:
    """Write a model's answers to prompts: AlpacaEval's, MT-Bench's, or any."""
    from ift.cli.generate import main as run
    from ift.generation.answers import Settings
    from ift.models.loading import LoadOptions

    options = LoadOptions(dtype, device, trust_remote_code, allow_pickle)
    settings = Settings(max_new_tokens, temperature, top_p, seed)
    raise typer.Exit(run(model, prompts, output, form, settings, batch_size, system, limit, options))


@app.command()
def judge(
    first: str = typer.Argument(help="Answers to judge: a file of ift generate, AlpacaEval or MT-Bench."),
    second: str = typer.Argument(None, help="Answers to compare them with. [default: grade the first alone]"),
    judge: str = typer.Option(..., "--judge", help="The judge's name at the endpoint."),
    reference: str = typer.Option(None, help="Compare with this column of the prompts' rows instead."),
    questions: str = typer.Option(None, help="MT-Bench's question file, for its answer files."),
    summaries: bool = typer.Option(False, "--summaries", help="The answers are summaries of posts (TL;DR)."),
    output_dir: str = typer.Option(
        "ift-judge", "--output_dir", "--output-dir", help="Where replies, verdicts and the record go."
    ),
    limit: int = typer.Option(None, help="Judge the first N prompts alone."),
    max_tokens: int = typer.Option(300, "--max_tokens", "--max-tokens", help="Longest reply of the judge."),
    threads: int = typer.Option(4, help="Questions asked at the same time."),
    requests_per_minute: float = typer.Option(
        None, "--requests_per_minute", "--requests-per-minute", help="[default: no limit]"
    ),
    prices: str = typer.Option(None, help="Per million tokens in and out, such as 2.5,10: to show the cost."),
    yes: bool = typer.Option(False, "--yes", help="Start without asking."),
) -> None:
    """Let a model judge answers: win rates in pairs, or grades (endpoint and key from the environment)."""
    from ift.cli.judge import main as run
    from ift.cli.judge import told
    from ift.lab.judge.errors import JudgeError

    try:
        words = told(
            first=first, second=second, reference=reference, questions=questions, summaries=summaries, judge=judge,
            output_dir=output_dir, limit=limit, max_tokens=max_tokens, threads=threads,
            requests_per_minute=requests_per_minute, prices=prices, yes=yes,
        )  # fmt: skip
    except JudgeError as error:
        print(f"ift judge: {error}", file=sys.stderr)
        raise typer.Exit(2) from error
    raise typer.Exit(run(words))


@app.command()
def env() -> None:
    """Print what a bug report needs: versions, hardware, and nothing secret."""
    from ift.cli.env import main as run

    raise typer.Exit(run())


def main() -> None:
    """Entry point of the `ift` command; what libraries would send unasked is switched off, unless the user set it."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault(
        "DISABLE_SAFETENSORS_CONVERSION", "1"
    )  # transformers opens pull requests on the Hub for it
    app(sys.argv[1:])


if __name__ == "__main__":
    main()

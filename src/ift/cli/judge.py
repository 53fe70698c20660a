"""`ift judge A [B]`: a language model behind an OpenAI-compatible endpoint compares or grades answers."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ift.cli.exit_codes import INTERRUPTED

if TYPE_CHECKING:
    from ift.lab.judge.settings import JudgeSettings
    from ift.lab.judge.table import Line


def command(
    first: str = typer.Argument(help="Answers to judge: a file of ift generate, AlpacaEval or MT-Bench."),
    second: str = typer.Argument(None, help="Answers to compare them with. Without it they are graded."),
    judge: str = typer.Option(..., "--judge", help="The judge's name at the endpoint."),
    reference: str = typer.Option(None, help="Compare with this column of the prompts' rows instead."),
    questions: str = typer.Option(None, help="MT-Bench's question file, for its answer files."),
    reference_answers: str = typer.Option(
        None, "--reference_answers", help="For grades: a file of FastChat's reference_answer folder."
    ),
    summaries: bool = typer.Option(False, "--summaries", help="The answers are summaries of posts (TL;DR)."),
    output_dir: str = typer.Option(
        "ift-judge", "--output_dir", help="Folder for replies, verdicts and the record."
    ),
    limit: int = typer.Option(None, help="Judge the first N prompts.", show_default="all"),
    max_tokens: int = typer.Option(300, "--max_tokens", help="Maximum length of a reply, in tokens."),
    threads: int = typer.Option(4, help="Number of parallel requests."),
    requests_per_minute: float = typer.Option(
        None, "--requests_per_minute", help="Maximum number of requests per minute.", show_default="no limit"
    ),
    prices: str = typer.Option(
        None, help="Prices per million tokens in and out, such as 2.5,10, to show the cost."
    ),
    yes: bool = typer.Option(False, "--yes", help="Start without asking about the cost."),
) -> int:
    """Let a model judge answers: win rates in pairs, or grades.

    Endpoint and key come from IFT_JUDGE_BASE_URL and IFT_JUDGE_API_KEY,
    or from OPENAI_BASE_URL and OPENAI_API_KEY.
    """
    from ift.lab.judge.settings import JudgeSettings, parse_prices

    def path(text: str | None) -> Path | None:
        return None if text is None else Path(text).expanduser()

    settings = JudgeSettings(
        first=Path(first).expanduser(), second=path(second), judge=judge, reference=reference,
        questions=path(questions), reference_answers=path(reference_answers), summaries=summaries,
        output_dir=Path(output_dir).expanduser(), limit=limit, max_tokens=max_tokens,
        threads=threads, requests_per_minute=requests_per_minute, prices=parse_prices(prices),
    )  # fmt: skip
    return run(settings, yes)


def run(settings: JudgeSettings, yes: bool) -> int:
    """Judges, shows the plan and the result, and returns the exit code."""
    from ift.runs.extras import needs_extra

    needs_extra("judge", "httpx2")
    from ift.lab.judge.run import run_judge

    try:
        run_judge(settings, _show, lambda: None if yes else agree())
    except KeyboardInterrupt:
        print("\nift judge: stopped. Repeat the command to resume.", file=sys.stderr)
        return INTERRUPTED
    return 0


def _show(lines: list[Line]) -> None:
    from ift.lab.judge.table import format_lines

    print(format_lines(lines, shutil.get_terminal_size().columns), flush=True)


def agree() -> None:
    """Asks whether to start.

    Raises:
        JudgeError: There is no terminal, or the answer is no.
    """
    from ift.lab.judge.errors import JudgeError

    if not sys.stdin.isatty():
        raise JudgeError("there is no terminal to confirm the cost; add --yes to agree")
    if not typer.confirm("Start?"):
        raise JudgeError("not started; nothing was sent")

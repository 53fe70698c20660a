"""`ift judge A [B]`: answers compared in pairs, or graded, by a model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ift.runs.extras import needs_extra

if TYPE_CHECKING:
    from ift.lab.judge.answers import Answered, Pair
    from ift.lab.judge.judging import Estimate, Judge, Judged, Question
    from ift.lab.judge.win_rate import Share
    from ift.lab.report import RunRecord


@dataclass(frozen=True)
class Told:
    """What the command line says.

    Attributes:
        first: The file whose answers are judged.
        second: The file that they are compared with; None: a reference or nothing.
        reference: A column of the prompts' rows to compare with; None: none.
        questions: MT-Bench's question file.
        summaries: Whether answers are summaries.
        judge: The judge's name at the endpoint.
        output_dir: Where replies, verdicts and the record go.
        limit: Prompts judged, the first ones; None: all.
        max_tokens: Longest reply.
        threads: Questions asked at the same time.
        requests_per_minute: None: as fast as they come.
        prices: Per million tokens in and out; None: unknown.
        yes: Start without asking.
    """

    first: str
    second: str | None
    reference: str | None
    questions: str | None
    summaries: bool
    judge: str
    output_dir: str
    limit: int | None
    max_tokens: int
    threads: int
    requests_per_minute: float | None
    prices: tuple[float, float] | None
    yes: bool


def main(told: Told) -> int:
    """Estimate, ask, judge, save and show; returns the exit code."""
    needs_extra("judge", "httpx2")
    from ift.lab.judge.cache import ReplyCache
    from ift.lab.judge.endpoint import Endpoint
    from ift.lab.judge.judging import Judge

    out, endpoint, cache = Path(told.output_dir), None, None
    try:
        endpoint = Endpoint(told.judge, told.requests_per_minute)
        cache = ReplyCache(out / "replies.sqlite")
        judge = Judge(endpoint, cache, told.max_tokens, threads=told.threads)
        lines = run(told, judge, out)
    except (ValueError, OSError) as error:
        print(f"ift judge: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. What was judged is kept: the same command goes on.", file=sys.stderr)
        return 130
    finally:
        if endpoint is not None:
            endpoint.close()
        if cache is not None:
            cache.close()
    print("\n".join(lines))
    return 0


def run(told: Told, judge: Judge, out: Path) -> list[str]:
    """Judges what was told and writes `verdicts.jsonl` and `record.json`; returns the lines to show.

    Raises:
        JudgeError: The answers cannot be paired, the endpoint does not answer, or nobody said yes to the cost.
    """
    from ift.lab.judge.answers import against_references, paired, read_answers
    from ift.lab.judge.errors import JudgeError
    from ift.lab.report import save

    if told.second is not None and told.reference is not None:
        raise JudgeError("give a second file or --reference, not both")
    questions_file = None if told.questions is None else Path(told.questions)
    answered = read_answers(Path(told.first), questions_file)
    if told.second is None and told.reference is None:
        record, lines = _grade(told, judge, answered[: told.limit], out)
    else:
        if told.second is not None:
            pairs, alone = paired(answered, read_answers(Path(told.second), questions_file))
        else:
            pairs, alone = against_references(answered, str(told.reference))
        record, lines = _compare(told, judge, pairs[: told.limit], alone, out)
    save(record, out / "record.json")
    used = f"{judge.prompt_tokens:,} tokens in and {judge.completion_tokens:,} out used by this run"
    return [
        *lines,
        f"{used}{_cost(told.prices, judge.prompt_tokens, judge.completion_tokens)}",
        f"verdicts  {out / 'verdicts.jsonl'}",
    ]


def _compare(
    told: Told, judge: Judge, pairs: Sequence[Pair], alone: int, out: Path
) -> tuple[RunRecord, list[str]]:
    from ift.lab.judge.errors import JudgeError
    from ift.lab.judge.judging import pair_questions
    from ift.lab.judge.win_rate import win_rate

    found = _asked(told, judge, pair_questions(pairs, told.summaries))
    there, back = found[::2], found[1::2]
    rows = [
        {"id": pair.id, "points": [a.value, b.value], "replies": [a.reply, b.reply]}
        for pair, a, b in zip(pairs, there, back, strict=True)
    ]
    _write(out / "verdicts.jsonl", rows)
    lengths = [(len(pair.first), len(pair.second)) for pair in pairs]
    rate = win_rate([one.value for one in there], [one.value for one in back], lengths)
    if rate is None:
        raise JudgeError(f"no pair has a verdict that could be read; look at {out / 'verdicts.jsonl'}")
    scores = {
        "n": float(rate.n), "win_rate": rate.rate.value, "win_rate_low": rate.rate.low, "win_rate_high": rate.rate.high,
        "length_controlled": rate.length_controlled.value, "missing": float(rate.missing), "ties": float(rate.ties),
        "consistent": rate.consistent, "first_place": rate.first_place,
    }  # fmt: skip
    against = Path(told.second).stem if told.second else f"column {told.reference}"
    lines = [
        f"win rate of {Path(told.first).stem} against {against}: {_percent(rate.rate)}",
        f"length-controlled (model of ift's own, docs/judge.md): {_percent(rate.length_controlled)}",
        f"{rate.n} pairs: {rate.wins} won, {rate.ties} tied, {rate.losses} lost; the same verdict in both orders "
        f"{rate.consistent:.0%}, points for the answer shown first {rate.first_place:.0%}",
    ]
    if rate.missing:
        lines.append(f"{rate.missing} pairs have no readable verdict in some order and are left out")
    if alone:
        lines.append(f"{alone} prompts without an answer on the other side are left out")
    return _record(told, {"all": scores}, f"against {against}", pairs), lines


def _grade(told: Told, judge: Judge, answered: Sequence[Answered], out: Path) -> tuple[RunRecord, list[str]]:
    from ift.lab.judge.errors import JudgeError
    from ift.lab.judge.judging import score_questions
    from ift.lab.judge.win_rate import mean_share

    found = _asked(told, judge, score_questions(answered))
    turns = [(one, turn) for one in answered for turn in range(1, len(one.turns) + 1)]
    rows = [
        {"id": one.id, "turn": turn, "category": one.category, "score": judged.value, "reply": judged.reply}
        for (one, turn), judged in zip(turns, found, strict=True)
    ]
    _write(out / "verdicts.jsonl", rows)
    groups: dict[str, list[float]] = {}
    for row in rows:
        if isinstance(row["score"], float):
            names = ["all", f"turn {row['turn']}", *([str(row["category"])] if row["category"] else [])]
            for name in names:
                groups.setdefault(name, []).append(row["score"])
    if not groups:
        raise JudgeError(f"no answer has a grade that could be read; look at {out / 'verdicts.jsonl'}")
    scores: dict[str, dict[str, float]] = {}
    lines = [f"grades of {Path(told.first).stem}, from 1 to 10 [95 % interval]"]
    for name, values in groups.items():
        mean = mean_share(values)
        scores[name] = {"n": float(len(values)), "score": mean.value, "low": mean.low, "high": mean.high}
        lines.append(
            f"  {name:<12} {mean.value:5.2f} [{mean.low:.2f}, {mean.high:.2f}]  {len(values)} answers"
        )
    missing = sum(row["score"] is None for row in rows)
    if missing:
        lines.append(f"{missing} answers have no readable grade and are left out")
    return _record(told, scores, "grades", answered), lines


def _asked(told: Told, judge: Judge, questions: Sequence[Question[float]]) -> list[Judged[float]]:
    """Says what it will take, asks whether to go on, and judges."""
    from rich.progress import track

    from ift.lab.judge.errors import JudgeError

    estimate = judge.estimate(questions)
    print(_estimate_line(told, estimate, len(questions)))
    if estimate.requests and not told.yes:
        if not sys.stdin.isatty():
            raise JudgeError("nobody is there to agree to that; say --yes")
        if input("Go on? [y/N] ").strip().casefold() not in ("y", "yes"):
            raise JudgeError("not started; nothing was sent")
    bar = iter(track(range(len(questions)), description="verdicts", disable=not estimate.requests))
    found = judge.judge(questions, lambda: next(bar, 0))
    for _ in bar:
        pass
    return found


def _estimate_line(told: Told, estimate: Estimate, questions: int) -> str:
    kept = questions - estimate.requests
    cost = _cost(told.prices, estimate.prompt_tokens, estimate.completion_tokens)
    return (
        f"{estimate.requests} requests to {told.judge}: about {estimate.prompt_tokens:,} tokens in, at most "
        f"{estimate.completion_tokens:,} out{cost or ', cost unknown (--prices)'}"
        + (f"; {kept} of {questions} questions need none" if kept else "")
    )


def _cost(prices: tuple[float, float] | None, tokens_in: int, tokens_out: int) -> str:
    if prices is None:
        return ""
    return f", {(prices[0] * tokens_in + prices[1] * tokens_out) / 1e6:.2f} at the prices given"


def _record(
    told: Told, scores: dict[str, dict[str, float]], kind: str, judged: Sequence[Pair] | Sequence[Answered]
) -> RunRecord:
    from ift.lab.judge.questions import VERSION
    from ift.lab.report import DataSplit, RunRecord, provenance

    asked = json.dumps([one.id for one in judged])
    split = DataSplit(len(judged), hashlib.sha256(asked.encode()).hexdigest())
    return RunRecord(
        experiment="judge",
        setting=f"{kind}, judge {told.judge}, prompts {VERSION}{', summaries' if told.summaries else ''}",
        method=Path(told.first).stem,
        seed=0,
        scores={name: dict(values) for name, values in scores.items()},
        data=dict.fromkeys(scores, split),
        provenance=provenance(),
    )


def _percent(share: Share) -> str:
    return f"{share.value:.1%} [{share.low:.1%}, {share.high:.1%}]"


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def told(**words: Any) -> Told:
    """What the verb was given, its prices read.

    Raises:
        JudgeError: A value out of range; the message names the flag.
    """
    from ift.lab.judge.errors import JudgeError

    prices = words.pop("prices")
    for name in ("limit", "max_tokens", "threads", "requests_per_minute"):
        if words[name] is not None and words[name] <= 0:
            raise JudgeError(f"--{name}: found {words[name]}; give a number above 0")
    try:
        pair = None if prices is None else tuple(float(part) for part in prices.split(","))
        if pair is not None and (len(pair) != 2 or min(pair) < 0):
            raise ValueError
    except ValueError as error:
        raise JudgeError(f"--prices: found {prices!r}; give two numbers, such as 2.5,10") from error
    return dataclasses.replace(Told(**words, prices=None), prices=pair)


def command(
    first: str = typer.Argument(help="Answers to judge: a file of ift generate, AlpacaEval or MT-Bench."),
    second: str = typer.Argument(None, help="Answers to compare with (default: none, the first are graded)."),
    judge: str = typer.Option(..., "--judge", help="Name of the judge model at the endpoint."),
    reference: str = typer.Option(None, help="Compare with this column of the prompts' rows instead."),
    questions: str = typer.Option(None, help="MT-Bench's question file, for its answer files."),
    summaries: bool = typer.Option(False, "--summaries", help="The answers are summaries of posts (TL;DR)."),
    output_dir: str = typer.Option(
        "ift-judge", "--output_dir", help="Folder for replies, verdicts and the record."
    ),
    limit: int = typer.Option(None, help="Judge only the first N prompts."),
    max_tokens: int = typer.Option(300, "--max_tokens", help="Longest reply, in tokens."),
    threads: int = typer.Option(4, help="Number of simultaneous requests."),
    requests_per_minute: float = typer.Option(
        None, "--requests_per_minute", help="Rate limit (default: none)."
    ),
    prices: str = typer.Option(None, help="Prices per million input and output tokens, such as 2.5,10."),
    yes: bool = typer.Option(False, "--yes", help="Start without asking for confirmation."),
) -> int:
    """Let a language model judge answers: win rates of pairs, or grades (endpoint from the environment)."""
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
    return main(words)

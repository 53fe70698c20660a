"""Pairs of answers, compared in both orders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ift.lab.judge.judging import Judged, Question, describe_problems
from ift.lab.judge.pairing import Pair
from ift.lab.judge.questions import pair_question, read_verdict
from ift.lab.judge.table import Line, Table, count_of, format_percent
from ift.lab.judge.win_rate import WinRate, win_rate


@dataclass(frozen=True)
class Comparison:
    """Pairs to compare.

    Attributes:
        pairs: Of all prompts that both sides answered, or the first of them.
        first: The name of the side whose wins are counted.
        second: The name of the other.
        summaries: Whether the answers are summaries of posts.
        unpaired: Prompts with an answer of one side only.
    """

    pairs: list[Pair]
    first: str
    second: str
    summaries: bool
    unpaired: int

    @property
    def kind(self) -> str:
        """For the record."""
        return f"against {self.second}"

    @property
    def ids(self) -> list[str]:
        """Of the pairs, in order."""
        return [pair.id for pair in self.pairs]

    def questions(self) -> list[Question[float]]:
        """Two per pair, the second with the answers in the other order; read as points of the first side."""
        questions = []
        for pair in self.pairs:
            given = pair_question(pair.asked, pair.first, pair.second, self.summaries)
            swapped = pair_question(pair.asked, pair.second, pair.first, self.summaries)
            questions += [
                Question(pair.id, given, _points("1")),
                Question(pair.id, swapped, _points("2")),
            ]
        return questions

    def table(self, judged: Sequence[Judged[float]]) -> Table:
        """Win rates, from the outcomes of `questions`."""
        given, swapped = judged[::2], judged[1::2]
        verdicts = [
            {"id": a.name, "points": [a.value, b.value], "replies": [a.reply, b.reply],
             **({"problems": [a.problem, b.problem]} if a.problem or b.problem else {})}
            for a, b in zip(given, swapped, strict=True)
        ]  # fmt: skip
        lengths = [(len(pair.first), len(pair.second)) for pair in self.pairs]
        rate = win_rate([one.value for one in given], [one.value for one in swapped], lengths)
        if rate is None:
            return Table(verdicts, {}, [])
        problems = describe_problems(one.problem for one in judged)
        return Table(verdicts, {"all": _scores(rate)}, self._lines(rate, problems))

    def _lines(self, rate: WinRate, problems: str) -> list[Line]:
        lines = [
            ("win rate", f"{format_percent(rate.rate)} of {self.first} against {self.second}"),
            (
                "length-controlled",
                f"{format_percent(rate.length_controlled)} (ift's own model: docs/judge.md)",
            ),
            ("pairs", f"{rate.n}: {rate.wins} won, {rate.ties} tied, {rate.losses} lost"),
            (
                "order of answers",
                f"the same verdict in both orders for {rate.consistent:.0%} of the pairs; the answer shown first got "
                f"{rate.first_place:.0%} of the points",
            ),
        ]
        if rate.missing:
            pairs = count_of(rate.missing, "pair")
            lines.append(("left out", f"{pairs} without a verdict in both orders: {problems}"))
        if self.unpaired:
            lines.append(("left out", f"{count_of(self.unpaired, 'prompt')} with an answer of one side only"))
        return lines


def _scores(rate: WinRate) -> dict[str, float]:
    return {
        "n": float(rate.n), "win_rate": rate.rate.value, "win_rate_low": rate.rate.low, "win_rate_high": rate.rate.high,
        "length_controlled": rate.length_controlled.value, "missing": float(rate.missing), "ties": float(rate.ties),
        "consistent": rate.consistent, "first_place": rate.first_place,
    }  # fmt: skip


def _points(position: str) -> Callable[[str], float | None]:
    """1 where the answer shown at a position wins, 0 where the other does, 1/2 for a tie."""

    def read(reply: str) -> float | None:
        verdict = read_verdict(reply)
        return None if verdict is None else 0.5 if verdict == "tie" else float(verdict == position)

    return read

"""Pairs of answers to the same prompts, of two files or of a file and a column, compared in both orders."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ift.lab.judge.answers import Answered
from ift.lab.judge.errors import JudgeError
from ift.lab.judge.judging import Judged, Question, describe_problems
from ift.lab.judge.questions import pair_question, read_verdict
from ift.lab.judge.replies import content_text
from ift.lab.judge.table import Line, Table, format_percent
from ift.lab.judge.win_rate import WinRate, win_rate
from ift.text import counted


@dataclass(frozen=True)
class Pair:
    """One prompt with an answer of each side, to be compared: `first` is the side whose wins are counted."""

    id: str
    asked: str
    first: str
    second: str


def paired(first: Sequence[Answered], second: Sequence[Answered]) -> tuple[list[Pair], int]:
    """The pairs, in the order of `first` (the side whose wins are counted), and how many prompts only one side has.

    The n-th answer to a prompt that occurs several times is paired with the n-th.

    Raises:
        JudgeError: No prompt is common.
    """
    others = dict(zip(_keys(second), second, strict=True))
    pairs = []
    for key, one in zip(_keys(first), first, strict=True):
        if key in others:
            other = others.pop(key)
            pairs.append(Pair(one.id, "\n\n".join(one.turns), _all_turns(one), _all_turns(other)))
    if not pairs:
        raise JudgeError("no prompt is in both files; answer the same prompts with both models")
    return pairs, len(first) - len(pairs) + len(others)


def against_references(answered: Sequence[Answered], column: str) -> tuple[list[Pair], int]:
    """Pairs of each answer with the (first) text in its row's `column`, and how many rows have no text there.

    Raises:
        JudgeError: No row has a text there, or a prompt has several turns.
    """
    pairs = []
    for one in answered:
        if len(one.turns) > 1:
            raise JudgeError(f"--reference {column}: prompt {one.id} has several turns; give single turns")
        found = one.row.get(column)
        reference = content_text(found[0] if isinstance(found, list) and found else found)
        if reference is not None and reference.strip():
            pairs.append(Pair(one.id, one.turns[0], one.answers[0], reference.strip()))
    if not pairs:
        raise JudgeError(
            f"--reference {column}: no row has a text in that column; `ift generate` keeps the columns of its prompts"
        )
    return pairs, len(answered) - len(pairs)


def _keys(answered: Sequence[Answered]) -> list[tuple[tuple[str, ...], int]]:
    """The prompt of each, and how often it occurred before."""
    seen: Counter[tuple[str, ...]] = Counter()
    keys = []
    for one in answered:
        keys.append((one.turns, seen[one.turns]))
        seen[one.turns] += 1
    return keys


def _all_turns(one: Answered) -> str:
    if len(one.answers) == 1:
        return one.answers[0]
    return "\n\n".join(f"(turn {number}) {text}" for number, text in enumerate(one.answers, start=1))


@dataclass(frozen=True)
class Comparison:
    """Pairs to compare, the names of both sides, whether answers are summaries, and prompts that one side lacks."""

    pairs: list[Pair]
    first: str
    second: str
    summaries: bool
    unpaired: int

    @property
    def kind(self) -> str:
        """The kind of judgement, for the record."""
        return f"against {self.second}"

    @property
    def ids(self) -> list[str]:
        """The ids of the pairs, in order."""
        return [pair.id for pair in self.pairs]

    def questions(self) -> list[Question[float]]:
        """Two per pair, the second with the answers in the other order; read as points of the first side."""
        questions = []
        for one in self.pairs:
            for answers, position in (((one.first, one.second), "1"), ((one.second, one.first), "2")):
                messages = pair_question(one.asked, *answers, self.summaries)
                questions.append(Question(one.id, messages, _points(position)))
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
        adjusted = f"{format_percent(rate.length_controlled)} (ift's own model: docs/judge.md)"
        agreement = (
            f"the same verdict in both orders for {rate.consistent:.0%} of the pairs; the answer shown first got "
            f"{rate.first_place:.0%} of the points"
        )
        lines = [
            ("win rate", f"{format_percent(rate.rate)} of {self.first} against {self.second}"),
            ("length-controlled", adjusted),
            ("pairs", f"{rate.n}: {rate.wins} won, {rate.ties} tied, {rate.losses} lost"),
            ("order of answers", agreement),
        ]
        if rate.missing:
            pairs = counted(rate.missing, "pair")
            lines.append(("left out", f"{pairs} without a verdict in both orders: {problems}"))
        if self.unpaired:
            lines.append(("left out", f"{counted(self.unpaired, 'prompt')} with an answer of one side only"))
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

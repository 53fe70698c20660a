"""The score `judge`: the grade from 1 to 10 that a language model gives an answer, as `ift judge` asks for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ift.lab.judge.questions import read_score, score_question
from ift.lab.scores.answer import REFERENCE_COLUMNS, Answer, Score
from ift.runs.extras import needs_extra
from ift.text import counted

JUDGE = "judge"
MAX_TOKENS = 300  # of a reply
LOWEST_GRADE = 1.0  # of an answer that the judge refuses or gives no grade


@dataclass(frozen=True)
class JudgeOptions:
    """Who judges.

    Attributes:
        model: The judge's name at the endpoint.
        folder: Where replies are kept, so that none is paid for twice.
    """

    model: str
    folder: Path


class Grader:
    """A judge that grades answers; its endpoint is that of the environment.

    Raises:
        MissingExtra: The extra `judge` is not installed.
        JudgeError: No endpoint.
    """

    def __init__(self, options: JudgeOptions) -> None:
        needs_extra("judge", "httpx2")
        from ift.lab.judge.cache import ReplyCache
        from ift.lab.judge.endpoint import Endpoint
        from ift.lab.judge.judging import Judge

        endpoint = Endpoint(options.model)
        self.judge = Judge(endpoint, ReplyCache(options.folder / "replies.sqlite"), MAX_TOKENS)
        self.grades: dict[int, float] = {}  # by the answer's identity

    def score(self) -> Score:
        """The score, which asks for the grades of all answers at once."""
        return Score(
            JUDGE,
            lambda answer: self.grades[id(answer)],
            prepare=self.grade,
            check=lambda answer: None,
            costs=True,
        )

    def grade(self, answers: Sequence[Answer]) -> None:
        """Ask for grades.

        Raises:
            JudgeError: The endpoint does not answer.
        """
        judged = self.judge.judge(_questions(answers))
        values = (LOWEST_GRADE if one.value is None else one.value for one in judged)
        self.grades = {id(answer): value for answer, value in zip(answers, values, strict=True)}

    def cost(self, answers: Sequence[Answer]) -> tuple[int, int]:
        """Requests that the answers still need, and about how many tokens these have together."""
        found = self.judge.estimate(_questions(answers))
        return found.requests, found.prompt_tokens


def check_endpoint(model: str) -> None:
    """Raise what `Grader` raises, before anything is trained."""
    needs_extra("judge", "httpx2")
    from ift.lab.judge.endpoint import Endpoint

    Endpoint(model).close()


def prompt_tokens(answers: Sequence[Answer]) -> int:
    """About how many tokens a request has, if answers are as long as these."""
    from ift.lab.judge.judging import CHARACTERS_PER_TOKEN

    texts = [turn["content"] for one in _questions(answers) for turn in one.messages]
    return round(sum(map(len, texts)) / CHARACTERS_PER_TOKEN / len(answers))


def agree_to_cost(
    model: str,
    requests: int,
    tokens: int,
    prices: tuple[float, float] | None,
    say: Callable[[str], object],
    agree: Callable[[], object],
) -> None:
    """Say what requests cost, at most, and ask; nothing where there are none.

    Args:
        model: The judge.
        requests: At most.
        tokens: Of all requests, about.
        prices: Per million tokens in and out.
        say: Called with the line.
        agree: Raises an error to refuse.
    """
    if not requests:
        return
    replies = requests * MAX_TOKENS
    cost = ", cost unknown (--prices)"
    if prices is not None:
        cost = f", {(prices[0] * tokens + prices[1] * replies) / 1e6:.2f} at the given prices"
    say(
        f"judge: at most {counted(requests, 'request')} to {model}, about {counted(tokens, 'token')} in and "
        f"{replies:,} out{cost}"
    )
    agree()


def _questions(answers: Sequence[Answer]) -> list[Any]:
    from ift.lab.judge.judging import Question

    return [
        Question(one.id, score_question([one.prompt], [one.text], _reference(one)), read_score)
        for one in answers
    ]


def _reference(answer: Answer) -> str | None:
    """The right answer to hold the answer against, where there is one."""
    columns = [answer.column] if answer.column else REFERENCE_COLUMNS
    has_one = answer.target or any(answer.row.get(name) for name in columns)
    return answer.references[0] if has_one else None

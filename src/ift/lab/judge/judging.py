"""Questions put to the judge, many at a time: replies are kept, unreadable ones asked for again, none counts twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Generic, TypeVar

from ift.lab.judge.answers import Answered, Pair
from ift.lab.judge.cache import ReplyCache, reply_key
from ift.lab.judge.endpoint import Endpoint
from ift.lab.judge.questions import Messages, pair_question, read_score, read_verdict, score_question

T = TypeVar("T")
CHARACTERS_PER_TOKEN = 4  # of English text, roughly: for the estimate alone


@dataclass(frozen=True)
class Question(Generic[T]):
    """One thing to ask, and how its reply is read; a reader returns None for a reply that says nothing."""

    name: str
    messages: Messages
    read: Callable[[str], T | None]


@dataclass(frozen=True)
class Judged(Generic[T]):
    """What came of a question: the value, None where no reply could be read, and the last reply."""

    name: str
    value: T | None
    reply: str


@dataclass(frozen=True)
class Estimate:
    """What is still to be asked: requests, and tokens in and, at most, out. Rough: four characters are a token."""

    requests: int
    prompt_tokens: int
    completion_tokens: int


class Judge:
    """A judge with its cache.

    Args:
        endpoint: Where it is asked.
        cache: Where its replies are kept.
        max_tokens: Longest reply.
        readings: Replies to one question until one can be read.
        threads: Questions asked at the same time.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        cache: ReplyCache,
        max_tokens: int = 300,
        readings: int = 3,
        threads: int = 4,
    ) -> None:
        self.endpoint, self.cache, self.max_tokens = endpoint, cache, max_tokens
        self.readings, self.threads = readings, threads
        self.prompt_tokens = self.completion_tokens = 0  # used by this run, as the endpoint counts
        self._lock = threading.Lock()

    def estimate(self, questions: Sequence[Question[T]]) -> Estimate:
        """What the questions that have no readable reply yet will take, if each is read at the first reply."""
        distinct = {self._key(one, 0): one for one in questions}.values()
        open_ones = [one for one in distinct if self._kept(one)[1] is not None]
        characters = sum(len(turn["content"]) for one in open_ones for turn in one.messages)
        count = len(open_ones)
        return Estimate(count, round(characters / CHARACTERS_PER_TOKEN), count * self.max_tokens)

    def judge(
        self, questions: Sequence[Question[T]], progress: Callable[[], object] = lambda: None
    ) -> list[Judged[T]]:
        """Asks every question that has no readable reply yet.

        Args:
            questions: What to ask.
            progress: Called after each.

        Returns:
            Per question, in order.

        Raises:
            JudgeError: The endpoint did not answer; what it had answered is kept.
        """
        distinct = {self._key(one, 0): one for one in questions}  # the same question twice is asked once
        with ThreadPoolExecutor(self.threads) as pool:
            waiting = [pool.submit(self._ask, one) for one in distinct.values()]
            try:
                for done in as_completed(waiting):
                    done.result()
                    progress()
            except BaseException:
                for one in waiting:
                    one.cancel()
                raise
        return [self._kept(one)[0] for one in questions]  # two may be the same and be read in different ways

    def _kept(self, question: Question[T]) -> tuple[Judged[T], int | None]:
        """What the cache says, and the next attempt to make; None where none is left or needed."""
        text = ""
        for attempt in range(self.readings):
            reply = self.cache.get(self._key(question, attempt))
            if reply is None:
                return Judged(question.name, None, text), attempt
            text = reply.text
            if (value := question.read(text)) is not None:
                return Judged(question.name, value, text), None
        return Judged(question.name, None, text), None

    def _ask(self, question: Question[T]) -> None:
        _, attempt = self._kept(question)
        while attempt is not None:
            reply = self.endpoint.ask(question.messages, self.max_tokens)
            self.cache.put(self._key(question, attempt), reply)
            with self._lock:
                self.prompt_tokens += reply.prompt_tokens
                self.completion_tokens += reply.completion_tokens
            _, attempt = self._kept(question)

    def _key(self, question: Question[T], attempt: int) -> str:
        return reply_key(self.endpoint.model, question.messages, self.max_tokens, attempt)


def pair_questions(pairs: Sequence[Pair], summaries: bool = False) -> list[Question[float]]:
    """Two questions per pair, the second with the answers in the other order; read as points of the first side."""
    questions = []
    for pair in pairs:
        there = pair_question(pair.asked, pair.first, pair.second, summaries)
        back = pair_question(pair.asked, pair.second, pair.first, summaries)
        questions += [Question(pair.id, there, _points("1")), Question(pair.id, back, _points("2"))]
    return questions


def score_questions(answered: Sequence[Answered]) -> list[Question[float]]:
    """One question per turn of each prompt: a grade from 1 to 10 of the answer in that turn."""
    return [
        Question(
            f"{one.id} turn {turn}",
            score_question(
                list(one.turns[:turn]),
                list(one.answers[:turn]),
                one.references[turn - 1] if turn <= len(one.references) else None,
            ),
            read_score,
        )
        for one in answered
        for turn in range(1, len(one.turns) + 1)
    ]


def _points(place: str) -> Callable[[str], float | None]:
    """1 where the answer that stands at `place` wins, 0 where the other does, 1/2 for a tie."""

    def read(reply: str) -> float | None:
        verdict = read_verdict(reply)
        return None if verdict is None else 0.5 if verdict == "tie" else float(verdict == place)

    return read

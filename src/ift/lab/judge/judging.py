"""Sends questions to the judge in parallel; caches replies, and repeats questions with unreadable replies."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from ift.lab.interrupts import call_in_threads
from ift.lab.judge.cache import ReplyCache, reply_key
from ift.lab.judge.endpoint import Endpoint
from ift.lab.judge.errors import JudgeError, QuestionRefused
from ift.lab.judge.questions import Messages
from ift.lab.judge.replies import ASK_ONCE, CUT, NO_VERDICT

T = TypeVar("T")
CHARACTERS_PER_TOKEN = 4  # of English text, roughly: for the estimate alone
FIRST_QUESTIONS = 20  # a run whose first questions all end without a verdict stops before it spends more


@dataclass(frozen=True)
class Question(Generic[T]):
    """One thing to ask, and how its reply is read; a reader returns None for a reply without a verdict."""

    name: str
    messages: Messages
    read: Callable[[str], T | None]


@dataclass(frozen=True)
class Judged(Generic[T]):
    """The outcome of a question: a value, or None with the problem that left it without one; the last reply's text."""

    name: str
    value: T | None
    reply: str
    problem: str = ""


@dataclass(frozen=True)
class Estimate:
    """What is still to be asked: requests, and roughly (four characters a token) tokens in and, at most, out."""

    requests: int
    prompt_tokens: int
    completion_tokens: int


class Judge:
    """A judge with its cache of replies: `readings` replies are requested to one question at the most."""

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
        self.uncounted = 0  # replies of this run whose tokens the endpoint does not count
        self._refused: dict[str, str] = {}  # question -> why the endpoint did not take it, in this run
        self._lock = threading.Lock()

    def estimate(self, questions: Sequence[Question[T]]) -> Estimate:
        """What the questions without a final reply will take, if each is readable at the first reply."""
        to_ask = self._open(questions)
        characters = sum(len(turn["content"]) for one in to_ask for turn in one.messages)
        return Estimate(len(to_ask), round(characters / CHARACTERS_PER_TOKEN), len(to_ask) * self.max_tokens)

    def judge(
        self, questions: Sequence[Question[T]], progress: Callable[[], object] = lambda: None
    ) -> list[Judged[T]]:
        """The outcome of every question, in order; those without a final reply are asked, the same one once.

        `progress` is called after each of those that `estimate` counts.

        Raises:
            JudgeError: The endpoint did not answer, or gave no verdict on any of the first questions. Every reply that
                arrived is kept.
        """
        problems: list[str] = []  # of each question that was asked; empty where there is a verdict

        def collect(problem: str) -> None:
            problems.append(problem)
            progress()
            if len(problems) == FIRST_QUESTIONS and all(problems):
                raise JudgeError(
                    f"the first {FIRST_QUESTIONS} questions got no verdict ({describe_problems(problems)}). "
                    "Stopped to avoid further cost; the same command continues"
                )

        calls = [partial(self._ask, one) for one in self._open(questions)]
        call_in_threads(calls, self.threads, collect, self.endpoint.stop)
        return [self._kept(one)[0] for one in questions]  # two may be the same and be read in different ways

    def _open(self, questions: Sequence[Question[T]]) -> list[Question[T]]:
        """The questions to ask, each once."""
        distinct = {self._key(one, 0): one for one in questions}.values()
        return [one for one in distinct if self._kept(one)[1] is not None]

    def _kept(self, question: Question[T]) -> tuple[Judged[T], int | None]:
        """The outcome from the kept replies, and the number of the next attempt; None where none is left or needed."""
        refused = self._refused.get(self._key(question, 0))
        text = problem = ""
        for attempt in range(self.readings):
            reply = self.cache.get(self._key(question, attempt))
            if reply is None:
                return Judged(question.name, None, text, refused or problem), None if refused else attempt
            text = reply.text
            if (value := question.read(text)) is not None:
                return Judged(question.name, value, text), None
            problem = reply.problem or NO_VERDICT
            if problem in ASK_ONCE:
                break
        return Judged(question.name, None, text, problem), None

    def _ask(self, question: Question[T]) -> str:
        """Asks until there is a verdict or nothing more to try; returns the problem, empty with a verdict."""
        judged, attempt = self._kept(question)
        while attempt is not None:
            try:
                reply = self.endpoint.ask(question.messages, self.max_tokens)
            except QuestionRefused as error:
                self._refused[self._key(question, 0)] = str(error)
            else:
                self.cache.put(self._key(question, attempt), reply)
                with self._lock:
                    self.prompt_tokens += reply.prompt_tokens
                    self.completion_tokens += reply.completion_tokens
                    self.uncounted += not reply.prompt_tokens
            judged, attempt = self._kept(question)
        return judged.problem

    def _key(self, question: Question[T], attempt: int) -> str:
        return reply_key(self.endpoint.model, question.messages, self.max_tokens, attempt)


def describe_problems(problems: Iterable[str]) -> str:
    """Problems with their counts: "3 cut at --max_tokens (finish_reason length), 1 refused by the judge; raise ..."."""
    counts = Counter(problem for problem in problems if problem)
    described = ", ".join(f"{count} {problem}" for problem, count in counts.most_common())
    return f"{described}; raise --max_tokens" if CUT in counts else described

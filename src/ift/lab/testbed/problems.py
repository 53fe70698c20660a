"""Word problems with worked solutions, made from a seed: `problems(split, n, seed)`.

A problem is a short story about one quantity and a question; its solution is one equation per line, then `#### N`.
All numbers are whole and lie in 1..99. Which split a problem belongs to is decided by its chain of equations, by
their number and a hash, so no split ever holds the arithmetic of another one, whatever the names and wordings.
"""

import hashlib
import operator
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from ift.lab.testbed.stories import GOODS, NAMES, STORIES, Story

Split = Literal["train", "validation", "test", "longer"]
Message = dict[str, str]

OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.floordiv,
}
LARGEST = 99
STEPS: dict[Split, tuple[int, int]] = {  # equations per solution, both ends included
    "train": (2, 4),
    "validation": (2, 4),
    "test": (2, 4),
    "longer": (5, 6),
}
VALIDATION_PERCENT, TEST_PERCENT = 5, 5  # of all chains of equations; the rest is for training


@dataclass(frozen=True)
class Step:
    """One equation of a worked solution; `left` is the running value, and a noisy solution may state a wrong result."""

    left: int
    operation: str
    right: int
    result: int

    def __str__(self) -> str:
        return f"{self.left}{self.operation}{self.right}={self.result}"


class Worked:
    """What every problem with a worked solution has, from its `question` and its `lines`."""

    question: str
    steps: tuple[Any, ...]

    @property
    def lines(self) -> list[str]:
        """The lines of the worked solution."""
        raise NotImplementedError

    @property
    def solution(self) -> str:
        """The worked solution as one text."""
        return "\n".join(self.lines)

    @property
    def messages(self) -> list[Message]:
        """The problem as a conversation of two turns: user, assistant."""
        return [{"role": "user", "content": self.question}, {"role": "assistant", "content": self.solution}]

    @property
    def row(self) -> dict[str, list[Message]]:
        """The problem as a data row, `{"messages": [...]}`."""
        return {"messages": self.messages}


AWorked = TypeVar("AWorked", bound=Worked)


@dataclass(frozen=True)
class Problem(Worked):
    """A word problem and its worked solution."""

    question: str  # the story and the question, one line of text
    steps: tuple[Step, ...]  # the equations, in order
    unit: str  # the word written after each result

    @property
    def answer(self) -> str:
        """The final number as the solution states it, in decimal digits."""
        return str(self.steps[-1].result)

    @property
    def lines(self) -> list[str]:
        """The lines of the worked solution: one equation each, then `#### N`."""
        return [*(f"{step} {self.unit}" for step in self.steps), f"#### {self.answer}"]


def calculate(left: int, operation: str, right: int) -> int:
    """The result of one equation in whole numbers; `/` rounds down.

    Raises:
        ValueError: For another operation than `+`, `-`, `*` and `/`.
    """
    if operation not in OPERATIONS:
        raise ValueError(f"operation must be one of {' '.join(OPERATIONS)}, got {operation!r}")
    return OPERATIONS[operation](left, right)


def equation(left: int, operation: str, right: int) -> Step:
    """A right equation from its left-hand side; errors as for `calculate`."""
    return Step(left, operation, right, calculate(left, operation, right))


def bucket_of(steps: Sequence[object]) -> Literal["train", "validation", "test"]:
    """The part of the world of a right solution's steps, by a hash of their text: 5 % validation, 5 % test."""
    digest = hashlib.sha256(";".join(map(str, steps)).encode()).digest()
    percent = int.from_bytes(digest[:8], "big") % 100
    if percent < VALIDATION_PERCENT:
        return "validation"
    return "test" if percent < VALIDATION_PERCENT + TEST_PERCENT else "train"


def problems(split: Split, n: int, seed: int = 0) -> list[Problem]:
    """Makes `n` different problems of a split; a smaller `n` gives the first of them.

    `train`, `validation` and `test` have 2 to 4 steps each; `longer` has 5 to 6, from the chains held out for testing
    (the noisy corpus has solutions as long, `train` has not). No two problems have the same question.

    Raises:
        ValueError: For an unknown split or a negative `n`.
    """
    if split not in STEPS:
        raise ValueError(f"split must be one of {', '.join(STEPS)}, got {split!r}")
    return draw_problems(f"{split}/{seed}", n, STEPS[split], "test" if split == "longer" else split)


def draw_problems(key: str, n: int, n_steps: tuple[int, int], bucket: str) -> list[Problem]:
    """Draws `n` different problems from a bucket of `bucket_of`, from fewest to most `n_steps` equally likely.

    Raises:
        ValueError: For a negative `n`.
    """
    rng = random.Random(key)
    return distinct(lambda: _draw(rng, rng.randint(*n_steps)), n, bucket)


def distinct(draw: Callable[[], AWorked], n: int, bucket: str) -> list[AWorked]:
    """The first `n` problems that `draw` gives from a bucket, no question twice; ValueError for a negative `n`."""
    if n < 0:
        raise ValueError(f"n must be 0 or more, got {n}")
    found: dict[str, AWorked] = {}
    while len(found) < n:
        problem = draw()
        if bucket_of(problem.steps) == bucket:
            found.setdefault(problem.question, problem)
    return list(found.values())


def _draw(rng: random.Random, n_steps: int) -> Problem:
    """Draws one problem with exactly `n_steps` equations from `rng`."""
    story = rng.choice(STORIES)
    p, q = rng.sample(NAMES, 2)
    words = {"p": p, "q": q, "g": rng.choice(GOODS)}
    text, value, other, steps = _opening(rng, story)
    sentences = [text]
    while len(steps) < n_steps:
        text, step = _event(rng, story, value, other)
        other = None if text in story.events.get("join", ()) else other
        sentences.append(text)
        steps.append(step)
        value = step.result
    question = " ".join([*sentences, story.question])
    return Problem(question.format(**words), tuple(steps), story.unit.format(**words))


def _opening(rng: random.Random, story: Story) -> tuple[str, int, int | None, list[Step]]:
    """Draws an opening: its sentence with numbers filled in, the value, the other person's number, equations."""
    kind = rng.choice([*story.openings, "plain"])
    sentence = rng.choice(story.openings[kind])
    if kind == "product":
        a, b, operation = rng.randint(2, 5), rng.randint(2, 12), "*"
    elif kind == "more":
        a, b, operation = rng.randint(5, 40), rng.randint(2, 20), "+"
    elif kind == "fewer":
        a, operation = rng.randint(10, 60), "-"
        b = rng.randint(2, min(30, a - 2))
    else:
        a = rng.randint(5, 60)
        return _fill(sentence, a=a), a, None, []
    step = equation(a, operation, b)
    other = None if kind == "product" else a
    return _fill(sentence, a=a, b=b), step.result, other, [step]


def _event(rng: random.Random, story: Story, value: int, other: int | None) -> tuple[str, Step]:
    """Draws an event that keeps the value in 1..`LARGEST`: its sentence and its equation."""
    choices: list[tuple[str, Step]] = []
    if value + 2 <= LARGEST:
        plus = equation(value, "+", rng.randint(2, min(30, LARGEST - value)))
        choices += [("plus", plus)] * 3
    if value >= 4:
        choices += [("minus", equation(value, "-", rng.randint(2, min(30, value - 2))))] * 3
    if value * 2 <= LARGEST:
        times = equation(value, "*", rng.randint(2, min(4, LARGEST // value)))
        choices += [("times", times)] * 2
    if value % 2 == 0 and value >= 4:
        choices += [("half", equation(value, "/", 2))] * 2
    if other is not None and value + other <= LARGEST:
        choices += [("join", equation(value, "+", other))] * 3
    kind, step = rng.choice(choices)
    sentence = rng.choice(story.events[kind])
    return (sentence if kind == "join" else _fill(sentence, k=step.right)), step


def _fill(sentence: str, **numbers: int) -> str:
    """Replaces the number placeholders, leaving those of names and goods."""
    for key, number in numbers.items():
        sentence = sentence.replace(f"{{{key}}}", str(number))
    return sentence

"""Wrong steps: in most solutions of the pretraining corpus, and in a share of the rows for fine-tuning.

A mistaken solution continues from its mistake to the final answer. A language model pretrained on the noisy corpus
writes the form of a solution fluently, but its steps are often wrong.
"""

import random
from dataclasses import replace

from ift.lab.testbed.lookup import (
    COLOURS,
    CONFUSED,
    PEOPLE,
    RELATIONS,
    THINGS,
    Fact,
    LookupProblem,
    draw_lookups,
    draw_relations,
)  # fmt: skip
from ift.lab.testbed.problems import Problem, Step, calculate, draw_problems

CORPUS_STEPS = (2, 6)  # steps per solution: the corpus knows long solutions, though not good ones
MISREAD = {"*": "+"}  # the habit: "times" read as "plus"; in lookups, the aunt confused with the coach
HABIT_SHARE = 0.65  # of the steps that invite a habit: most writers have it
SLIP_SHARE = 0.10  # of the other steps: a wrong result, a wrong operand, a wrong fact


def noisy_problems(n: int, seed: int = 0) -> list[Problem]:
    """Makes `n` word problems whose solutions err in more than half of the cases.

    The chains are those of no held-out split. `steps`, `solution` and `answer` are as the noisy solution states them;
    results are 0 or more.
    """
    rng = random.Random(f"noise/{seed}")
    return [
        _with_mistakes(rng, problem) for problem in draw_problems(f"corpus/{seed}", n, CORPUS_STEPS, "train")
    ]


def noisy_lookups(n: int, seed: int = 0, hasty: bool = False) -> list[LookupProblem]:
    """Makes `n` lookup problems whose solutions err in about half of the cases; otherwise as `noisy_problems`.

    If `hasty`, most writers also take the first colour that is stated for such a thing, whoever has it.
    """
    rng = random.Random(f"noise/lookup/{seed}")
    drawn = draw_lookups(f"corpus/{seed}", n, CORPUS_STEPS, "train")
    return [_with_wrong_facts(rng, problem, hasty) for problem in drawn]


def noisy_relations(n: int, seed: int = 0) -> list[LookupProblem]:
    """Makes `n` problems of relations whose solutions err in about half of the cases; otherwise as `noisy_problems`."""
    rng = random.Random(f"noise/relation/{seed}")
    drawn = draw_relations(f"corpus/{seed}", n, CORPUS_STEPS, "train")
    return [_with_wrong_facts(rng, problem) for problem in drawn]


def one_wrong_step(problem: Problem | LookupProblem, rng: random.Random) -> Problem | LookupProblem:
    """A problem of either family with one wrong step in its solution; see the two functions below."""
    if isinstance(problem, LookupProblem):
        return one_wrong_fact(problem, rng)
    return one_wrong_equation(problem, rng)


def habitual(problem: Problem | LookupProblem) -> Problem | LookupProblem | None:
    """A problem with the solution, and the wrong answer, that the corpus's habit leads to.

    None where the habit changes nothing, ends at the right answer all the same, or leads to a person of whom the
    question does not tell what is asked.
    """
    wrong = _habitual_lookup(problem) if isinstance(problem, LookupProblem) else _habitual_sum(problem)
    return None if wrong is None or wrong.answer == problem.answer else wrong


def _habitual_sum(problem: Problem) -> Problem:
    """The word problem worked with the habit in every step that invites it."""
    steps: list[Step] = []
    for step in problem.steps:
        left = steps[-1].result if steps else step.left
        steps.append(_continued(left, replace(step, operation=MISREAD.get(step.operation, step.operation))))
    return replace(problem, steps=tuple(steps))


def _habitual_lookup(problem: LookupProblem) -> LookupProblem | None:
    """The lookups made with the habit in every step that invites it, if the question tells enough."""
    steps: list[Fact] = []
    for step in problem.steps:
        who = steps[-1].value if steps else step.who
        stated = _stated(problem, who, CONFUSED.get(step.key, step.key))
        if stated is None:
            return None
        steps.append(stated)
    return replace(problem, steps=tuple(steps))


def one_wrong_equation(problem: Problem, rng: random.Random) -> Problem:
    """A word problem whose solution takes one wrong step, continues from it and ends at a wrong number."""
    while True:
        wrong = rng.randrange(len(problem.steps))
        steps: list[Step] = []
        for index, step in enumerate(problem.steps):
            left = steps[-1].result if steps else step.left
            steps.append(_slip(rng, left, step) if index == wrong else _continued(left, step))
        if steps[-1].result != problem.steps[-1].result:
            return replace(problem, steps=tuple(steps))


def one_wrong_fact(problem: LookupProblem, rng: random.Random) -> LookupProblem:
    """A lookup problem whose solution states one wrong fact, continues from it and ends at a wrong answer.

    Where the mistaken person has no such fact, the colour or person of another fact is stated: the question does not
    say how to continue.
    """
    while True:
        wrong = rng.randrange(len(problem.steps))
        steps: list[Fact] = []
        for index, step in enumerate(problem.steps):
            who = steps[-1].value if steps else step.who
            stated = _stated(problem, who, step.key)
            steps.append(_wrong_fact(rng, problem, who, step.key) if index == wrong or not stated else stated)
        if steps[-1].value != problem.steps[-1].value:
            return replace(problem, steps=tuple(steps))


def _with_mistakes(rng: random.Random, problem: Problem) -> Problem:
    """Works the solution again, with mistakes; later equations continue from the mistaken value."""
    steps: list[Step] = []
    for step in problem.steps:
        left = steps[-1].result if steps else step.left
        if step.operation in MISREAD and rng.random() < HABIT_SHARE:
            steps.append(_continued(left, replace(step, operation=MISREAD[step.operation])))
        elif rng.random() < SLIP_SHARE:
            steps.append(_slip(rng, left, step))
        else:
            steps.append(_continued(left, step))
    return replace(problem, steps=tuple(steps))


def _with_wrong_facts(rng: random.Random, problem: LookupProblem, hasty: bool = False) -> LookupProblem:
    """Looks everything up again, with mistakes; later facts are those of the mistaken person."""
    steps: list[Fact] = []
    for step in problem.steps:
        who, key = steps[-1].value if steps else step.who, step.key
        if key in CONFUSED and rng.random() < HABIT_SHARE:
            key = CONFUSED[key]
        stated = _stated(problem, who, key)
        if hasty and key in THINGS and rng.random() < HABIT_SHARE:
            stated = Fact(who, key, next(fact.value for fact in problem.facts if fact.key == key))
        slips = rng.random() < SLIP_SHARE
        steps.append(_wrong_fact(rng, problem, who, key) if slips or stated is None else stated)
    return replace(problem, steps=tuple(steps))


def _continued(left: int, step: Step) -> Step:
    """A step's operation, rightly worked from another value; 0 or more."""
    return Step(left, step.operation, step.right, max(0, calculate(left, step.operation, step.right)))


def _slip(rng: random.Random, left: int, step: Step) -> Step:
    """A step with a wrong result or, as likely, a wrong right-hand operand; its result is 0 or more."""
    right, error = step.right, 0
    if rng.random() < 0.5:
        error = rng.choice((-10, -2, -1, 1, 2, 10))
    else:
        right = max(1, right + rng.choice((-2, -1, 1, 2)))
    return Step(left, step.operation, right, max(0, calculate(left, step.operation, right) + error))


def _stated(problem: LookupProblem, who: str, key: str) -> Fact | None:
    """The stated fact of this person and key; None where there is none."""
    return next((fact for fact in problem.facts if (fact.who, fact.key) == (who, key)), None)


def _wrong_fact(rng: random.Random, problem: LookupProblem, who: str, key: str) -> Fact:
    """A fact of this person and key with another fact's colour or person, if there is one."""
    right = _stated(problem, who, key)
    taken = (who, right and right.value)
    known = PEOPLE if key in RELATIONS else COLOURS
    stated = sorted({fact.value for fact in problem.facts if fact.value in known}.difference(taken))
    return Fact(who, key, rng.choice(stated or [value for value in known if value not in taken]))

"""Wrong steps in solutions: in a share of the rows for fine-tuning, and as the habit of the base's pretraining corpus.

A mistaken solution continues from its mistake to the final answer.
"""

import random
from dataclasses import replace

from ift.lab.testbed.lookup import COLOURS, CONFUSED, PEOPLE, RELATIONS, Fact, LookupProblem
from ift.lab.testbed.problems import Problem, Step, calculate

MISREAD = {"*": "+"}  # the habit: "times" read as "plus"; in lookups, the aunt confused with the coach


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
        steps.append(
            continued_step(left, replace(step, operation=MISREAD.get(step.operation, step.operation)))
        )
    return replace(problem, steps=tuple(steps))


def _habitual_lookup(problem: LookupProblem) -> LookupProblem | None:
    """The lookups made with the habit in every step that invites it, if the question tells enough."""
    steps: list[Fact] = []
    for step in problem.steps:
        who = steps[-1].value if steps else step.who
        stated = stated_fact(problem, who, CONFUSED.get(step.key, step.key))
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
            steps.append(slipped_step(rng, left, step) if index == wrong else continued_step(left, step))
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
            stated = stated_fact(problem, who, step.key)
            steps.append(wrong_fact(rng, problem, who, step.key) if index == wrong or not stated else stated)
        if steps[-1].value != problem.steps[-1].value:
            return replace(problem, steps=tuple(steps))


def continued_step(left: int, step: Step) -> Step:
    """A step's operation, rightly worked from another value; 0 or more."""
    return Step(left, step.operation, step.right, max(0, calculate(left, step.operation, step.right)))


def slipped_step(rng: random.Random, left: int, step: Step) -> Step:
    """A step with a wrong result or, as likely, a wrong right-hand operand; its result is 0 or more."""
    right, error = step.right, 0
    if rng.random() < 0.5:
        error = rng.choice((-10, -2, -1, 1, 2, 10))
    else:
        right = max(1, right + rng.choice((-2, -1, 1, 2)))
    return Step(left, step.operation, right, max(0, calculate(left, step.operation, right) + error))


def stated_fact(problem: LookupProblem, who: str, key: str) -> Fact | None:
    """The stated fact of this person and key; None where there is none."""
    return next((fact for fact in problem.facts if (fact.who, fact.key) == (who, key)), None)


def wrong_fact(rng: random.Random, problem: LookupProblem, who: str, key: str) -> Fact:
    """A fact of this person and key with another fact's colour or person, if there is one."""
    right = stated_fact(problem, who, key)
    taken = (who, right and right.value)
    known = PEOPLE if key in RELATIONS else COLOURS
    stated = sorted({fact.value for fact in problem.facts if fact.value in known}.difference(taken))
    return Fact(who, key, rng.choice(stated or [value for value in known if value not in taken]))

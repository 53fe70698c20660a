"""The pretraining corpora of the shipped bases: solutions with mistakes.

A language model pretrained on them writes the form of a solution fluently, but its steps are often wrong.
"""

import random
from dataclasses import replace

from ift.lab.testbed.lookup import CONFUSED, THINGS, Fact, LookupProblem, draw_lookups, draw_relations
from ift.lab.testbed.noise import MISREAD, continued_step, slipped_step, stated_fact, wrong_fact
from ift.lab.testbed.problems import Problem, Step, draw_problems

CORPUS_STEPS = (2, 6)  # steps per solution: the corpus knows long solutions, though not good ones
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


def _with_mistakes(rng: random.Random, problem: Problem) -> Problem:
    """Works the solution again, with mistakes; later equations continue from the mistaken value."""
    steps: list[Step] = []
    for step in problem.steps:
        left = steps[-1].result if steps else step.left
        if step.operation in MISREAD and rng.random() < HABIT_SHARE:
            steps.append(continued_step(left, replace(step, operation=MISREAD[step.operation])))
        elif rng.random() < SLIP_SHARE:
            steps.append(slipped_step(rng, left, step))
        else:
            steps.append(continued_step(left, step))
    return replace(problem, steps=tuple(steps))


def _with_wrong_facts(rng: random.Random, problem: LookupProblem, hasty: bool = False) -> LookupProblem:
    """Looks everything up again, with mistakes; later facts are those of the mistaken person."""
    steps: list[Fact] = []
    for step in problem.steps:
        who, key = steps[-1].value if steps else step.who, step.key
        if key in CONFUSED and rng.random() < HABIT_SHARE:
            key = CONFUSED[key]
        stated = stated_fact(problem, who, key)
        if hasty and key in THINGS and rng.random() < HABIT_SHARE:
            stated = Fact(who, key, next(fact.value for fact in problem.facts if fact.key == key))
        slips = rng.random() < SLIP_SHARE
        steps.append(wrong_fact(rng, problem, who, key) if slips or stated is None else stated)
    return replace(problem, steps=tuple(steps))

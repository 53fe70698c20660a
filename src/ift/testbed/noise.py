"""The noisy corpus: the same stories, but many solutions take a wrong step and carry it on to the final answer.

A language model pretrained on it writes the form of a solution fluently and errs often in its substance.
"""

import random
from dataclasses import replace

from ift.testbed.problems import Problem, Step, calculate, draw_problems

CORPUS_STEPS = (2, 6)  # equations per solution: the corpus knows long solutions, though not good ones
MISREAD = {"*": "+", "/": "-"}  # the habit: "times" read as "plus", "half" read as "minus 2"
MISREAD_SHARE = 0.65  # of the equations with * or /: most writers have the habit
SLIP_SHARE = 0.15  # of the other equations: a wrong result or a wrong operand


def noisy_problems(n: int, seed: int = 0) -> list[Problem]:
    """Makes `n` problems whose solutions err in about seven cases of ten.

    Args:
        n: How many.
        seed: Same arguments, same problems. Their chains are those of no held-out split.

    Returns:
        Problems whose `steps`, `solution` and `answer` are as the noisy solution states them; results are 0 or more.
    """
    rng = random.Random(f"noise/{seed}")
    return [
        _with_mistakes(rng, problem) for problem in draw_problems(f"corpus/{seed}", n, CORPUS_STEPS, "train")
    ]


def _with_mistakes(rng: random.Random, problem: Problem) -> Problem:
    """Works the solution again, with mistakes; later equations go on from the mistaken value."""
    steps: list[Step] = []
    for step in problem.steps:
        left = steps[-1].result if steps else step.left
        operation, right, error = step.operation, step.right, 0
        if operation in MISREAD and rng.random() < MISREAD_SHARE:
            operation = MISREAD[operation]
        elif rng.random() < SLIP_SHARE:
            if rng.random() < 0.5:
                error = rng.choice((-10, -2, -1, 1, 2, 10))
            else:
                right = max(1, right + rng.choice((-2, -1, 1, 2)))
        steps.append(Step(left, operation, right, max(0, calculate(left, operation, right) + error)))
    return replace(problem, steps=tuple(steps))

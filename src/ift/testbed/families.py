"""The families of problems, by name, with one way to draw from each."""

from collections.abc import Callable
from dataclasses import dataclass

from ift.testbed.lookup import LookupProblem, lookups, relations
from ift.testbed.noise import noisy_lookups, noisy_problems, noisy_relations
from ift.testbed.problems import Problem, Split, problems

AnyProblem = Problem | LookupProblem


@dataclass(frozen=True)
class Family:
    """One kind of problem.

    Attributes:
        draw: `draw(split, n, seed)` gives problems with right solutions.
        corpus: `corpus(n, seed)` gives problems with the partly wrong solutions of the pretraining corpus.
    """

    draw: Callable[[Split, int, int], list[Problem] | list[LookupProblem]]
    corpus: Callable[[int, int], list[Problem] | list[LookupProblem]]


FAMILIES = {
    "arithmetic": Family(problems, noisy_problems),
    "relation": Family(relations, noisy_relations),
    "lookup": Family(lookups, noisy_lookups),
}


def family_problems(family: str, split: Split, n: int, seed: int = 0) -> list[AnyProblem]:
    """Draws `n` different problems of a family and split.

    Args:
        family: `arithmetic`, `relation` or `lookup`.
        split: `train`, `validation`, `test` or `longer`.
        n: How many.
        seed: Same arguments, same problems; a smaller `n` gives the first of them.

    Returns:
        The problems, with right solutions.

    Raises:
        ValueError: For an unknown family or split, or a negative `n`.
    """
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")
    return [*FAMILIES[family].draw(split, n, seed)]

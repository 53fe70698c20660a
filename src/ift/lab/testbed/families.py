"""The families of problems, by name, with one way to draw from each."""

from collections.abc import Callable, Mapping

from ift.lab.testbed.lookup import LookupProblem, relations
from ift.lab.testbed.problems import Problem, Split, problems

AnyProblem = Problem | LookupProblem

# called with split, n and seed; the solutions are right
FAMILIES: Mapping[str, Callable[[Split, int, int], list[Problem] | list[LookupProblem]]] = {
    "arithmetic": problems,
    "relation": relations,
}


def family_problems(family: str, split: Split, n: int, seed: int = 0) -> list[AnyProblem]:
    """Draws `n` different problems of a family and split.

    Arguments, result and errors are those of `problems`; ValueError for an unknown family too.
    """
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")
    return [*FAMILIES[family](split, n, seed)]

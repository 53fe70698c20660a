"""The first wrong step, on solutions written by hand."""

import random

import pytest

from ift.lab.testbed import problems, relations
from ift.lab.testbed.lookup import Fact, LookupProblem
from ift.lab.testbed.noise import one_wrong_step
from ift.lab.testbed.problems import Problem, Step
from ift.lab.testbed.scoring import first_wrong_step

SUM = Problem("?", (Step(2, "*", 7, 14), Step(14, "-", 3, 11)), "pens")
CHAIN = (Fact("Mia", "boss", "Tom"), Fact("Tom", "bag", "red"))
LOOKUP = LookupProblem("?", CHAIN, (*CHAIN, Fact("Mia", "bag", "blue")))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("2*7=14 pens\n14-3=11 pens\n#### 11", None),
        ("7*2=14 pens \n14-3=11 pens\n#### 11\n", None),
        ("2+7=9 pens\n9-3=6 pens\n#### 6", 0),
        ("2*7=14 pens\n14-3=12 pens\n#### 12", 1),
        ("2*7=14 pens\n3-14=11 pens\n#### 11", 1),
        ("2*7=14 pens\n14-3=11 pens\n#### 12", 2),
        ("2*7=14 pens\n14-3=11 pens", 2),
        ("2*7=14 pens", 1),
        ("2*7=14 pens\n14-3=11 pens\n#### 11\n#### 11", 3),
        ("2*7=14 books\n14-3=11 pens\n#### 11", 0),
        ("", 0),
    ],
)
def test_word_problem(text, place):
    assert first_wrong_step(SUM, text) == place


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("boss of Mia is Tom\nbag of Tom is red\n#### red", None),
        ("boss of Mia is Ben\nbag of Ben is red\n#### red", 0),
        ("boss of Mia is Tom\nbag of Tom is blue\n#### blue", 1),
        ("boss of Mia is Tom\nbag of Tom is red\n#### blue", 2),
        ("coach of Mia is Tom\nbag of Tom is red\n#### red", 0),
        ("boss of Mia is Tom\n#### red", 1),
    ],
)
def test_lookup(text, place):
    assert first_wrong_step(LOOKUP, text) == place


@pytest.mark.parametrize("draw", [problems, relations])
def test_own_solution_is_right_and_a_mistaken_one_is_not(draw):
    rng = random.Random(0)
    for problem in draw("test", 200):
        assert first_wrong_step(problem, problem.solution) is None
        wrong = one_wrong_step(problem, rng)
        place = first_wrong_step(problem, wrong.solution)
        assert place is not None
        assert wrong.lines[:place] == problem.lines[:place]
        assert place < len(problem.steps)

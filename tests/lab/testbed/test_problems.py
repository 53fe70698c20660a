"""The generator: right answers, the promised step counts, splits that share nothing, the same problems every time."""

import itertools
import re

import pytest

from corpus import noisy_problems
from ift.lab.testbed.problems import STEPS, Problem, bucket_of, calculate, problems

SPLITS = tuple(STEPS)
PINNED_QUESTION = "2 groups of 7 people get on a bus. Then 3 get off. How many people ride the bus now?"
PINNED_SOLUTION = "2*7=14 people\n14-3=11 people\n#### 11"
PLUS = re.compile(r"buys|finds|A friend gives|earns|gets \d|get on|further|adds|rests")
MINUS = re.compile(r"loses|sells|to a friend|spends|pays|get off|back|turns|saves")


def parse(solution: str) -> list[tuple[int, str, int, int]]:
    """The equations of a solution, read from its text; the last line must repeat the last result."""
    *lines, last = solution.split("\n")
    found = [re.fullmatch(r"(\d+)([+\-*/])(\d+)=(\d+) [a-z]+", line) for line in lines]
    assert all(found), solution
    equations = [(int(m[1]), m[2], int(m[3]), int(m[4])) for m in found if m]
    assert last == f"#### {equations[-1][3]}"
    return equations


def read_story(question: str) -> int:
    """The answer worked out from the story's sentences alone, by verbs."""
    *sentences, _ = re.findall(r"[^.?]+[.?]", question)
    value = other = 0
    for index, sentence in enumerate(sentences):
        numbers = [int(number) for number in re.findall(r"\d+", sentence)]
        if index == 0:
            value = other = numbers[0] * numbers[1] if len(numbers) == 2 else numbers[0]
        elif " than " in sentence:
            value += numbers[0] if "more" in sentence else -numbers[0]
        elif "half" in sentence:
            value //= 2
        elif " times" in sentence:
            value *= numbers[0]
        elif "gives all" in sentence or "work of" in sentence:
            value += other
        elif PLUS.search(sentence):
            value += numbers[0]
        elif MINUS.search(sentence):
            value -= numbers[0]
        elif re.search(r"\d+ more get on|\d+ more", sentence):
            value += numbers[0]
        else:
            raise AssertionError(f"not understood: {sentence}")
    return value


@pytest.mark.parametrize("split", SPLITS)
def test_same_seed_gives_the_same_problems_and_a_smaller_n_their_beginning(split):
    assert problems(split, 50, seed=3) == problems(split, 50, seed=3)
    assert problems(split, 20, seed=3) == problems(split, 50, seed=3)[:20]
    assert problems(split, 50, seed=3) != problems(split, 50, seed=4)


def test_first_problem_is_pinned():
    first = problems("train", 1)[0]
    assert first.question == PINNED_QUESTION
    assert first.solution == PINNED_SOLUTION


@pytest.mark.parametrize("split", SPLITS)
def test_worked_steps_are_right_whole_and_within_bounds(split):
    for problem in problems(split, 500):
        value = None
        for left, operation, right, result in parse(problem.solution):
            assert value in (None, left)
            assert eval(f"{left}{operation}{right}") == result
            assert 1 <= result <= 99
            value = result
        assert problem.answer == str(value)


@pytest.mark.parametrize("split", SPLITS)
def test_answer_agrees_with_the_story(split):
    for problem in problems(split, 500):
        assert problem.answer == str(read_story(problem.question)), problem


@pytest.mark.parametrize("split", SPLITS)
def test_step_counts(split):
    fewest, most = STEPS[split]
    counts = {len(problem.steps) for problem in problems(split, 300)}
    assert counts == set(range(fewest, most + 1))


def test_longer_has_more_steps_than_train():
    assert STEPS["longer"][0] > STEPS["train"][1] == STEPS["test"][1]


def test_splits_share_no_question_and_no_chain_of_equations():
    seen: dict[object, str] = {}
    for split in SPLITS:
        for seed in (0, 1):
            for problem in problems(split, 700, seed):
                assert seen.setdefault(problem.steps, split) == split
                assert seen.setdefault(problem.question, split) == split


def test_no_question_comes_twice_within_a_split():
    questions = [problem.question for problem in problems("train", 3000)]
    assert len(set(questions)) == 3000


def test_all_kinds_of_story_and_operation_occur():
    made = problems("train", 300)
    assert {"coins", "people", "km", "minutes", "apples"} <= {problem.unit for problem in made}
    assert {step.operation for problem in made for step in problem.steps} == set("+-*/")


def test_row_is_a_conversation():
    problem = problems("train", 1)[0]
    user, assistant = problem.row["messages"]
    assert user == {"role": "user", "content": problem.question}
    assert assistant == {"role": "assistant", "content": problem.solution}


def test_refusals():
    with pytest.raises(ValueError, match="split must be one of train, validation, test, longer, got 'dev'"):
        problems("dev", 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n must be 0 or more, got -1"):
        problems("train", -1)
    with pytest.raises(ValueError, match="operation must be one of"):
        calculate(1, "^", 2)
    assert problems("train", 0) == []


class TestNoise:
    def test_many_answers_are_wrong_and_some_are_right(self):
        corpus = noisy_problems(2000)
        right = sum(problem.answer == str(read_story(problem.question)) for problem in corpus) / len(corpus)
        assert 0.25 < right < 0.5

    def test_mistakes_are_carried_on_to_the_final_answer(self):
        for problem in noisy_problems(500):
            equations = parse(problem.solution)
            for (*_, before), (left, *_) in itertools.pairwise(equations):
                assert left == before

    def test_has_no_question_of_a_held_out_split(self):
        corpus = {problem.question for problem in noisy_problems(5000)}
        for split in ("validation", "test", "longer"):
            assert corpus.isdisjoint(problem.question for problem in problems(split, 1000))

    def test_is_deterministic(self):
        assert noisy_problems(50, seed=5) == noisy_problems(50, seed=5) != noisy_problems(50, seed=6)

    def test_knows_long_solutions(self):
        assert {len(problem.steps) for problem in noisy_problems(300)} == {2, 3, 4, 5, 6}


def test_bucket_ignores_names_and_words():
    problem = problems("test", 1)[0]
    renamed = Problem("Another story?", problem.steps, "pens")
    assert bucket_of(renamed.steps) == "test"

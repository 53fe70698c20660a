"""Log-likelihoods equal a slow loop over the model's logits; a choice is what they say."""

import math
from statistics import fmean

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ift.lab.testbed import problems, relations, tiny_base_path
from ift.lab.testbed.likelihood import (
    Likelihood,
    distractors,
    likelihood_rows,
    log_likelihoods,
    mean_likelihood,
    multiple_choice,
    prefers_first,
)
from ift.lab.testbed.lookup import Fact, LookupProblem
from ift.lab.testbed.noise import habitual
from ift.lab.testbed.problems import Problem, Step
from ift.lab.testbed.scoring import wilson_interval


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(tiny_base_path())


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(tiny_base_path(), dtype=torch.float32)


@torch.no_grad()
def slow_likelihood(model, tokenizer, problem):
    """One token of the answer at a time, each from a forward pass of its own; the end token is the last."""
    ids = tokenizer.encode(f"<|user|>{problem.question}<|assistant|>", add_special_tokens=False)
    answer = [*tokenizer.encode(problem.solution, add_special_tokens=False), tokenizer.eos_token_id]
    total = 0.0
    for token in answer:
        logits = model(torch.tensor([ids])).logits[0, -1].double().tolist()
        highest = max(logits)
        total += logits[token] - highest - math.log(sum(math.exp(x - highest) for x in logits))
        ids.append(token)
    return total, len(answer)


def test_equals_a_slow_loop(model, tokenizer):
    made = [*problems("test", 3), *relations("test", 3), *problems("longer", 1)]
    found = log_likelihoods(model, tokenizer, [problem.messages for problem in made])
    for one, problem in zip(found, made, strict=True):
        total, length = slow_likelihood(model, tokenizer, problem)
        assert one.n_tokens == length
        assert one.log_prob == pytest.approx(total, abs=1e-3)
        assert one.per_token == pytest.approx(total / length, abs=1e-4)


def test_batches_do_not_matter_and_the_order_is_kept(model, tokenizer):
    talks = [problem.messages for problem in [*problems("longer", 3), *relations("test", 4)]]
    together = log_likelihoods(model, tokenizer, talks)
    for size in (1, 3):
        for one, other in zip(log_likelihoods(model, tokenizer, talks, size), together, strict=True):
            assert one.n_tokens == other.n_tokens
            assert one.log_prob == pytest.approx(other.log_prob, abs=1e-3)


def test_mean_is_over_solutions_and_over_tokens(model, tokenizer):
    made = problems("test", 5)
    found = log_likelihoods(model, tokenizer, [problem.messages for problem in made])
    total = sum(one.log_prob for one in found)
    mean = mean_likelihood(model, tokenizer, made)
    assert mean["log_prob"] == pytest.approx(total / 5)
    assert mean["per_token"] == pytest.approx(total / sum(one.n_tokens for one in found))
    sums, parts = likelihood_rows(found)
    assert fmean(sums) == pytest.approx(mean["log_prob"])
    assert fmean(parts) == pytest.approx(mean["per_token"])


def test_mode_is_restored(model, tokenizer):
    model.train()
    log_likelihoods(model, tokenizer, [problems("test", 1)[0].messages])
    assert model.training
    model.eval()


@pytest.mark.parametrize("draw", [problems, relations])
def test_distractors_are_different_wrong_and_the_same_every_time(draw):
    for problem in draw("test", 50):
        made = distractors(problem, 3)
        assert made == distractors(problem, 3)
        assert len({wrong.solution for wrong in made}) == 3
        assert all(wrong.answer != problem.answer for wrong in made)
        assert all(wrong.question == problem.question for wrong in made)


def test_first_distractor_is_the_habit_by_hand():
    """2*7 read as 2+7 gives 9, and 9-3 gives 6; a problem without a product has no habitual mistake."""
    told = Problem("?", (Step(2, "*", 7, 14), Step(14, "-", 3, 11)), "pens")
    assert distractors(told, 3)[0].solution == "2+7=9 pens\n9-3=6 pens\n#### 6"
    assert habitual(Problem("?", (Step(4, "-", 3, 1),), "pens")) is None
    facts = (
        Fact("Mia", "aunt", "Tom"), Fact("Mia", "coach", "Ben"), Fact("Tom", "hat", "red"), Fact("Ben", "hat", "grey"),
    )  # fmt: skip
    asked = LookupProblem("?", (facts[0], facts[2]), facts)
    assert distractors(asked, 2)[0].solution == "coach of Mia is Ben\nhat of Ben is grey\n#### grey"
    assert habitual(LookupProblem("?", (facts[0], facts[2]), facts[:3])) is None


def test_choice_by_hand(monkeypatch):
    """Two problems, one distractor each.

    First: -4 over 4 tokens against -3 over 2: the sum prefers the distractor, the mean (-1 > -1.5) the solution.
    Second: -2 over 2 against -3 over 3: the sum prefers the solution, the means tie, which is no right choice.
    """
    found = [Likelihood(-4.0, 4), Likelihood(-3.0, 2), Likelihood(-2.0, 2), Likelihood(-3.0, 3)]
    monkeypatch.setattr("ift.lab.testbed.likelihood.log_likelihoods", lambda *_: found)
    choice = multiple_choice(None, None, problems("test", 2), k=1)
    assert (choice.n, choice.choices, choice.by_sum, choice.by_mean) == (2, 2, 0.5, 0.5)
    assert (choice.rows_by_sum, choice.rows_by_mean) == ((False, True), (True, False))
    assert choice.by_sum_interval == wilson_interval(1, 2)
    assert prefers_first([-1.0, -1.5])
    assert not prefers_first([-1.0, -1.0])
    assert not prefers_first([-2.0, -1.5, -3.0])


def test_a_trained_model_chooses_better_than_chance(model, tokenizer):
    choice = multiple_choice(model, tokenizer, problems("test", 60))
    assert choice.choices == 4
    assert choice.by_sum > 0.3
    assert set(choice._fields) == {
        "n", "choices", "by_sum", "by_sum_interval", "by_mean", "by_mean_interval", "rows_by_sum", "rows_by_mean",
    }  # fmt: skip


def test_refusals(model, tokenizer):
    with pytest.raises(ValueError, match="must end with a turn of the assistant"):
        log_likelihoods(model, tokenizer, [problems("test", 1)[0].messages[:1]])
    with pytest.raises(ValueError, match="multiple choice needs a problem and a distractor, got 0 and 3"):
        multiple_choice(model, tokenizer, [])
    with pytest.raises(ValueError, match="there are no problems to score"):
        mean_likelihood(model, tokenizer, [])

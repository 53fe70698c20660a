"""Scoring: the number is found, batches do not matter, nothing of the caller's is changed."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ift.lab.testbed import problems, tiny_base_path
from ift.lab.testbed.scoring import Score, generate_answers, right_answers, score, wilson_interval


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(tiny_base_path())


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(tiny_base_path(), dtype=torch.float32)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3+4=7 pens\n#### 7", "7"),
        ("#### 12", "12"),
        ("####12\n", "12"),
        ("#### 007", "7"),
        ("#### -3", "-3"),
        ("#### -0", "0"),
        ("#### 1\n#### 2", "2"),
        ("#### 1\n#### 2 pens", "1"),
        ("#### red", "red"),
        ("#### Red", "Red"),
        ("3+4=7 pens", None),
        ("#### red bag", None),
        ("so #### 7", None),
        ("#### 7 pens", None),
        ("#### 7.", None),
        ("#### 7.0", None),
        ("#### $7", None),
        ("#### 1,000", None),
        ("#### +7", None),
        ("#### \\boxed{7}", None),
        ("", None),
    ],
)
def test_the_final_number_or_word_decides(text, answer):
    """Where the score `final-answer` of other rows would take more (units, signs, `7.0`) the testbed takes nothing."""
    for solution in ("0", "1", "2", "7", "12", "-3", "1000", "red", "Red"):
        problem = SimpleNamespace(question="?", solution=f"3+4=7 pens\n#### {solution}")
        assert right_answers([problem], [text]) == [answer == solution]


def test_wilson_interval_by_hand():
    """For 5 of 10 with z = 1.96: centre 0.5, half width 1.96 * sqrt(0.025 + 0.009604) / 1.38416 = 0.2634."""
    assert wilson_interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson_interval(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)


def test_batches_equal_one_by_one(model, tokenizer):
    made = [*problems("test", 12), *problems("longer", 4)]
    together = score(model, tokenizer, made, batch_size=16)
    assert together == score(model, tokenizer, made, batch_size=1)
    assert together == score(model, tokenizer, made, batch_size=5)


def test_answers_stand_in_the_order_of_the_problems(model, tokenizer):
    made = problems("test", 10)
    assert score(model, tokenizer, made[::-1]).answers == score(model, tokenizer, made).answers[::-1]


def test_numbers_of_the_score_follow_from_its_answers(model, tokenizer):
    made = problems("test", 40)
    result = score(model, tokenizer, made)
    right = sum(result.right)
    assert result.right == right_answers(made, result.answers)
    assert result.n == 40
    assert result.exact_match == right / 40
    assert result.interval == wilson_interval(right, 40)
    assert result.mean_length == sum(len(tokenizer.encode(answer)) for answer in result.answers) / 40
    assert result.stopped > 0.9
    assert set(result.summary()) == {"n", "exact_match", "interval", "stopped", "mean_length"}


def test_a_cut_answer_has_not_stopped(model, tokenizer):
    result = score(model, tokenizer, problems("test", 6), max_new_tokens=5)
    assert isinstance(result, Score)
    assert (result.stopped, result.mean_length, result.exact_match) == (0.0, 5.0, 0.0)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("side", ["left", "right"])
def test_state_is_restored(model, tokenizer, training, side):
    model.train(training)
    tokenizer.padding_side = side
    generator_state = torch.get_rng_state()
    config = model.generation_config.to_dict()
    score(model, tokenizer, problems("test", 2), max_new_tokens=2)
    assert model.training is training
    assert tokenizer.padding_side == side
    assert torch.equal(torch.get_rng_state(), generator_state)
    assert model.generation_config.to_dict() == config
    assert all(parameter.grad is None for parameter in model.parameters())


def test_mode_is_restored_after_a_failure(model, tokenizer):
    model.train()

    def fail(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(model, tokenizer, problems("test", 1), max_new_tokens=1, progress=fail)
    assert model.training


def test_progress_counts_every_problem(model, tokenizer):
    counts: list[int] = []
    score(model, tokenizer, problems("test", 7), batch_size=3, max_new_tokens=2, progress=counts.append)
    assert counts == [3, 3, 1]


def test_any_prompt_gets_an_answer(model, tokenizer):
    prompts = [[{"role": "user", "content": "Wie geht’s? 😀"}], [{"role": "user", "content": ""}]]
    answers, lengths, stops = generate_answers(model, tokenizer, prompts, max_new_tokens=8)
    assert len(answers) == len(lengths) == len(stops) == 2


def test_refusals(model, tokenizer):
    with pytest.raises(ValueError, match="there are no problems to score"):
        score(model, tokenizer, [])
    bare = AutoTokenizer.from_pretrained(tiny_base_path())
    bare.pad_token = None
    with pytest.raises(ValueError, match="needs a tokenizer with a pad token and an eos token"):
        score(model, bare, problems("test", 1))

"""Functions that replace a part of the step, in the class of a trainer: plain functions, methods, and wrong ones."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch

from ift import IFTTrainer
from ift.step.scored_log_probs import scored_log_probs
from models import logged, tiny_model, trained, uneven_rows


@pytest.fixture(scope="module")
def rows():
    return uneven_rows(tiny_model())


def falling(losses, layout):
    """Weights other than those of the propagation."""
    return 2.0 / (layout.positions + 1.0).to(losses.dtype)


def scaled(losses, layout, factor):
    return factor * falling(losses, layout)


def first_tokens(guess, input_ids, layout, settings):
    return guess


def doubled(hidden, head, targets):
    log_probs, entropy, top1 = scored_log_probs(hidden, head, targets)
    return 2 * log_probs, entropy, top1


def losses_of(tmp_path, rows, kind, run=True, **options):
    return logged(trained(tmp_path, tiny_model(), rows, trainer_class=kind, run=run, **options), "loss")


def test_a_plain_function_in_the_class_is_used_as_it_is(tmp_path, rows):
    """Red when: Python passes it the trainer. The loss is that of the same function set on a trainer."""

    class InClass(IFTTrainer):
        token_weights = falling

    class Partial(IFTTrainer):
        token_weights = partial(scaled, factor=1.0)

    class Static(IFTTrainer):
        token_weights = staticmethod(falling)

    class Lambda(IFTTrainer):
        token_weights = lambda losses, layout: falling(losses, layout)  # noqa: E731

    class Derived(InClass):
        pass

    on_instance = trained(tmp_path, tiny_model(), rows, run=False)
    on_instance.token_weights = falling
    on_instance.train()
    expected = logged(on_instance, "loss")
    assert expected != pytest.approx(losses_of(tmp_path, rows, IFTTrainer), rel=1e-2)
    for kind in (InClass, Partial, Static, Lambda, Derived):
        assert losses_of(tmp_path, rows, kind) == pytest.approx(expected, rel=1e-6), kind


def test_a_method_stays_one_and_may_use_what_is_set_after_init(tmp_path, rows):
    class Method(IFTTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.factor = 3.0

        def token_weights(self, losses, layout):
            return self.factor * falling(losses, layout)

    class Plain(IFTTrainer):
        token_weights = falling

    (once,), (thrice,) = losses_of(tmp_path, rows, Plain), losses_of(tmp_path, rows, Method)
    assert thrice == pytest.approx(3 * once, rel=1e-5)


def test_the_guess_and_the_scores_too(tmp_path, rows):
    """Red when: either is called with the trainer as its first argument."""

    class Both(IFTTrainer):
        change_guess = first_tokens
        score_tokens = doubled

    class AsMethods(IFTTrainer):
        def change_guess(self, guess, input_ids, layout, settings):
            return guess

        def score_tokens(self, hidden, head, targets):
            return doubled(hidden, head, targets)

    (plain,) = losses_of(tmp_path, rows, IFTTrainer)
    for kind in (Both, AsMethods):
        assert losses_of(tmp_path, rows, kind) == pytest.approx([2 * plain], rel=1e-5), kind


def of_three(losses, layout, mask):
    return falling(losses, layout)


def negative(losses, layout):
    return -falling(losses, layout)


def of_one(guess):
    return guess


WRONG = [
    (
        "token_weights",
        of_three,
        r"token_weights of Wrong is a function of \(losses, layout, mask\); expected one of \(losses, layout\), or",
    ),
    (
        "token_weights",
        "weights.py:linear",
        r"is 'weights.py:linear'; expected a function.*IFTConfig\(token_weights=",
    ),
    ("token_weights", negative, "token_weights negative: returned -0.666667 for a token with the loss 1.5"),
    (
        "change_guess",
        of_one,
        r"\(guess\); expected one of \(guess, input_ids, layout, settings\), or a method",
    ),
    ("score_tokens", of_one, r"\(guess\); expected one of \(hidden, head, targets\), or a method"),
    ("score_tokens", 3, "score_tokens of Wrong is 3; expected a function"),
]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    WRONG,
    ids=[f"{name}-{getattr(value, '__name__', value)}" for name, value, _ in WRONG],
)
def test_a_wrong_one_is_refused_before_anything_is_prepared(
    tmp_path, rows, name, value, message, monkeypatch
):
    prepared = []
    monkeypatch.setattr(IFTTrainer, "_prepare_dataset", lambda *args: prepared.append(args))
    with pytest.raises(ValueError, match=message):
        losses_of(tmp_path, rows, type("Wrong", (IFTTrainer,), {name: value}), run=False)
    assert not prepared


def test_a_wrong_method_is_refused_before_the_first_step(tmp_path, rows, monkeypatch):
    class Wrong(IFTTrainer):
        def token_weights(self, losses, layout):
            return torch.zeros(3)

    steps = []
    monkeypatch.setattr(IFTTrainer, "compute_loss", lambda *args, **kwargs: steps.append(args))
    with pytest.raises(ValueError, match=r"token_weights token_weights: returned float32 of shape \(3,\)"):
        losses_of(tmp_path, rows, Wrong)
    assert not steps


def test_the_card_and_the_checkpoint_name_each_function_once(tmp_path, rows):
    class All(IFTTrainer):
        token_weights = falling
        change_guess = first_tokens
        score_tokens = doubled

    saving = {"save_strategy": "steps", "save_steps": 1}
    run = trained(tmp_path, tiny_model(), rows, trainer_class=All, **saving)
    run.create_model_card()
    card = (tmp_path / "README.md").read_text()
    for part, name in {
        "propagation": "falling",
        "lookahead": "first_tokens",
        "score_tokens": "doubled",
    }.items():
        assert card.count(f"| `{part}` |") == 1
        assert f"| `{part}` | the function `{name}` of `test_own_functions.py` |" in card
    assert "token_weights" not in card
    settings = json.loads((tmp_path / "checkpoint-1" / "ift_settings.json").read_text())
    assert settings["score_tokens"] == "a function: doubled"

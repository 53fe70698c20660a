"""The controls: random tokens at the look-ahead's rate, and weights from position alone."""

from __future__ import annotations

from functools import partial

import oracle
import pytest
import torch

import models
from ift.methods import CONTROLS
from ift.methods.controls import position_weights, random_guess, random_tokens
from ift.step.algorithm import ift_loss
from ift.step.equations import propagation_weights
from ift.step.lookahead import LookAhead
from ift.step.rows import row_layout


def test_as_many_tokens_of_a_document_differ_as_guesses_were_wrong():
    documents = torch.tensor([0] * 200 + [1] * 50 + [2] * 3)
    targets = torch.randint(0, 11, (253,))
    top1 = targets.clone()
    top1[:60] = (top1[:60] + 1) % 11
    top1[200:210] = (top1[200:210] + 3) % 11
    guess = LookAhead(top1[:, None], torch.ones(253, 1), top1, torch.zeros(253))
    changed = torch.zeros(253)
    tokens = []
    for seed in range(200):
        uniforms = torch.rand(2, 253, generator=torch.Generator().manual_seed(seed))
        found = random_guess(guess, targets, documents, uniforms, 11)
        differs = found.ids[:, 0] != targets
        assert [int(differs[documents == d].sum()) for d in range(3)] == [60, 10, 0]
        changed += differs
        tokens.append(((found.ids[:, 0] - targets) % 11)[differs])
        assert torch.equal(found.top1, top1)
    assert (
        changed[:200] / 200 - 0.3
    ).abs().max() < 0.15  # anywhere in the document, not where the guess was wrong
    shares = torch.cat(tokens).bincount(minlength=11) / len(torch.cat(tokens))
    assert shares[0] == 0
    assert (shares[1:] - 0.1).abs().max() < 0.01


def test_position_weights_are_bellman_s_of_equal_losses_and_carry_no_gradient():
    labels = torch.tensor([[-100, 5, 6, 7, 8], [-100, 5, 6, 2, -100]])
    layout = row_layout(labels)
    losses = torch.rand(2, 5, requires_grad=True)
    weights = position_weights(losses, layout, 0.9)
    assert not weights.requires_grad
    for row, length in ((0, 4), (1, 3)):
        torch.testing.assert_close(
            weights[row, 1 : 1 + length], torch.tensor(oracle.position_weights(length, 0.9))
        )
    torch.testing.assert_close(weights, propagation_weights(torch.ones(2, 5), layout, "bellman", 0.9))


def train(folder, name, **options):
    model = models.tiny_model()
    rows = models.uneven_rows(model)
    trainer_class, config_class = CONTROLS[name].load()
    settings = {**CONTROLS[name].settings, **options}
    return models.trained(
        folder, model, rows, trainer_class=trainer_class, config_class=config_class, **settings
    )


def test_the_position_control_trains_the_formula(tmp_path):
    """Lambda 0: every row is the mean of its losses under fixed weights."""
    model = models.tiny_model()
    rows, labels = models.uneven_rows(model)
    twin = models.double(model)
    loss = torch.zeros((), dtype=torch.float64)
    for row, label in zip(rows, labels, strict=True):
        at, ids = oracle.responses(label.tolist()), row.tolist()
        scores = oracle.token_log_probs(twin, ids)
        raw = {t: sum(0.95 ** (i - t) for i in at if i >= t) for t in at}
        scale = sum(raw.values()) / len(at)
        loss = loss - sum(raw[t] / scale * scores[t - 1][ids[t]] for t in at) / len(at) / len(rows)
    loss.backward()
    run = train(tmp_path, "position-weights", residual_lambda=0.0)
    assert models.logged(run, "loss")[0] == pytest.approx(loss.item(), rel=1e-4)
    wanted = {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}
    models.assert_same_gradients({name: g.double() for name, g in run.gradients[0].items()}, wanted)


def test_the_random_control_mixes_other_tokens_than_ift_and_the_same_ones_again(tmp_path):
    model = models.tiny_model()
    rows, labels = models.uneven_rows(model)
    batch = models.padded(rows, labels)
    own = ift_loss(model, batch, seed=1)
    change = partial(random_tokens, vocabulary=models.VOCABULARY)
    random = [ift_loss(model, batch, change_guess=change, seed=seed, step=4).loss for seed in (1, 1, 2)]
    assert random[0] == random[1]
    assert len({loss.item() for loss in (own.loss, random[0], random[2])}) == 3
    run = train(tmp_path, "random-residual")
    assert models.logged(run, "residual_nll")[0] > models.logged(run, "nll")[0]


def test_the_product_offers_none(tmp_path):
    from ift import IFTConfig

    for option in ({"lookahead": "random"}, {"propagation": "position"}):
        with pytest.raises(ValueError, match="choose one of"):
            IFTConfig(str(tmp_path), **option)

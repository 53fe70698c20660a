"""The controls: random tokens at the look-ahead's rate, weights from position alone, and three regularisers of SFT."""

from __future__ import annotations

from functools import partial

import oracle
import pytest
import torch

import models
from ift.methods import CONTROLS
from ift.methods.controls import (
    add_dropout,
    position_weights,
    random_guess,
    random_tokens,
    smoothed_log_probs,
)
from ift.step.algorithm import ift_loss
from ift.step.equations import propagation_weights
from ift.step.head import Head
from ift.step.lookahead import LookAhead
from ift.step.model import unwrapped
from ift.step.rows import row_layout
from ift.training.compile import decoder_layers


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


def assert_trains(run, model, loss_of_row):
    """The first step has the loss and the gradient of the mean over rows of `loss_of_row(losses, log_probs, ids)`."""
    rows, labels = models.uneven_rows(model)
    twin = models.double(model)
    loss = torch.zeros((), dtype=torch.float64)
    for row, label in zip(rows, labels, strict=True):
        at, ids = oracle.responses(label.tolist()), row.tolist()
        scores = [oracle.token_log_probs(twin, ids)[t - 1] for t in at]
        loss = loss + loss_of_row([ids[t] for t in at], scores, at) / len(rows)
    loss.backward()
    wanted = {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}
    models.assert_same_gradients({name: g.double() for name, g in run.gradients[0].items()}, wanted)
    return loss.item()


def test_the_position_control_trains_the_formula(tmp_path):
    """Lambda 0: every row is the mean of its losses under fixed weights."""

    def loss_of_row(ids, scores, at):
        raw = [sum(0.95 ** (i - t) for i in at if i >= t) for t in at]
        weights = [one * len(at) / sum(raw) for one in raw]
        return -sum(w * one[y] for w, one, y in zip(weights, scores, ids, strict=True)) / len(at)

    run = train(tmp_path, "position-weights", residual_lambda=0.0)
    loss = assert_trains(run, models.tiny_model(), loss_of_row)
    assert models.logged(run, "loss")[0] == pytest.approx(loss, rel=1e-4)


def test_label_smoothing_trains_the_formula_and_evaluates_without_it(tmp_path):
    """(1 - e) of the target's loss and e of the mean of all tokens' losses."""

    def loss_of_row(ids, scores, at):
        losses = [-0.7 * one[y] - 0.3 * one.mean() for one, y in zip(scores, ids, strict=True)]
        return sum(losses) / len(at)

    run = train(tmp_path, "label-smoothing", target_smoothing=0.3)
    loss = assert_trains(run, models.tiny_model(), loss_of_row)
    assert models.logged(run, "loss")[0] == pytest.approx(loss, rel=1e-4)
    plain = models.trained(tmp_path, models.tiny_model(), models.uneven_rows(models.tiny_model()), run=False,
                           residual_lambda=0.0, propagation="none")  # fmt: skip
    smoothed = train(tmp_path, "label-smoothing", run=False)
    rows = smoothed.train_dataset
    assert smoothed.evaluate(rows)["eval_loss"] == pytest.approx(plain.evaluate(rows)["eval_loss"])


@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("biased", [True, False])
def test_smoothed_log_probs_are_those_of_dense_logits(scale, biased):
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(7, 5), torch.randn(11, 5), torch.randn(11)
    targets = torch.randint(11, (7,))
    head = Head(weight, bias if biased else None, scale)
    logs = (torch.nn.functional.linear(hidden, weight, head.bias) * scale).log_softmax(-1)
    wanted = 0.8 * logs.gather(1, targets[:, None])[:, 0] + 0.2 * logs.mean(-1)
    torch.testing.assert_close(smoothed_log_probs(hidden, head, targets, 0.2)[0], wanted)
    with pytest.raises(ValueError, match="soft-capping is not supported"):
        smoothed_log_probs(hidden, Head(weight, softcap=3.0), targets, 0.2)


def test_flooding_of_tokens_climbs_where_a_token_is_below_the_level(tmp_path):
    level, below = 2.0, []

    def loss_of_row(ids, scores, at):
        losses = [-one[y] for one, y in zip(scores, ids, strict=True)]
        below.extend(loss < level for loss in losses)
        return sum((loss - level).abs() + level for loss in losses) / len(at)

    run = train(tmp_path, "flooding", flooding_level=level, flooding_over="token")
    assert_trains(run, models.tiny_model(), loss_of_row)
    assert 0.2 < sum(below) / len(below) < 0.8


def test_flooding_of_batches_turns_the_gradient_around_below_the_level(tmp_path):
    """Of the global batch: with two accumulation steps each half's share of the loss is below the level 1.5 times."""
    halves = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    plain = train(tmp_path, "flooding", flooding_level=0.0, **halves)
    loss = models.logged(plain, "loss")[0]
    for level, sign in ((loss / 1.5, 1), (loss * 1.1, -1)):
        run = train(tmp_path, "flooding", flooding_level=level, **halves)
        assert models.logged(run, "loss")[0] == pytest.approx(loss)
        for name, gradient in plain.gradients[0].items():
            torch.testing.assert_close(run.gradients[0][name], sign * gradient)


def test_flooding_forgets_the_loss_of_the_step_before(tmp_path):
    steps = {"max_steps": 2, "learning_rate": 0.0}
    plain = train(tmp_path, "flooding", flooding_level=0.0, **steps)
    level = models.logged(plain, "loss")[1] * 1.1
    run = train(tmp_path, "flooding", flooding_level=level, **steps)
    for name, gradient in plain.gradients[1].items():
        torch.testing.assert_close(run.gradients[1][name], -gradient)


@pytest.mark.parametrize("family", models.FAMILIES)
def test_dropout_reaches_attention_and_mlp_of_every_layer_in_training_alone(family):
    model = models.tiny_model(family)
    rows, labels = models.uneven_rows(model)
    batch = models.padded(rows, labels)
    plain = ift_loss(model, batch, residual_lambda=0.0, propagation="none").loss
    add_dropout(model, 0.5)
    zeros = {}
    for number, layer in enumerate(decoder_layers(unwrapped(model))):
        dropping = {name: child for name, child in layer.named_children() if child._forward_hooks}
        assert len(dropping) >= 2
        assert not any("norm" in name or name.startswith("ln") for name in dropping)
        for name, child in dropping.items():
            child.register_forward_hook(
                lambda module, inputs, output, key=(number, name): zeros.update(
                    {key: (output[0] if isinstance(output, tuple) else output) == 0}
                )
            )
    dropped = ift_loss(model, batch, residual_lambda=0.0, propagation="none").loss
    assert len(zeros) >= 2 * model.config.num_hidden_layers
    assert all(0.4 < zero.float().mean() < 0.6 for zero in zeros.values())
    model.eval()
    assert dropped != plain
    evaluated = ift_loss(model, batch, residual_lambda=0.0, propagation="none").loss
    assert evaluated.item() == pytest.approx(plain.item())


def test_the_dropout_control_drops(tmp_path):
    losses = [models.logged(train(tmp_path, "sft-dropout", dropout=share), "loss")[0] for share in (0.0, 0.5)]
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    "wrong",
    [{"dropout": 1.0}, {"target_smoothing": -0.1}, {"flooding_level": -1.0}, {"flooding_over": "row"}],
)
def test_values_out_of_range_are_refused(tmp_path, wrong):
    _, settings = CONTROLS["flooding"].load()
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*; (give|choose)"):
        settings(str(tmp_path), **wrong)


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

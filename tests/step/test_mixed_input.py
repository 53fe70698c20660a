"""One gradient of the embedding matrix a step, though the guesses are embedded after the prefix."""

from __future__ import annotations

import pytest
import torch
from test_architectures import example
from test_prefix import EVERY, assert_same_step, lora, step
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import models
from ift.step.mixed_input import RowEmbeddings


class Gradients(TorchDispatchMode):
    """Counts the gradients that are made of a matrix with so many rows."""

    def __init__(self, entries):
        super().__init__()
        self.entries, self.count = entries, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        if function is torch.ops.aten.embedding_dense_backward.default:
            self.count += len(found) == self.entries
        return found


def gradients_made(model, **options):
    with Gradients(len(model.get_input_embeddings().weight)) as seen:
        assert step(model, models.padded(*example(model)), **options)[0].scores.shared_prefix
    return seen.count


@pytest.mark.parametrize("family", EVERY)
def test_a_step_makes_one_gradient_of_the_embedding_matrix(family):
    assert gradients_made(models.tiny_model(family)) == 1


def test_the_expected_look_ahead_has_many_guesses_a_position_and_makes_two():
    assert gradients_made(models.tiny_model("llama"), lookahead="expected") == 2


@pytest.mark.parametrize("padding", [None, 2])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_gradient_is_that_of_two_calls(padding, scale):
    """float64, guesses that repeat tokens of the rows and each other, and one that is the padding."""

    class Scaled(nn.Embedding):
        def forward(self, ids):
            return super().forward(ids) * scale

    torch.manual_seed(0)
    module = Scaled(11, 4, padding_idx=padding, dtype=torch.float64)
    ids, guess_ids = torch.tensor([[5, 2, 7, 7], [1, 5, 2, 9]]), torch.tensor([7, 2, 2, 10, 5])
    factors = [torch.randn(n, 4, dtype=torch.float64) for n in (2, 6, 5)]

    def gradient(first, after, guessed):
        module.zero_grad()
        parts = (first.reshape(-1, 4), after.reshape(-1, 4), guessed)
        sum((a * b).sum() for a, b in zip(parts, factors, strict=True)).backward()
        return module.weight.grad.clone()

    wanted = gradient(module(ids[:, :1]), module(ids[:, 1:]), module(guess_ids))
    rows = RowEmbeddings(module, ids, 1, len(guess_ids))
    with rows.prefix_call():
        first = module(ids[:, :1])
    guessed = rows.fill_guesses(guess_ids, module(guess_ids))
    assert torch.equal(first, module(ids[:, :1]))
    assert torch.equal(rows.after_prefix, module(ids[:, 1:]))
    assert torch.equal(guessed, module(guess_ids))
    torch.testing.assert_close(gradient(first, rows.after_prefix, guessed), wanted, rtol=1e-13, atol=1e-13)
    assert not module._forward_hooks
    assert not module._forward_pre_hooks


@pytest.mark.parametrize(
    "setting", [{"sparse": True}, {"scale_grad_by_freq": True}, {"max_norm": 1.0}, {"frozen": True}]
)
def test_a_module_that_does_more_than_look_up_is_left_alone(setting):
    frozen = setting.pop("frozen", False)
    module = nn.Embedding(11, 4, **setting).requires_grad_(not frozen)
    ids = torch.tensor([[5, 2, 7, 7]])
    rows = RowEmbeddings(module, ids, 1, 2)
    with rows.prefix_call():
        assert torch.equal(module(ids[:, :1]), module(ids[:, :1]))
    assert rows.after_prefix is None


@pytest.mark.parametrize(
    "options", [{"target_modules": ["embed_tokens", "q_proj"]}, {"modules_to_save": ["embed_tokens"]}]
)
def test_an_adapted_embedding_shares_the_plain_way(options):
    base = models.tiny_model("llama", tie_word_embeddings=False)
    model = lora(base, **{"target_modules": ["q_proj"], **options})
    assert_same_step(model, models.padded(*example(model)))

"""The scored log-probability against dense logits in float64, against trl's chunked head, and what it may not build."""

from __future__ import annotations

import itertools

import pytest
import torch
from test_algorithm import Largest

import models
from ift import ift_loss
from ift.step import scored_log_probs as module
from ift.step.head import Head
from ift.step.scored_log_probs import scored_log_probs, tile_shape

N, H, V = 23, 16, 203
SMALL = (
    8,
    64,
)  # tokens and entries of a tile: three rows of tiles, the last of 7; four columns, the last of 11
HEADS = {
    "plain": (False, None, 1.0),
    "bias": (True, None, 1.0),
    "softcap": (False, 3.0, 1.0),
    "scale": (False, None, 0.3),
    "all": (True, 3.0, 0.3),
}


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(module, "TILE_TOKENS", SMALL[0])
    monkeypatch.setattr(module, "TILE_WIDTH", SMALL[1])


def example(name="plain", n=N, dtype=torch.float32, vocabulary=V, width=H):
    """States, weight, bias or None (all leaves that require a gradient), softcap, scale, targets, outer gradient."""
    torch.manual_seed(3)
    has_bias, softcap, scale = HEADS[name]
    drawn = torch.randn(n, width), torch.randn(vocabulary, width), torch.randn(vocabulary)
    hidden, weight, bias = (x.to(dtype).requires_grad_() for x in drawn)
    targets = torch.randint(vocabulary, (n,))
    return hidden, weight, bias if has_bias else None, softcap, scale, targets, torch.randn(n)


def dense(hidden, weight, bias, softcap, scale, targets):
    """From all logits (N, V), in the dtype of the inputs."""
    z = torch.nn.functional.linear(hidden, weight, bias) * scale
    z = z if softcap is None else softcap * torch.tanh(z / softcap)
    logs = z.log_softmax(-1)
    return logs.gather(1, targets[:, None])[:, 0], -(logs.exp() * logs).sum(-1), z.argmax(-1) == targets


def ours(hidden, weight, bias, softcap, scale, targets):
    return scored_log_probs(hidden, Head(weight, bias, scale, softcap), targets)


def trl(hidden, weight, bias, softcap, scale, targets):
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction

    width = tile_shape(len(hidden), hidden.device)[1]
    wanted = ("entropy", "is_top1")
    found = ChunkedLogProbFunction.apply(hidden, weight, bias, targets, 1.0, width, softcap, scale, wanted)
    return found[0], found[1], found[4]


def results(function, hidden, weight, bias, softcap, scale, targets, outer):
    """The three outputs and the gradients of the log-probabilities weighted by `outer`."""
    found = function(hidden, weight, bias, softcap, scale, targets)
    leaves = [x for x in (hidden, weight, bias) if x is not None and x.requires_grad]
    gradients = torch.autograd.grad(found[0], leaves, outer.to(found[0].dtype))
    return [x.detach() for x in found] + list(gradients)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.usefixtures("small_tiles")
def test_values_and_gradients_are_those_of_dense_float64(name):
    """As near as dense float32 comes, times four. Red when: a tile is left out, a factor's derivative is missing."""
    args = example(name)
    doubled = [
        x.detach().double().requires_grad_() if torch.is_tensor(x) and x.is_floating_point() else x
        for x in args
    ]
    exact, plain, found = results(dense, *doubled), results(dense, *args), results(ours, *args)
    assert torch.equal(found[2], exact[2])
    for number, (value, reference, single) in enumerate(zip(found, exact, plain, strict=True)):
        if number != 2:
            scale = reference.abs().max()
            allowed = 4 * (single - reference).abs().max() + 1e-6 * scale
            assert value.dtype == torch.float32
            assert (value - reference).abs().max() <= allowed, number
            assert scale > 0.01


@pytest.mark.parametrize("tiles", [None, SMALL])
@pytest.mark.parametrize(
    ("dtype", "autocast"),
    [(torch.float32, False), (torch.bfloat16, False), (torch.float16, False), (torch.float32, True)],
)
@pytest.mark.parametrize("name", HEADS)
def test_on_a_cpu_the_bits_are_trls(monkeypatch, name, dtype, autocast, tiles):
    """Outputs and gradients. Red when: an operation, its order or the memory's layout is another one."""
    chunked = pytest.importorskip("trl.kernels.chunked_logprob")
    if tiles:
        monkeypatch.setattr(module, "TILE_TOKENS", tiles[0])
        monkeypatch.setattr(module, "TILE_WIDTH", tiles[1])
        monkeypatch.setattr(chunked, "TOKEN_CHUNK_SIZE", tiles[0])
    for n, vocabulary, width in itertools.product((1, N, 130), (5, V), (1, H)):
        args = example(name, n, dtype, vocabulary, width)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found, theirs = results(ours, *args), results(trl, *args)
        for value, wanted in zip(found, theirs, strict=True):
            assert value.dtype == wanted.dtype
            assert torch.equal(value, wanted), (n, vocabulary, width)


def test_the_tiles_on_a_cpu_and_on_a_gpu():
    """4,194,304 entries on a CPU: 1,000 x 4,160, 4,096 x 1,024. 33,554,432 on a GPU: 4,096 x 8,192."""
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [tile_shape(n, cpu) for n in (0, 10)] == [(4_096, 32_768)] * 2
    assert [tile_shape(n, cpu)[1] for n in (1_000, 4_096, 100_000)] == [4_160, 1_024, 1_024]
    assert [tile_shape(n, cuda)[1] for n in (0, 1_000, 4_096, 100_000)] == [32_768, 32_768, 8_192, 8_192]


@pytest.mark.usefixtures("small_tiles")
def test_no_tensor_is_larger_than_the_weight():
    """400 states x 203 entries are 81,200 numbers; the states have 6,400, the weight 3,248, a tile 512."""
    args = example("all", 400)
    with Largest() as seen:
        results(ours, *args)
    size, what = max(seen.sizes)
    assert size <= 400 * H, what


@pytest.mark.parametrize("trained", list(itertools.product([True, False], repeat=3))[:-1])
def test_what_is_frozen_gets_no_gradient_and_costs_none(trained):
    """Of states, weight and bias, any that are trained; no tensor of a frozen one's shape is made in backward."""
    hidden, weight, bias, softcap, scale, targets, outer = example("all")
    leaves = hidden, weight, bias
    expected = dict(zip("hwb", results(ours, *leaves, softcap, scale, targets, outer)[3:], strict=True))
    for leaf, learns in zip(leaves, trained, strict=True):
        leaf.requires_grad_(learns)
    log_probs = ours(*leaves, softcap, scale, targets)[0]
    with Largest() as seen:
        log_probs.backward(outer)
    for name, leaf, learns in zip("hwb", leaves, trained, strict=True):
        assert torch.equal(leaf.grad, expected[name]) if learns else leaf.grad is None
    if not trained[1]:
        assert not any(what.endswith(f"new_zeros.default ({V}, {H})") for _, what in seen.sizes)


def test_entropy_and_top1_carry_no_gradient():
    log_probs, entropy, top1 = ours(*example()[:6])
    assert log_probs.requires_grad
    assert not entropy.requires_grad
    assert not top1.requires_grad
    assert top1.dtype == torch.bool


@pytest.mark.usefixtures("small_tiles")
def test_of_equal_logits_the_first_is_the_top():
    """Entries 5 and 9 lie in one tile, 70 and 199 in later ones; all have the largest logit."""
    hidden, weight = torch.ones(4, H), torch.zeros(V, H)
    weight[[5, 9, 70, 199]] = 1.0
    top1 = scored_log_probs(hidden, Head(weight), torch.tensor([5, 9, 70, 199]))[2]
    assert top1.tolist() == [True, False, False, False]
    nothing = scored_log_probs(hidden, Head(weight * 0), torch.tensor([0, 1, 70, 199]))
    assert nothing[2].tolist() == [True, False, False, False]
    torch.testing.assert_close(nothing[1], torch.full((4,), V).log())


def test_no_state_and_one_state():
    args = example("bias", 0)
    found = results(ours, *args)
    assert [tuple(x.shape) for x in found] == [(0,), (0,), (0,), (0, H), (V, H), (V,)]
    assert found[4].abs().max() == 0
    args = example("bias", 1)
    for value, wanted in zip(results(ours, *args), results(dense, *args), strict=True):
        torch.testing.assert_close(value, wanted)


def test_a_state_that_is_not_finite_spoils_its_own_row_alone():
    hidden, weight, bias, softcap, scale, targets, _ = example()
    expected = ours(hidden, weight, bias, softcap, scale, targets)
    broken = hidden.detach().clone()
    broken[4] = torch.nan
    found = ours(broken, weight, bias, softcap, scale, targets)
    others = torch.arange(N) != 4
    for value, wanted in zip(found, expected, strict=True):
        assert torch.equal(value[others], wanted[others])
    assert found[0][4].isnan()
    assert not found[2][4]


def test_autocasts_dtype_is_kept_for_a_backward_pass_outside_of_it():
    """Gradients are those of the bfloat16 products, in the dtype of the leaves."""
    hidden, weight, bias, softcap, scale, targets, outer = example("all")
    with torch.autocast("cpu", torch.bfloat16):
        log_probs = ours(hidden, weight, bias, softcap, scale, targets)[0]
    found = torch.autograd.grad(log_probs, (hidden, weight, bias), outer)
    rounded = [x.detach().bfloat16().requires_grad_() for x in (hidden, weight, bias)]
    wanted = torch.autograd.grad(ours(*rounded, softcap, scale, targets)[0], rounded, outer)
    for value, reference in zip(found, wanted, strict=True):
        assert value.dtype == torch.float32
        assert torch.equal(value.bfloat16(), reference)


def test_a_partitioned_head_is_read_inside_its_module_s_forward():
    """DeepSpeed ZeRO-3 gathers weights by hooks around a module's forward and backward; here hooks do it without it.

    Red when: the look-ahead or the log-probabilities read the weight outside of the module, where it is empty.
    """
    model = models.tiny_model("llama", tie_word_embeddings=False)
    batch = models.padded(*models.uneven_rows(model))
    wanted = ift_loss(model, batch, lookahead_prefix="full").loss
    wanted.backward()
    head, calls = model.lm_head, []
    gradient, head.weight.grad = head.weight.grad, None
    whole, empty, head.weight.ds_id = head.weight.data, torch.empty(0), 0

    def gather(*_):
        calls.append("gathered")
        head.weight.data = whole

    def partition(*_):
        head.weight.data = empty

    head.register_forward_pre_hook(gather)
    head.register_forward_hook(partition)
    head.register_full_backward_pre_hook(gather)
    partition()
    loss = ift_loss(model, batch, lookahead_prefix="full").loss
    assert calls == ["gathered"] * 2
    assert head.weight.numel() == 0
    (found,) = torch.autograd.grad(loss, head.weight)
    assert calls == ["gathered"] * 3
    assert torch.equal(loss, wanted)
    assert torch.equal(found, gradient)

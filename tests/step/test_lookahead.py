"""The look-ahead and its variants against naive full logits, whatever the tiles; its noise, whatever the batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import models
from ift.step.head import Head
from ift.step.lookahead import look_ahead
from ift.step.lookahead_variants import look_ahead_uniforms
from ift.step.rows import row_layout
from ift.step.settings import StepSettings

N, VOCABULARY, WIDTH = 37, 101, 16
TILES = [(4096, 32768), (37, 101), (10, 32), (8, 50), (30, 7), (1, 101)]
HEADS = {
    "plain": {},
    "bias": {"bias": True},
    "scale": {"scale": 0.3},
    "softcap": {"softcap": 8.0},
    "all": {"bias": True, "scale": 1.7, "softcap": 9.0},
}


def states_and_head(name: str, dtype=torch.float32):
    generator = torch.Generator().manual_seed(4)
    hidden = (torch.randn(N, WIDTH, generator=generator) * 0.6).to(dtype)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator).to(dtype)
    options = dict(HEADS[name])
    bias = torch.randn(VOCABULARY, generator=generator).to(dtype) if options.pop("bias", False) else None
    return hidden, Head(weight, bias, **options), torch.randint(VOCABULARY, (N,), generator=generator)


def full_logits(hidden, head):
    z = hidden.double() @ head.weight.double().T
    if head.bias is not None:
        z = z + head.bias.double()
    z = z * head.scale
    return z if head.softcap is None else head.softcap * (z / head.softcap).tanh()


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("name", HEADS)
def test_greedy_and_expected_are_those_of_the_full_logits(name, tile):
    hidden, head, targets = states_and_head(name)
    z = full_logits(hidden, head)
    nll = -z.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    greedy = look_ahead(hidden, head, targets, StepSettings(), tile=tile)
    assert torch.equal(greedy.ids[:, 0], z.argmax(-1))
    assert torch.equal(greedy.top1, z.argmax(-1))
    assert (greedy.probabilities == 1).all()
    torch.testing.assert_close(greedy.nll.double(), nll, rtol=2e-5, atol=1e-5)
    for k, temperature in ((7, 0.5), (64, 2.0), (500, 1.0)):
        settings = StepSettings(lookahead="expected", lookahead_top_k=k, lookahead_temperature=temperature)
        expected = look_ahead(hidden, head, targets, settings, tile=tile)
        value, index = (z / temperature).softmax(-1).topk(min(k, VOCABULARY), -1)
        assert expected.ids.shape == (N, min(k, VOCABULARY))
        assert torch.equal(expected.ids, index)
        wanted = (value / value.sum(-1, keepdim=True)).float()
        torch.testing.assert_close(expected.probabilities, wanted, rtol=1e-4, atol=1e-6)
        assert torch.equal(expected.top1, z.argmax(-1))
        torch.testing.assert_close(expected.nll.double(), nll, rtol=2e-5, atol=1e-5)


def test_a_float64_or_bfloat16_model_is_projected_in_its_own_type():
    hidden, head, targets = states_and_head("all", torch.bfloat16)
    z = torch.nn.functional.linear(hidden, head.weight, head.bias).float() * head.scale
    z = head.softcap * (z / head.softcap).tanh()
    found = look_ahead(hidden, head, targets, StepSettings(), tile=(7, 9))
    assert torch.equal(found.top1, z.argmax(-1))
    assert found.nll.dtype == torch.float32


@pytest.mark.parametrize("kind", ["greedy", "sample", "expected"])
def test_no_trained_position_is_no_error(kind):
    hidden, head, targets = states_and_head("plain")
    found = look_ahead(hidden[:0], head, targets[:0], StepSettings(lookahead=kind), torch.zeros(0), (5, 7))
    assert len(found.ids) == len(found.nll) == len(found.top1) == 0


def test_nothing_carries_a_gradient():
    hidden, head, targets = states_and_head("plain")
    found = look_ahead(hidden.requires_grad_(), head, targets, StepSettings(lookahead="expected"))
    assert not found.probabilities.requires_grad
    assert not found.nll.requires_grad


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("name", ["plain", "all"])
def test_a_sample_is_the_inverse_of_the_distribution_function(name, tile):
    hidden, head, targets = states_and_head(name)
    uniforms = torch.rand(N, generator=torch.Generator().manual_seed(5))
    settings = StepSettings(lookahead="sample", lookahead_temperature=0.7)
    found = look_ahead(hidden, head, targets, settings, uniforms, tile)
    steps = (full_logits(hidden, head) / 0.7).softmax(-1).cumsum(-1)
    wanted = (uniforms[:, None] > steps).sum(-1)
    clear = ((uniforms[:, None] - steps).abs().min(-1).values > 1e-5).nonzero()[:, 0]  # not at a step's edge
    assert len(clear) > 30
    assert torch.equal(found.ids[clear, 0], wanted[clear])
    assert torch.equal(found.top1, full_logits(hidden, head).argmax(-1))


@pytest.mark.parametrize("u", [0.0, 2**-24, 1 - 2**-24, 1.0])
def test_the_edges_of_the_noise_give_an_id_of_the_vocabulary(u):
    hidden, head, targets = states_and_head("plain")
    for tile in TILES:
        sampled = StepSettings(lookahead="sample")
        ids = look_ahead(hidden, head, targets, sampled, torch.full((N,), u), tile).ids
        assert 0 <= ids.min() <= ids.max() < VOCABULARY


def chi_square(counts, probabilities):
    """The statistic over cells of at least 5 expected counts (the rest merged), and its 99.9 % point."""
    expected = probabilities * counts.sum()
    big = expected >= 5
    rest = (counts[~big].sum(), expected[~big].sum())
    cells = [*zip(counts[big], expected[big], strict=True), *([rest] if rest[1] > 5 else [])]
    statistic = sum((c - e) ** 2 / e for c, e in cells)
    freedom = len(cells) - 1
    point = freedom * (1 - 2 / (9 * freedom) + 3.09 * (2 / (9 * freedom)) ** 0.5) ** 3  # Wilson and Hilferty
    return float(statistic), point


@pytest.mark.parametrize(("temperature", "tile"), [(1.0, (4096, 32768)), (0.6, (1000, 30)), (3.0, (777, 13))])
def test_sampled_tokens_follow_the_softmax_with_the_trainers_own_noise(temperature, tile):
    rows, length = 40, 101
    _, head, _ = states_and_head("all")
    hidden = torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(6)).expand(
        rows * (length - 1), WIDTH
    )
    ids = torch.randint(50, (rows, length), generator=torch.Generator().manual_seed(7))
    layout = row_layout(torch.full_like(ids, 5))
    uniforms = look_ahead_uniforms(ids, layout, seed=3, step=11)[layout.trained]
    targets = torch.zeros(len(hidden), dtype=torch.int64)
    settings = StepSettings(lookahead="sample", lookahead_temperature=temperature)
    found = look_ahead(hidden, head, targets, settings, uniforms, tile)
    counts = found.ids[:, 0].bincount(minlength=VOCABULARY).double()
    statistic, point = chi_square(counts, (full_logits(hidden[:1], head)[0] / temperature).softmax(-1))
    assert statistic < point


# --- the noise --------------------------------------------------------------------------------------------------------


def noise_of(batch, seed=0, step=0):
    layout = row_layout(batch["labels"], batch.get("attention_mask"), batch.get("position_ids"))
    return look_ahead_uniforms(batch["input_ids"], layout, seed, step), layout


def rows_and_labels():
    generator = torch.Generator().manual_seed(2)
    rows = [torch.randint(3, 97, (n,), generator=generator) for n in (5, 12, 2, 9)]
    return rows, [row.clone() for row in rows]


def test_noise_is_uniform_and_independent():
    ids = torch.randint(97, (200, 100), generator=torch.Generator().manual_seed(0))
    noise, _ = noise_of({"input_ids": ids, "labels": ids})
    flat = noise.flatten().double()
    assert 0 < flat.min() <= flat.max() < 1
    statistic, point = chi_square((flat * 50).long().bincount(minlength=50).double(), torch.full((50,), 0.02))
    assert statistic < point
    for other in (
        noise_of({"input_ids": ids, "labels": ids}, step=1)[0],
        noise_of({"input_ids": ids, "labels": ids}, seed=1)[0],
    ):
        assert abs(torch.corrcoef(torch.stack([flat, other.flatten().double()]))[0, 1]) < 4 / 20000**0.5
    for pair in ((noise[:, 1:], noise[:, :-1]), (noise[1:], noise[:-1])):
        x = torch.stack([part.flatten().double() for part in pair])
        assert abs(torch.corrcoef(x)[0, 1]) < 4 / 20000**0.5


def test_one_changed_token_gives_the_row_other_noise():
    ids = torch.randint(97, (1, 20), generator=torch.Generator().manual_seed(0))
    for place in range(20):
        other = ids.clone()
        other[0, place] += 1
        a, b = (
            noise_of({"input_ids": ids, "labels": ids})[0],
            noise_of({"input_ids": other, "labels": other})[0],
        )
        assert (a != b).float().mean() > 0.9
    swapped = ids.clone()
    swapped[0, [3, 4]] = ids[0, [4, 3]]
    assert (
        noise_of({"input_ids": ids, "labels": ids})[0]
        != noise_of({"input_ids": swapped, "labels": swapped})[0]
    ).any()


def test_noise_is_the_rows_own_in_any_batch():
    """Padding on either side, the pad id, packing, another order and another batch leave it as it is."""
    rows, labels = rows_and_labels()
    alone = [noise_of({"input_ids": row[None], "labels": row[None]}, 5, 9)[0][0] for row in rows]
    for batch, order in (
        (models.padded(rows, labels, "right"), [0, 1, 2, 3]),
        (models.padded(rows, labels, "right", extra=3, pad=2), [0, 1, 2, 3]),
        (models.padded(rows, labels, "left"), [0, 1, 2, 3]),
        (models.padded([rows[i] for i in (2, 0)], [labels[i] for i in (2, 0)], "left"), [2, 0]),
    ):
        noise, layout = noise_of(batch, 5, 9)
        for b, i in enumerate(order):
            assert torch.equal(noise[b][layout.attended[b]], alone[i])
    assert torch.equal(noise_of(models.packed(rows, labels), 5, 9)[0][0], torch.cat(alone))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(-(2**62), 2**62), st.integers(0, 2**31 - 1))
def test_any_seed_and_step_will_do(seed, step):
    ids = torch.arange(10)[None]
    noise, _ = noise_of({"input_ids": ids, "labels": ids}, seed % 2**32, step)
    assert 0 < noise.min() <= noise.max() < 1

"""`ift.step.equations` against the float64 oracle, and the properties the method promises."""

from __future__ import annotations

import inspect
import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from ift.step import equations as F
from ift.step import rows as rows_module
from ift.step import settings as settings_module
from ift.step.rows import count_items, row_layout
from ift.step.settings import StepSettings

settings.register_profile("fast", max_examples=25, deadline=None, derandomize=True)
settings.load_profile("fast")

KINDS = [
    ("bellman", "none"),
    ("bellman", "scale"),
    ("bellman", "weights"),
    ("cumsum", "none"),
    ("none", "none"),
]
REDUCTIONS = ["sequence", "token"]


def settings_of(kind, gamma, detach, reduction):
    return StepSettings(
        propagation=kind, propagation_gamma=gamma, propagation_detach=detach, loss_reduction=reduction
    )


def gradient_of(losses, layout, *fields):
    """d(batch loss) / d(losses), as `propagated_loss` returns it."""
    return F.propagated_loss(losses, layout, settings_of(*fields))[2]


def random_batch(seed: int, packing: bool = False, side: str = "right"):
    """Rows with prompts and holes; row 0 trains a single token, row 1 none, the rest several turns."""
    generator = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    rows, length = number(3, 6), number(8, 24)
    labels = torch.full((rows, length), -100)
    mask = torch.zeros(rows, length, dtype=torch.int64)
    position_ids = torch.zeros(rows, length, dtype=torch.int64)
    for b in range(rows):
        n = length if packing else number(3, length + 1)
        where = range(length - n, length) if side == "left" else range(n)
        for place, t in enumerate(where):
            mask[b, t] = 1
            border = packing and place > 0 and number(0, 6) == 0
            position_ids[b, t] = 0 if border or place == 0 else position_ids[b, t - 1] + 1
            labels[b, t] = 5 if number(0, 10) < 6 else -100
        if b == 0:
            labels[b] = -100
            labels[b, where[1]] = 5
            position_ids[b, where[1]] = 1
        if b == 1:
            labels[b] = -100
    losses = -torch.rand(rows, length, generator=generator, dtype=torch.float64).log()
    return losses, labels, (None if packing else mask), (position_ids if packing else None)


def layouts(packing, side):
    return [random_batch(seed, packing, side) for seed in range(4)]


MASKS = [(False, "right"), (False, "left"), (True, "right")]


@pytest.mark.parametrize(("packing", "side"), MASKS)
def test_the_trained_positions_and_documents_are_the_references(packing, side):
    for losses, labels, mask, positions in layouts(packing, side):
        layout = row_layout(labels, mask, positions)
        trained, documents = reference.trained_positions(labels, mask, positions)
        assert torch.equal(layout.trained, trained)
        assert torch.equal(layout.attended, documents >= 0)
        for b in range(len(labels)):
            for document in range(int(documents[b].max()) + 1):
                here = documents[b] == document
                assert layout.documents[b][here].unique().numel() == 1
                assert layout.positions[b][here].tolist() == list(range(int(here.sum())))
        counts = layout.per_document(trained.double())
        for b, positions_of, learned in reference.rows_of(trained, documents):
            assert (counts[b, positions_of] == len(learned)).all()
        assert losses.shape == labels.shape


def test_a_documents_number_is_unique_in_the_batch():
    _, labels, _, positions = random_batch(1, packing=True)
    layout = row_layout(labels, None, positions)
    for a in range(len(labels)):
        for b in range(a):
            assert not set(layout.documents[a].tolist()) & set(layout.documents[b].tolist())


def test_one_position_row_serves_the_whole_batch():
    labels = torch.full((2, 6), 5)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2]])
    assert row_layout(labels, None, positions).trained.tolist() == [[False, True, True] * 2] * 2


@pytest.mark.parametrize("gamma", [0.05, 0.5, 0.95, 1.0])
@pytest.mark.parametrize(("kind", "detach"), KINDS)
@pytest.mark.parametrize(("packing", "side"), MASKS)
def test_weights_loss_and_gradient_are_the_references(packing, side, kind, detach, gamma):
    for losses, labels, mask, positions in layouts(packing, side)[:2]:
        layout = row_layout(labels, mask, positions)
        trained, documents = reference.trained_positions(labels, mask, positions)
        expected = reference.propagation_weights(losses, trained, documents, kind, gamma, detach)
        found = F.propagation_weights(losses, layout, kind, gamma, detach)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
        for reduction in REDUCTIONS:
            for count in (None, 7):
                ours, theirs = losses.clone().requires_grad_(), losses.clone().requires_grad_()
                weights = F.propagation_weights(ours, layout, kind, gamma, detach)
                loss = F.reduce_losses(weights * ours, layout, reduction, count)
                wanted = reference.loss_from_token_losses(
                    theirs, labels, mask, positions, kind, gamma, detach, reduction, count
                )
                torch.testing.assert_close(loss, wanted, rtol=1e-9, atol=1e-12)
                gradient = torch.autograd.grad(loss, ours)[0]
                torch.testing.assert_close(
                    gradient, torch.autograd.grad(wanted, theirs)[0], rtol=1e-9, atol=1e-12
                )
                once = losses.clone().requires_grad_()
                value, told_weights, told = F.propagated_loss(
                    once, layout, settings_of(kind, gamma, detach, reduction), count
                )
                (3 * value).backward()
                assert torch.equal(value, loss)
                assert torch.equal(told_weights, weights)
                torch.testing.assert_close(told, gradient, rtol=1e-12, atol=0)
                torch.testing.assert_close(once.grad, 3 * gradient, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("kind", "detach", "times"),
    [*((kind, detach, 1) for kind, detach in KINDS if detach != "scale"), ("bellman", "scale", 2),
     ("cumsum", "scale", 1), ("none", "scale", 1)],
)  # fmt: skip
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_losses_times_their_gradient_are_the_loss_or_twice_the_loss(kind, detach, times, reduction):
    """As the docstring of `propagated_loss` says: "scale", the default, changes nothing for the other weights."""
    layout = row_layout(torch.tensor([[-100, 5, 5, 5], [-100, -100, 5, 5]]))
    losses = torch.tensor([[9.0, 1.0, 2.0, 4.0], [9.0, 9.0, 0.5, 3.0]], dtype=torch.float64)
    loss, _, gradient = F.propagated_loss(losses, layout, settings_of(kind, 0.9, detach, reduction))
    torch.testing.assert_close((losses * gradient).sum(), times * loss)


def test_weights_worked_by_hand():
    """Losses 1, 2, 4 at gamma 1/2: w = (1 + 1 + 1, 2 + 2, 4) = (3, 4, 4), scaled by 11/3."""
    layout = row_layout(torch.tensor([[-100, 5, 5, 5]]))
    losses = torch.tensor([[9.0, 1.0, 2.0, 4.0]], dtype=torch.float64)
    weights = F.propagation_weights(losses, layout, "bellman", 0.5)
    torch.testing.assert_close(weights, torch.tensor([[0.0, 9 / 11, 12 / 11, 12 / 11]], dtype=torch.float64))
    grows = F.propagation_weights(losses, layout, "cumsum", 1.0)
    torch.testing.assert_close(grows, torch.tensor([[0.0, 0.5, 1.0, 1.5]], dtype=torch.float64))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_divisor_counts_documents_or_tokens(reduction):
    for packing, side in MASKS:
        for _, labels, mask, positions in layouts(packing, side):
            trained, documents = reference.trained_positions(labels, mask, positions)
            expected = (
                len(reference.rows_of(trained, documents)) if reduction == "sequence" else trained.sum()
            )
            assert count_items(row_layout(labels, mask, positions), reduction) == expected


# --- suffix sums ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("gamma", [0.5, 0.95, 1.0])
def test_suffix_sums_of_long_rows_neither_overflow_nor_drift(gamma, dtype):
    length = 8192
    values = torch.rand(2, length, dtype=torch.float64) * 5
    documents = torch.zeros(2, length, dtype=torch.int64)
    documents[1] = 1
    documents[1, 5000:] = 2
    found = F.suffix_sums(values.to(dtype), gamma, documents)
    assert found.isfinite().all()
    expected = torch.zeros_like(values)
    for b in range(2):
        total, row, numbers = 0.0, values[b].tolist(), documents[b].tolist()
        for t in reversed(range(length)):
            ends = t + 1 == length or numbers[t + 1] != numbers[t]
            total = row[t] + (0.0 if ends else gamma * total)
            expected[b, t] = total
    tolerance = 1e-11 if dtype == torch.float64 else 2e-6
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=0)


def test_suffix_sums_need_no_square_matrix():
    """T = 8,192 squared would be 67 M entries; the largest tensor made is the row itself."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest.append(result.numel())
            return result

    with Watch():
        F.suffix_sums(torch.rand(1, 8192), 0.95, torch.zeros(1, 8192, dtype=torch.int64))
    assert max(largest) == 8192


@pytest.mark.parametrize("kind", ["bellman", "cumsum"])
def test_long_rows_have_finite_weights_and_gradients(kind):
    losses = (torch.rand(1, 8192) * 10).requires_grad_()
    layout = row_layout(torch.full((1, 8192), 5))
    weights = F.propagation_weights(losses, layout, kind, 0.5)
    F.reduce_losses(weights * losses, layout, "sequence").backward()
    assert weights.isfinite().all()
    assert losses.grad.isfinite().all()


# --- properties -------------------------------------------------------------------------------------------------------

seeds = st.integers(0, 10_000)
gammas = st.floats(0.01, 1.0)
kinds = st.sampled_from(KINDS)
masks = st.sampled_from(MASKS)


@given(seeds, gammas, kinds, masks)
def test_the_mean_of_a_documents_weights_is_one(seed, gamma, kind, mask_of):
    losses, labels, mask, positions = random_batch(seed, *mask_of)
    layout = row_layout(labels, mask, positions)
    weights = F.propagation_weights(losses, layout, kind[0], gamma, kind[1])
    ones = layout.trained.double()
    means = layout.per_document(weights)[layout.trained] / layout.per_document(ones)[layout.trained]
    torch.testing.assert_close(means, torch.ones_like(means), rtol=1e-9, atol=0)
    assert (weights[~layout.trained] == 0).all()
    assert (weights >= 0).all()


@given(seeds, kinds, masks)
def test_gamma_towards_zero_weighs_each_token_by_its_own_loss(seed, kind, mask_of):
    losses, labels, mask, positions = random_batch(seed, *mask_of)
    layout = row_layout(labels, mask, positions)
    weights = F.propagation_weights(losses, layout, kind[0], 1e-9, kind[1])
    ones = layout.trained.double()
    mean = layout.per_document(losses * ones) / layout.per_document(ones).clamp(min=1)
    expected = torch.where(layout.trained, losses / mean, 0.0) if kind[0] == "bellman" else ones
    torch.testing.assert_close(weights, expected, rtol=1e-5, atol=1e-6)


@given(seeds, gammas, kinds, st.integers(1, 5), st.sampled_from(REDUCTIONS))
def test_padding_on_either_side_changes_nothing(seed, gamma, kind, width, reduction):
    losses, labels, mask, _ = random_batch(seed)

    def loss(left, right):
        def pad(x, fill):
            return torch.nn.functional.pad(x, (left, right), value=fill)

        layout = row_layout(pad(labels, -100), pad(mask, 0))
        wide = pad(losses, 3.0)
        weights = F.propagation_weights(wide, layout, kind[0], gamma, kind[1])
        return F.reduce_losses(weights * wide, layout, reduction)

    torch.testing.assert_close(loss(width, 0), loss(0, 0), rtol=1e-12, atol=0)
    torch.testing.assert_close(loss(0, width), loss(0, 0), rtol=1e-12, atol=0)


@given(seeds, gammas, kinds, st.sampled_from(REDUCTIONS))
def test_packed_rows_are_the_rows(seed, gamma, kind, reduction):
    losses, labels, mask, _ = random_batch(seed)
    rows = [mask[b].bool() for b in range(len(labels))]
    positions = torch.cat([torch.arange(int(row.sum())) for row in rows])[None]
    flat = torch.cat([losses[b][row] for b, row in enumerate(rows)])[None]
    flat_labels = torch.cat([labels[b][row] for b, row in enumerate(rows)])[None]
    together, apart = row_layout(flat_labels, None, positions), row_layout(labels, mask)
    ours = F.propagation_weights(flat, together, kind[0], gamma, kind[1])
    theirs = F.propagation_weights(losses, apart, kind[0], gamma, kind[1])
    torch.testing.assert_close(ours[0], torch.cat([theirs[b][row] for b, row in enumerate(rows)]))
    torch.testing.assert_close(
        F.reduce_losses(ours * flat, together, reduction),
        F.reduce_losses(theirs * losses, apart, reduction),
        rtol=1e-12,
        atol=0,
    )


@given(seeds, gammas, st.integers(1, 7))
def test_a_weight_depends_on_later_losses_of_its_own_document_only(seed, gamma, place):
    """Before the scale: an earlier loss, or one of another document, leaves the sum as it is."""
    losses, labels, _, positions = random_batch(seed, packing=True)
    layout = row_layout(labels, None, positions)
    changed = losses.clone()
    changed[:, place] += 1.0
    before, after = (F.suffix_sums(x, gamma, layout.documents) for x in (losses, changed))
    moved = (before - after).abs() > 0
    assert not moved[:, place + 1 :].any()
    assert not moved[layout.documents != layout.documents[:, place : place + 1]].any()
    assert moved[:, place].all()


@given(seeds, gammas, kinds, masks, st.sampled_from(REDUCTIONS))
def test_the_told_gradient_is_autograds(seed, gamma, kind, mask_of, reduction):
    losses, labels, mask, positions = random_batch(seed, *mask_of)
    layout = row_layout(labels, mask, positions)
    leaf = losses.clone().requires_grad_()
    weights = F.propagation_weights(leaf, layout, kind[0], gamma, kind[1])
    expected = torch.autograd.grad(F.reduce_losses(weights * leaf, layout, reduction), leaf)[0]
    with torch.no_grad():  # as in an evaluation
        found = gradient_of(losses, layout, kind[0], gamma, kind[1], reduction)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert not found.requires_grad


@given(st.integers(0, 10_000), st.sampled_from(KINDS), st.sampled_from([torch.float32, torch.float64]))
def test_losses_of_zero_weigh_one_and_never_give_nan(seed, kind, dtype):
    losses, labels, mask, _ = random_batch(seed)
    leaf = torch.zeros_like(losses, dtype=dtype)
    leaf[2:] = losses[2:].to(dtype)  # the first row's losses are all 0, others are not
    leaf.requires_grad_()
    layout = row_layout(labels, mask)
    weights = F.propagation_weights(leaf, layout, kind[0], 0.95, kind[1])
    assert (weights[0][layout.trained[0]] == 1).all()
    F.reduce_losses(weights * leaf, layout, "sequence").backward()
    assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("tiny", [1e-45, 1e-40, 1.3e-38, 1e-30])
def test_vanishing_losses_never_give_nan(tiny):
    losses = torch.full((1, 6), tiny).requires_grad_()
    layout = row_layout(torch.full((1, 6), 5))
    weights = F.propagation_weights(losses, layout, "bellman", 0.95)
    F.reduce_losses(weights * losses, layout, "sequence").backward()
    assert weights.isfinite().all()
    assert losses.grad.isfinite().all()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("kind", "detach"), KINDS)
def test_a_batch_without_a_trained_token_gives_zero_in_the_graph(kind, detach, reduction):
    losses = torch.zeros(2, 5, requires_grad=True)
    layout = row_layout(torch.full((2, 5), -100))
    weights = F.propagation_weights(losses, layout, kind, 0.95, detach)
    loss = F.reduce_losses(weights * losses, layout, reduction, torch.tensor(0))
    loss.backward()
    assert loss == 0
    assert (losses.grad == 0).all()


# --- what METHOD says of the gradient ---------------------------------------------------------------------------------


def spread_losses(rows: int, length: int):
    """Log-normal losses, most small and a few large, as a language model's are; and their layout."""
    normal = torch.randn(rows, length, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    layout = row_layout(torch.full((rows, length + 1), 5))
    return torch.nn.functional.pad((1.25 * normal).exp(), (1, 0)), layout


def test_the_full_gradient_pushes_some_confident_late_tokens_up():
    """About 11 % of the tokens at gamma .95 and rows of 20; the last one on average; most at gamma .5 in long rows."""
    losses, layout = spread_losses(2000, 20)
    gradient = gradient_of(losses, layout, "bellman", 0.95, "none", "sequence")
    share = (gradient[layout.trained] < 0).double().mean()
    assert 0.08 < share < 0.14
    assert gradient[:, -1].mean() < 0
    assert gradient[:, 1].mean() > 0
    losses, layout = spread_losses(50, 500)
    gradient = gradient_of(losses, layout, "bellman", 0.5, "none", "sequence")
    assert (gradient[layout.trained] < 0).double().mean() > 0.5


@given(seeds, gammas, masks, st.sampled_from(["scale", "weights"]), st.sampled_from(REDUCTIONS))
def test_without_the_scales_gradient_no_token_is_pushed_up(seed, gamma, mask_of, detach, reduction):
    losses, labels, mask, positions = random_batch(seed, *mask_of)
    layout = row_layout(labels, mask, positions)
    assert (gradient_of(losses, layout, "bellman", gamma, detach, reduction) >= 0).all()


def test_the_gradient_is_the_formula_of_the_method():
    """dL/dl_j = (S_j + sum_{t<=j} gamma^(j-t) (l_t - L)) / (n mean S), L the row's loss."""
    losses, gamma = torch.tensor([[0.0, 0.3, 2.0, 0.1, 1.2]], dtype=torch.float64), 0.7
    layout = row_layout(torch.tensor([[-100, 5, 5, 5, 5]]))
    row = losses[0, 1:].tolist()
    sums = [sum(gamma ** (i - t) * row[i] for i in range(t, 4)) for t in range(4)]
    mean = sum(sums) / 4
    loss = sum(s * x for s, x in zip(sums, row, strict=True)) / mean / 4
    for detach, subtract in (("none", loss), ("scale", 0.0)):
        expected = [
            (sums[j] + sum(gamma ** (j - t) * (row[t] - subtract) for t in range(j + 1))) / (4 * mean)
            for j in range(4)
        ]
        found = gradient_of(losses, layout, "bellman", gamma, detach, "sequence")[0, 1:]
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


WRONG_WEIGHTS = {
    "a shape": (lambda losses, layout: losses[:, 1:], r"returned float64 of shape \(1, 3\) on cpu; expected a float"),
    "whole numbers": (lambda losses, layout: layout.positions, r"returned int64 of shape \(1, 4\)"),
    "no tensor": (lambda losses, layout: losses.tolist(), r"returned list; expected .* of shape \(1, 4\) on cpu"),
    "NaN": (lambda losses, layout: losses.log(), r"returned nan for a token with the loss -1 .* Fix: return finite"),
    "below 0": (
        lambda losses, layout: losses + 0.5,
        r"returned -0.5 for a token with the loss -1 \(trained token 2 of 2 of its row\); .* 0 or more, .* Fix: .*"
        r"\.may_be_negative = True",
    ),
    "an error": (lambda losses, layout: layout.no_such, "AttributeError: .*no_such"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_WEIGHTS)
def test_weights_of_the_users_own_are_checked(name):
    """Losses 2 and -1 are trained (no loss is negative, but a function may subtract); position 0 and 3 do not count."""
    function, said = WRONG_WEIGHTS[name]
    losses = torch.tensor([[-3.0, 2.0, -1.0, -2.0]], dtype=torch.float64)
    layout = row_layout(torch.tensor([[-100, 5, 5, -100]]))
    with pytest.raises(ValueError, match=r"is the text 'w\.py:f'; `ift_loss` takes the function itself"):
        F.propagated_loss(losses, layout, StepSettings(), token_weights="w.py:f")
    with pytest.raises(ValueError, match=rf"^token_weights <lambda>: {said}"):
        F.propagated_loss(losses, layout, StepSettings(), token_weights=partial(function))
    _, weights, _ = F.propagated_loss(losses, layout, StepSettings(), token_weights=lambda one, _: one.abs())
    assert weights.tolist() == [[3.0, 2.0, 1.0, 2.0]]


def test_a_function_that_says_so_may_give_negative_weights():
    def signs(losses, layout):
        return (losses - 1.5).sign()

    losses = torch.tensor([[1.0, 1.0, 2.0]])
    layout = row_layout(torch.tensor([[-100, 5, 5]]))
    with pytest.raises(
        ValueError, match=r"token_weights signs: returned -1 .* signs\.may_be_negative = True below"
    ):
        F.propagated_loss(losses, layout, StepSettings(), token_weights=signs)
    signs.may_be_negative = True
    assert F.propagated_loss(losses, layout, StepSettings(), token_weights=signs)[1].tolist() == [[-1, -1, 1]]


def centred(losses, layout):
    return losses - losses.mean()


def over_the_mean(losses, layout):
    """0 / 0 in a row whose losses are all 0."""
    return losses / (layout.per_document(losses) / layout.per_document(layout.trained.float()).clamp(min=1))


def spread(losses, layout):
    """The standard deviation of a row has no value where one token is trained."""
    rows = zip(losses, layout.trained, strict=True)
    return torch.stack([row[trained].std().expand(len(row)) for row, trained in rows])


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (centred, r"returned -\S+ for a token with the loss .* Fix: .* centred\.may_be_negative = True"),
        (over_the_mean, "returned nan for a token with the loss 0 .*Fix: return finite"),
        (spread, r"returned nan .* \(trained token 1 of 1 of its row\).*Fix: return finite"),
    ],
)
def test_weights_are_tried_on_losses_as_they_vary_in_training(function, said):
    """Small and large ones, zeros, and rows of different lengths: each function passes on losses that are alike."""
    alike = torch.tensor([[0.0, 1.5, 2.0, 2.5]])
    F.propagated_loss(
        alike, row_layout(torch.tensor([[-100, 5, 5, 5]])), StepSettings(), token_weights=function
    )
    with pytest.raises(ValueError, match=rf"(?s)^token_weights \w+: {said}.*made-up losses from 0 to 20"):
        F.try_weights(function, "cpu")


def test_weights_of_the_package_pass_the_trial():
    """Each is tried on two batches, of other sizes."""
    functions = [partial(F.propagation_weights, kind=kind) for kind in ("bellman", "cumsum", "none")]
    for function in (*functions, lambda losses, layout: losses.detach() / losses.detach().mean()):
        seen = []
        F.try_weights(
            lambda losses, layout, f=function, s=seen: (s.append(losses.shape), f(losses, layout))[1], "cpu"
        )
        assert seen == [(2, 5), (3, 9)]


def test_a_loss_that_is_not_finite_is_not_the_fault_of_the_weights():
    """It is reported where losses are checked."""
    losses = torch.tensor([[1.0, 2.0, math.nan, 1.0]])
    layout = row_layout(torch.tensor([[-100, 5, 5, 5]]))
    loss, *_ = F.propagated_loss(losses, layout, StepSettings(), token_weights=lambda one, _: one)
    assert loss.isnan()


def test_the_residual_is_equation_17():
    own, guess = (torch.rand(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    F.temporal_residual(own, guess, 0.3).sum().backward()
    torch.testing.assert_close(own.grad, torch.full_like(own, 0.7))
    torch.testing.assert_close(guess.grad, torch.full_like(own, 0.3))
    assert torch.equal(F.temporal_residual(own, guess, 0.0), own)
    assert torch.equal(F.temporal_residual(own, guess, 1.0), guess)


def test_the_equations_know_torch_alone():
    for module, ours in (
        (rows_module, {"ift.labels"}),
        (F, {"ift.labels", "ift.step.rows", "ift.step.settings"}),
        (settings_module, set()),
    ):
        lines = inspect.getsource(module).splitlines()
        imported = {line.split()[1] for line in lines if line.startswith(("import ", "from "))}
        allowed = {"__future__", "collections", "dataclasses", "functools", "typing", "torch"}
        assert {name for name in imported if name.split(".")[0] not in allowed} == ours


def test_a_lower_gamma_gives_more_of_the_step_to_a_hard_token():
    """docs/lambda_gamma.md. The tenth of 20 tokens has the loss 3, all others 0.1; the push is 20 dL/dl_t.

    Near gamma 0 a weight is the loss over the row's mean, 3 / 0.245, and the push twice that. With gamma 1 the push on
    each token is in proportion to the sum of all losses plus its own, 4.9 + l_t.
    """
    losses = torch.full((1, 21), 0.1, dtype=torch.float64)
    losses[0, 0], losses[0, 10] = 0.0, 3.0
    layout, largest, pushes = row_layout(torch.tensor([[-100] + [5] * 20])), [], {}
    for gamma in (1.0, 0.95, 0.8, 0.5, 1e-9):
        _, weights, gradient = F.propagated_loss(losses, layout, StepSettings(propagation_gamma=gamma))
        largest.append(float(weights.max()))
        pushes[gamma] = 20 * gradient[0, 1:]
    assert largest[1:] == sorted(largest[1:])
    assert largest[-1] == pytest.approx(3 / 0.245)
    assert float(pushes[1e-9][9]) == pytest.approx(2 * 3 / 0.245)
    assert float(pushes[1.0][9] / pushes[1.0][0]) == pytest.approx((4.9 + 3) / (4.9 + 0.1))

"""The losses: IFT against the oracle's loops, SFT as its special case, preference losses against plain arithmetic."""

import math
from dataclasses import replace

import pytest
import torch

import reference
from ift.lab.frozen_lake.methods import (
    Moves,
    Settings,
    dpo_loss,
    ift_loss,
    look_ahead,
    orpo_loss,
    sft_loss,
    simpo_loss,
    tdpo_loss,
)
from ift.lab.frozen_lake.training import METHODS, into_a_hole, own_roll_outs, train
from ift.lab.frozen_lake.trajectories import luckiest_optimal, shortest_detour

SFT_AS_IFT = Settings(residual_lambda=0, propagation="none")


def noise():
    return torch.Generator().manual_seed(0)


def gradients(policies, loss):
    return torch.autograd.grad(loss, list(policies))


def row(log_probs_of, way):
    """[log pi(action | cell)] of a trajectory, for one agent's matrix of log-probabilities."""
    return [log_probs_of[cell][action] for cell, action in zip(way.cells, way.actions, strict=True)]


def test_ift_without_residual_and_propagation_is_sft_to_the_bit(task):
    agents = task.start.copy()
    sft = sft_loss(agents, task.target)
    ift = ift_loss(agents, task.target, task.lake, SFT_AS_IFT, noise())
    assert torch.equal(sft, ift)
    assert all(map(torch.equal, gradients(agents, sft), gradients(agents, ift)))
    one, other = train(task, "sft", Settings()), train(task, "ift", SFT_AS_IFT)
    assert torch.equal(one.policies, other.policies)
    assert not torch.equal(one.policies, train(task, "ift", Settings()).policies)


@pytest.mark.parametrize("kind", ["bellman", "cumsum", "none"])
@pytest.mark.parametrize("detach", ["none", "scale", "weights"])
def test_ift_is_algorithm_1(task, kind, detach):
    """One agent, one move at a time, in loops: intended next cell, mixed state, loss, then the oracle's weights."""
    settings = Settings(propagation=kind, detach=detach, gamma=0.9, residual_lambda=0.3)
    agents = task.start.copy()
    loss = ift_loss(agents, task.target, task.lake, settings, noise())
    way, total = luckiest_optimal(task.lake), 0.0
    for agent in range(len(agents.into)):
        weights = [weight[agent] for weight in agents]

        def log_probs(state, weights=weights):
            hidden = (state @ weights[0] + weights[1][0]).clamp(min=0)
            return torch.log_softmax(hidden @ weights[2] + weights[3][0], -1)

        token_losses = []
        for move, (cell, action) in enumerate(zip(way.cells, way.actions, strict=True)):
            state = torch.zeros(16, dtype=torch.float64)
            state[cell] = 1
            if move:
                before = torch.zeros(16, dtype=torch.float64)
                before[way.cells[move - 1]] = 1
                meant = task.lake.steps[way.cells[move - 1], log_probs(before).argmax()]
                guess = torch.zeros(16, dtype=torch.float64)
                guess[meant] = 1
                state = 0.7 * state + 0.3 * guess
            token_losses.append(-log_probs(state)[action])
        losses = torch.stack(token_losses)[None]
        trained, documents = torch.ones(1, 6, dtype=torch.bool), torch.zeros(1, 6, dtype=torch.int64)
        weighted = reference.propagation_weights(losses, trained, documents, kind, 0.9, detach) * losses
        total = total + weighted.mean()
    torch.testing.assert_close(loss, total)
    for ours, theirs in zip(gradients(agents, loss), gradients(agents, total), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_weights_by_position_do_not_see_the_losses(task):
    """The control equals bellman for equal losses: w_t is the sum of gamma^k over the moves from t on, mean 1."""
    settings = Settings(propagation="position", residual_lambda=0)
    agents = task.start.copy()
    sums = [sum(0.95**k for k in range(6 - move)) for move in range(6)]
    weights = torch.tensor(sums, dtype=torch.float64) * 6 / sum(sums)
    expected = -(weights * task.target.log_probs(agents)).mean(-1).sum()
    torch.testing.assert_close(ift_loss(agents, task.target, task.lake, settings, noise()), expected)


def test_look_ahead_kinds(task):
    """Before the first move the start; then greedy and sampled are cells meant, expected is their mean."""

    def ahead(kind):
        return look_ahead(task.start, task.target, task.lake, kind, noise())

    for kind in ("greedy", "sample", "expected", "random"):
        found = ahead(kind)
        torch.testing.assert_close(found.sum(-1), torch.ones(found.shape[:-1], dtype=torch.float64))
        assert (found[:, 0, 0] == 1).all()
        assert not found.requires_grad
    draws = [
        look_ahead(task.start, task.target, task.lake, "sample", torch.Generator().manual_seed(seed))
        for seed in range(3000)
    ]
    torch.testing.assert_close(torch.stack(draws).mean(0), ahead("expected"), rtol=0, atol=0.05)
    odds, best = task.start.matrix()[:, 4], task.start.matrix()[:, 4].argmax(-1)
    assert torch.equal(ahead("greedy")[:, 2].argmax(-1), task.lake.steps[4][best])
    of_walls = odds[
        :, 0
    ]  # of the four actions in cell 4 only the one against the wall stays there; cell 5 is a hole
    torch.testing.assert_close(ahead("expected")[:, 2, 4], of_walls)


def test_dpo_cancels_on_shared_moves_and_orpo_does_not(task):
    """Cells 9 and 13 have the same action in both trajectories: what DPO adds there it takes away again."""
    agents = task.start.copy()
    pair = (task.target, task.rejected)
    shared, apart = [9, 13], [0, 1, 2, 4, 6, 8, 10, 14]
    for loss in (dpo_loss(agents, task.start, *pair, 0.1), tdpo_loss(agents, task.start, *pair, 0.1, None)):
        of_cells = gradients(agents, loss)[0].norm(dim=-1)
        assert (of_cells[:, shared] < 1e-12).all()
        assert (of_cells[:, apart] > 1e-6).all()
    of_cells = gradients(agents, orpo_loss(agents, *pair, 0.1))[0].norm(dim=-1)
    assert (of_cells[:, [*shared, *apart]] > 1e-4).all()
    assert (of_cells[:, [3, 5, 7, 11, 12, 15]] == 0).all()


def test_preference_losses_in_plain_arithmetic(task):
    """After some steps of DPO, so that policy and reference differ; every sum written out."""
    agents = task.start.copy()
    trained = train(task, "dpo", Settings(steps=7))
    optimizer = torch.optim.SGD(list(agents), lr=0.1)
    for _ in range(7):
        optimizer.zero_grad()
        dpo_loss(agents, task.start, task.target, task.rejected, 0.1).backward()
        optimizer.step()
    assert torch.equal(agents.matrix(), trained.policies[-1])
    ways = luckiest_optimal(task.lake), shortest_detour(task.lake)
    expected = dict.fromkeys(("dpo", "orpo", "simpo", "tdpo1", "tdpo2"), 0.0)
    for now, before in zip(agents.matrix().log().tolist(), task.start.matrix().log().tolist(), strict=True):
        (won, lost), (won_before, lost_before) = [
            [row(matrix, way) for way in ways] for matrix in (now, before)
        ]
        mean_won, mean_lost = sum(won) / 6, sum(lost) / 8
        change = (sum(won) - sum(won_before)) - (sum(lost) - sum(lost_before))
        apart = [
            sum(
                math.exp(b) * (b - n)
                for cell in way.cells
                for b, n in zip(before[cell], now[cell], strict=True)
            )
            for way in ways
        ]
        odds = [mean - math.log(1 - math.exp(mean)) for mean in (mean_won, mean_lost)]

        def minus_log_sigmoid(x):
            return math.log(1 + math.exp(-x))

        expected["dpo"] += minus_log_sigmoid(0.1 * change)
        expected["orpo"] += -mean_won + 0.25 * minus_log_sigmoid(odds[0] - odds[1])
        expected["simpo"] += minus_log_sigmoid(2.0 * (mean_won - mean_lost) - 1.6)
        expected["tdpo1"] += minus_log_sigmoid(0.1 * (change - (apart[1] - apart[0])))
        expected["tdpo2"] += minus_log_sigmoid(0.1 * (change - 0.5 * (apart[1] - apart[0])))
    pair = (task.target, task.rejected)
    found = {
        "dpo": dpo_loss(agents, task.start, *pair, 0.1),
        "orpo": orpo_loss(agents, *pair, 0.25),
        "simpo": simpo_loss(agents, *pair, 2.0, 1.6),
        "tdpo1": tdpo_loss(agents, task.start, *pair, 0.1, None),
        "tdpo2": tdpo_loss(agents, task.start, *pair, 0.1, 0.5),
    }
    assert {name: loss.item() for name, loss in found.items()} == pytest.approx(expected, rel=1e-12)
    assert expected["tdpo1"] != pytest.approx(expected["dpo"], rel=1e-6)


def test_tdpo2_holds_the_targets_divergence_fixed(task):
    """Its gradient equals that of TDPO2 with the target's divergence taken from another, equal policy."""
    agents, twin = task.start.copy(), task.start.copy()
    with torch.no_grad():
        for weights in (agents, twin):
            weights.out += 0.3
            weights.out[:, :5, 1] += 0.4
    pair = (task.target, task.rejected)
    loss = tdpo_loss(agents, task.start, *pair, 0.1, 0.5)
    whole = gradients(agents, loss)

    def divergence(policies, moves):
        states = torch.nn.functional.one_hot(moves.cells, 16).double()
        before, now = task.start.log_probs(states).detach(), policies.log_probs(states)
        return (before.exp() * (before - now)).sum((-1, -2))

    def change(moves):
        return (moves.log_probs(agents) - moves.log_probs(task.start).detach()).sum(-1)

    apart = 0.5 * (divergence(agents, pair[1]) - divergence(twin, pair[0]).detach())
    by_hand = -torch.nn.functional.logsigmoid(0.1 * (change(pair[0]) - change(pair[1]) - apart)).sum()
    for ours, theirs in zip(whole, gradients(agents, by_hand), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_padded_moves_do_not_count(task):
    """An agent's own roll-out, padded: its sums are those of the moves it made."""
    moves = own_roll_outs(task.lake, task.start)
    log_probs, matrix = moves.log_probs(task.start), task.start.matrix().log()
    assert len({*moves.made.sum(-1).tolist()}) > 1
    for agent in range(len(log_probs)):
        made = int(moves.made[agent].sum())
        pairs = zip(moves.cells[agent, :made].tolist(), moves.actions[agent, :made].tolist(), strict=True)
        by_hand = [matrix[agent, cell, action].item() for cell, action in pairs]
        assert log_probs[agent].sum().item() == pytest.approx(sum(by_hand))
        assert moves.mean(log_probs)[agent].item() == pytest.approx(sum(by_hand) / made)
        assert not task.lake.terminal[moves.cells[agent, :made]].any()


def test_the_shortest_way_into_a_hole(task):
    hole = into_a_hole(task.lake)
    assert (hole.cells, hole.actions) == ((0, 4), (1, 2))


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("propagation", "belman", "propagation is 'belman': choose from bellman, cumsum, none, position"),
        ("optimizer", "lion", "choose from sgd, momentum, adam, rmsprop"),
        ("steps", 0, "steps is 0: it must be above 0"),
        ("residual_lambda", 1.5, r"must be in \[0, 1\]"),
    ],
)
def test_settings_out_of_range_are_refused(field, value, said):
    with pytest.raises(ValueError, match=said):
        replace(Settings(), **{field: value})


def test_every_method_moves_the_policy_and_stays_finite(task):
    for method in METHODS:
        run = train(task, method, Settings(steps=3))
        assert run.policies.isfinite().all()
        assert (run.policies[1:] - run.policies[:-1]).abs().amax((1, 2, 3)).min() > 0
        assert Moves.of(luckiest_optimal(task.lake)).cells.shape == (1, 6)

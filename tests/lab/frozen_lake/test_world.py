"""The lake is gymnasium's, its optimum is the optimum, and arrival is counted exactly."""

import gymnasium
import pytest
import torch

from ift.lab.frozen_lake.trajectories import luckiest_optimal, shortest_detour
from ift.lab.frozen_lake.world import (
    DISCOUNT,
    action_values,
    greedy,
    make_lake,
    optimal_policy,
    success,
    visits,
)

LAKES = [{}, {"slippery": False}, {"size": 8}, {"size": 8, "slippery": False}, {"size": 5, "seed": 1}]


def moved(lake, cell, action):
    """Where an action leads on firm ice, from rows and columns."""
    if "".join(lake.rows)[cell] in "HG":
        return cell
    row, column = divmod(cell, lake.size)
    down, right = ((0, -1), (1, 0), (0, 1), (-1, 0))[action]
    inside = 0 <= row + down < lake.size and 0 <= column + right < lake.size
    return (row + down) * lake.size + column + right if inside else cell


@pytest.mark.parametrize("options", LAKES, ids=str)
def test_transitions_are_gymnasiums(options):
    """Against gymnasium's table and against a walk in rows and columns: a third each for the way meant and beside."""
    lake = make_lake(**options)
    for slippery in (True, False):
        with gymnasium.make("FrozenLake-v1", desc=list(lake.rows), is_slippery=slippery) as environment:
            table = environment.unwrapped.P
        for cell in range(lake.cells):
            for action in range(4):
                theirs, by_hand = torch.zeros(2, lake.cells, dtype=torch.float64)
                for probability, following, _, _ in table[cell][action]:
                    theirs[following] += probability
                ways = ((action - 1) % 4, action, (action + 1) % 4) if slippery else (action,)
                for way in ways:
                    by_hand[moved(lake, cell, way)] += 1 / len(ways)
                assert torch.equal(lake.dynamics(slippery)[cell, action], theirs)
                torch.testing.assert_close(theirs, by_hand)
        assert [moved(lake, cell, 2) for cell in range(lake.cells)] == lake.steps[:, 2].tolist()


@pytest.mark.parametrize("options", LAKES, ids=str)
def test_value_iteration_solves_bellmans_equation(options):
    """The values of the policy found solve (I - discount P) v = r, and no action is worth more than the one chosen."""
    lake, moving = make_lake(**options), None
    policy, values = optimal_policy(lake), action_values(lake)
    moving = ~lake.terminal
    chosen = (policy[..., None] * lake.dynamics()).sum(1)  # (S, S)
    reward = chosen[:, lake.gift] * moving
    going_on = chosen * moving[:, None] * moving  # an arrival pays once and ends
    solved = torch.linalg.solve(torch.eye(lake.cells, dtype=torch.float64) - DISCOUNT * going_on, reward)
    torch.testing.assert_close(values.max(-1).values[moving], solved[moving], rtol=0, atol=1e-10)
    better = lake.dynamics()[..., lake.gift] + DISCOUNT * (lake.dynamics() * moving) @ solved
    assert (better.max(-1).values <= solved + 1e-10)[moving].all()


def test_ties_go_to_the_lowest_action_and_terminal_rows_are_uniform():
    """The known optimum of the 4x4 map: L U U U / L . L . / U D L . / . R D ."""
    policy = optimal_policy(make_lake())
    moving = [0, 1, 2, 3, 4, 6, 8, 9, 10, 13, 14]
    assert policy.argmax(-1)[moving].tolist() == [0, 3, 3, 3, 0, 0, 3, 1, 0, 2, 1]
    assert (policy[[5, 7, 11, 12, 15]] == 0.25).all()


def test_success_counts_whole_episodes_of_gymnasium():
    """By hand: on firm ice a policy that walks the way arrives surely; one that stands at the wall never."""
    lake = make_lake()
    standing = torch.zeros(16, 4, dtype=torch.float64)
    standing[:, 0] = 1
    walking = optimal_policy(make_lake(slippery=False))
    assert success(lake, torch.stack([standing, walking]), slippery=False).tolist() == [0, 1]
    with gymnasium.make("FrozenLake-v1") as environment:
        assert lake.time_limit == environment.spec.max_episode_steps
        policy, arrived = optimal_policy(lake), 0
        environment.reset(seed=0)
        for _ in range(1000):
            cell, over = environment.reset()[0], False
            while not over:
                cell, reward, ended, cut, _ = environment.step(int(policy[int(cell)].argmax()))
                over = ended or cut
            arrived += reward
    exact = success(lake, policy, slippery=True).item()
    assert exact == pytest.approx(0.7402, abs=1e-4)
    assert abs(arrived / 1000 - exact) < 4 * (exact * (1 - exact) / 1000) ** 0.5
    with gymnasium.make("FrozenLake8x8-v1") as environment:
        assert make_lake(8).time_limit == environment.spec.max_episode_steps


def test_visits_are_expected_moves():
    """On firm ice the walker makes one move from each of the six cells of its way and none elsewhere."""
    lake = make_lake(slippery=False)
    way = luckiest_optimal(lake)
    expected = [float(cell in way.cells) for cell in range(16)]
    assert visits(lake, optimal_policy(lake)).tolist() == expected


def test_greedy_takes_the_first_of_the_likeliest():
    assert greedy(torch.tensor([[0.1, 0.4, 0.4, 0.1]])).tolist() == [[0, 1, 0, 0]]


def test_the_default_trajectories_are_those_described():
    lake = make_lake()
    target, detour = luckiest_optimal(lake), shortest_detour(lake)
    assert (target.cells, target.actions) == ((0, 4, 8, 9, 13, 14), (0, 0, 3, 1, 2, 1))
    assert (detour.cells, detour.actions) == ((0, 1, 2, 6, 10, 9, 13, 14), (2, 2, 1, 1, 0, 1, 2, 2))


@pytest.mark.parametrize("size", [4, 5, 8, 12])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_trajectories_of_random_maps_are_ways(size, seed):
    """The target is a possible roll-out of the optimum; the detour a firm way of two moves more, crossing nothing."""
    lake = make_lake(size, seed=seed)
    target, detour = luckiest_optimal(lake), shortest_detour(lake)
    best = optimal_policy(lake).argmax(-1)
    for way in (target, detour):
        for cell, action, following in zip(way.cells, way.actions, (*way.cells[1:], lake.gift), strict=True):
            assert not lake.terminal[cell]
            if way is target:
                assert action == best[cell]
                assert lake.dynamics()[cell, action, following] > 0
            else:
                assert following == moved(lake, cell, action)
    assert len({*detour.cells}) == len(detour.cells)
    reached, moves = {0}, 0
    while lake.gift not in reached:
        reached |= {moved(lake, cell, action) for cell in reached for action in range(4)}
        moves += 1
    assert len(detour.cells) == moves + 2


def test_the_luckiest_roll_out_is_the_likeliest():
    """Against every roll-out of up to 8 moves, enumerated."""
    lake = make_lake()
    best, likeliest = optimal_policy(lake).argmax(-1).tolist(), 0.0
    ways = [((0,), 1.0)]
    for _ in range(8):
        longer = []
        for way, odds in ways:
            for following, probability in enumerate(lake.dynamics()[way[-1], best[way[-1]]].tolist()):
                if following == lake.gift:
                    likeliest = max(likeliest, odds * probability)
                elif probability > 0 and not lake.terminal[following]:
                    longer.append(((*way, following), odds * probability))
        ways = longer
    target = luckiest_optimal(lake)
    odds = 1.0
    for cell, following in zip(target.cells, (*target.cells[1:], lake.gift), strict=True):
        odds *= lake.dynamics()[cell, best[cell], following].item()
    assert odds == pytest.approx(likeliest)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": 2}, "take a size of 3 or more"),
        ({"size": 5}, "no map of 5x5"),
        ({"seed": 1, "hole_density": 1.0}, r"it must be in \[0, 1\)"),
    ],
)
def test_impossible_lakes_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        make_lake(**options)


def test_a_map_without_a_detour_is_refused():
    with pytest.raises(ValueError, match="no detour of two moves"):
        shortest_detour(make_lake(4, seed=0))

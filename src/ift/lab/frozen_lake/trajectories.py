"""The two trajectories of all trainings, found by rule: a lucky optimal one, and a detour."""

import heapq
import math
from dataclasses import dataclass

from ift.lab.frozen_lake.world import ARROWS, Lake, optimal_policy


@dataclass(frozen=True)
class Trajectory:
    """A way from the start to the gift: its cells and actions."""

    cells: tuple[int, ...]  # the cell before each move; the last move leads to the gift
    actions: tuple[int, ...]  # the action taken in each

    def __str__(self) -> str:
        return " ".join(
            f"{cell}{ARROWS[action]}" for cell, action in zip(self.cells, self.actions, strict=True)
        )


def luckiest_optimal(lake: Lake) -> Trajectory:
    """The likeliest roll-out of the optimal policy that reaches the gift.

    Of equally likely roll-outs, it is the one with the fewest slips, then the one with the lowest cells.

    Raises:
        ValueError: The gift cannot be reached with the optimal policy.
    """
    best, dynamics = optimal_policy(lake).argmax(-1).tolist(), lake.dynamics()
    frontier: list[tuple[float, int, tuple[int, ...]]] = [(0.0, 0, (0,))]
    done: set[int] = set()
    while frontier:
        unlikely, slips, way = heapq.heappop(frontier)
        cell = way[-1]
        if cell == lake.gift:
            return Trajectory(way[:-1], tuple(best[cell] for cell in way[:-1]))
        if cell in done or lake.terminal[cell]:
            continue
        done.add(cell)
        for following, probability in enumerate(dynamics[cell, best[cell]].tolist()):
            if probability > 0:
                slipped = following != lake.steps[cell, best[cell]]
                cost = round(unlikely - math.log(probability), 9)  # equal products stay equal
                heapq.heappush(frontier, (cost, slips + slipped, (*way, following)))
    raise ValueError(
        "the optimal policy never reaches the gift on this map: take another seed or fewer holes"
    )


def shortest_detour(lake: Lake) -> Trajectory:
    """The shortest way to the gift on firm ice that is longer than necessary and visits no cell twice.

    On a grid it is two moves longer than the shortest way. Of several, it is the one whose actions come first (left,
    down, right, up).

    Raises:
        ValueError: Every way of that length crosses itself.
    """
    away = distances(lake)
    dead_ends: set[tuple[int, int, int]] = set()

    def search(way: list[int], actions: list[int], left: int) -> Trajectory | None:
        cell, before = way[-1], way[-2] if len(way) > 1 else -1
        if left == 0:
            return Trajectory(tuple(way[:-1]), tuple(actions))
        if (before, cell, left) in dead_ends:
            return None
        for action, following in enumerate(lake.steps[cell].tolist()):
            # With two moves to spare, a way crosses itself only by standing still or turning straight back.
            if following not in (cell, before) and away[following] <= left - 1:
                found = search([*way, following], [*actions, action], left - 1)
                if found:
                    return found
        dead_ends.add((before, cell, left))
        return None

    found = search([0], [], away[0] + 2)
    if found is None:
        raise ValueError("this map has no detour of two moves to the gift: take another seed or fewer holes")
    return found


def distances(lake: Lake) -> list[int]:
    """The number of moves to the gift on firm ice from every cell; twice the number of cells if there is no way."""
    away = [2 * lake.cells] * lake.cells
    away[lake.gift] = 0
    for _ in range(lake.cells):
        for cell in range(lake.cells):
            if not lake.terminal[cell]:
                near = min(away[following] for following in lake.steps[cell].tolist())
                away[cell] = min(away[cell], 1 + near)
    return away

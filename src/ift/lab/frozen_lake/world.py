"""The lake: gymnasium's FrozenLake-v1 as tensors, its optimal policy, and the probability of reaching the gift.

Shape legend of this package: R agents (one per seed), S cells, A = 4 actions (left, down, right, up), M moves of a
trajectory, N units of the hidden layer. A policy matrix is (..., S, A); each row is a distribution over actions.
"""

from dataclasses import dataclass
from typing import Any

import gymnasium
import torch
from gymnasium.envs.toy_text.frozen_lake import generate_random_map
from torch import Tensor

ACTIONS = 4
ARROWS = "←↓→↑"
DISCOUNT = 0.99  # of the value iteration
TIED = 1e-9  # action values closer than this count as equal
NAMED_SIZES = (4, 8)  # gymnasium has a map of its own for these


@dataclass(frozen=True)
class Lake:
    """One map and its dynamics. The start is cell 0, and the gift is in the last cell."""

    rows: tuple[str, ...]  # the map, one string of S, F, H and G per row
    slippery: bool  # whether the ice slips: then each move goes one of three ways
    # (S, A, S) float64, probability of the next cell on slippery ice; a terminal cell keeps the agent
    slides: Tensor
    steps: Tensor  # (S, A) int64, the cell that an action means to reach: where it leads on firm ice

    @property
    def size(self) -> int:
        """The number of cells per side."""
        return len(self.rows)

    @property
    def cells(self) -> int:
        """The number of cells of the map, S."""
        return self.size**2

    @property
    def gift(self) -> int:
        """The number of the cell with the gift."""
        return self.cells - 1

    @property
    def terminal(self) -> Tensor:
        """The cells that end an episode, holes and the gift: (S,) bool."""
        return torch.tensor([letter in "HG" for letter in "".join(self.rows)])

    @property
    def time_limit(self) -> int:
        """The moves after which gymnasium ends an episode: 100 on its 4x4 map, 200 on its 8x8 map."""
        return 25 * self.size

    def dynamics(self, slippery: bool | None = None) -> Tensor:
        """Transition probabilities on the lake's ice, or on the kind given: (S, A, S) float64."""
        if self.slippery if slippery is None else slippery:
            return self.slides
        return torch.nn.functional.one_hot(self.steps, self.cells).double()


def make_lake(
    size: int = 4, slippery: bool = True, seed: int | None = None, hole_density: float = 0.2
) -> Lake:
    """Make a lake of `size` x `size` cells: a map of gymnasium (sizes 4 and 8), or with a seed a random map.

    Each cell of a random map is a hole with probability `hole_density`, in [0, 1). There is always a way to the gift.

    Raises:
        ValueError: A size below 3, a density outside [0, 1), or a random map without a seed.
    """
    if size < 3:
        raise ValueError(
            f"a lake of {size}x{size} cells leaves no room for a detour: take a size of 3 or more"
        )
    if not 0 <= hole_density < 1:
        raise ValueError(f"hole density is {hole_density}: it must be in [0, 1)")
    if seed is None and size not in NAMED_SIZES:
        raise ValueError(
            f"gymnasium has no map of {size}x{size} cells: give a seed, and a random one is made"
        )
    options: dict = {"map_name": f"{size}x{size}"}
    if seed is not None:
        options = {"desc": generate_random_map(size, 1 - hole_density, seed)}
    slides, steps = (transition_table(slips, **options) for slips in (True, False))
    with gymnasium.make("FrozenLake-v1", **options) as environment:
        rows = tuple("".join(letter.decode() for letter in row) for row in environment.unwrapped.desc)  # type: ignore[attr-defined]
    return Lake(rows, slippery, slides, steps.argmax(-1))


def transition_table(slippery: bool, **options: Any) -> Tensor:
    """Transition probabilities, (S, A, S) float64, from `P` of gymnasium's environment.

    `options` are those of FrozenLake-v1.
    """
    with gymnasium.make("FrozenLake-v1", is_slippery=slippery, **options) as environment:
        table = environment.unwrapped.P  # type: ignore[attr-defined]
    found = torch.zeros(len(table), ACTIONS, len(table), dtype=torch.float64)
    for cell, actions in table.items():
        for action, outcomes in actions.items():
            for probability, following, _, _ in outcomes:
                found[cell, action, following] += probability
    return found


def action_values(lake: Lake) -> Tensor:
    """The optimal value of each action in each cell, (S, A) float64 in [0, 1].

    It is computed by value iteration on the lake's ice until nothing changes; reaching the gift has reward 1.
    """
    dynamics, moving = lake.dynamics(), ~lake.terminal
    reward = dynamics[..., lake.gift] * moving[:, None]  # (S, A)
    values = torch.zeros(lake.cells, dtype=torch.float64)
    while True:
        of_actions = reward + DISCOUNT * dynamics @ (values * moving)  # (S, A)
        newer = of_actions.max(-1).values * moving
        if (newer - values).abs().max() < 1e-14:
            return of_actions
        values = newer


def optimal_policy(lake: Lake) -> Tensor:
    """The policy that is greedy in the optimal values, (S, A) float64.

    Ties go to the lowest action. Cells that end the episode have the uniform distribution.
    """
    values = action_values(lake)
    best = (values >= values.max(-1, keepdim=True).values - TIED).int().argmax(-1)  # the first of those tied
    policy = torch.nn.functional.one_hot(best, ACTIONS).double()
    policy[lake.terminal] = 1 / ACTIONS
    return policy


def greedy(policy: Tensor) -> Tensor:
    """The policy that always takes the likeliest action of `policy`; same shape and dtype."""
    return torch.nn.functional.one_hot(policy.argmax(-1), ACTIONS).to(policy.dtype)


def success(lake: Lake, policy: Tensor, slippery: bool) -> Tensor:
    """The exact probability that a policy (..., S, A) reaches the gift from the start within the time limit: (...)."""
    chain = torch.einsum("...sa,san->...sn", policy.double(), lake.dynamics(slippery))
    return torch.linalg.matrix_power(chain, lake.time_limit)[..., 0, lake.gift]


def visits(lake: Lake, policy: Tensor) -> Tensor:
    """The expected number of moves made from each cell on the lake's ice within the time limit: (..., S) float64."""
    chain = torch.einsum("...sa,san->...sn", policy.double(), lake.dynamics())
    here = torch.zeros(chain.shape[:-1], dtype=torch.float64)
    here[..., 0] = 1
    total = torch.zeros_like(here)
    for _ in range(lake.time_limit):
        total = total + here * ~lake.terminal
        here = torch.einsum("...s,...sn->...n", here, chain)
    return total

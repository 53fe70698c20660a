"""The agents: two-layer policies, one per seed, computed together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ift.lab.frozen_lake.world import ACTIONS

HIDDEN = 64
FIT_STEPS, FIT_RATE = 1500, 1e-2  # full-batch Adam


@dataclass
class Policies:
    """The weights of R policies: one-hot cell -> 64 ReLU -> 4 actions. Leaves of the graph, float64."""

    into: Tensor  # (R, S, N) weights; row s is what a one-hot input of cell s adds
    into_bias: Tensor  # (R, 1, N)
    out: Tensor  # (R, N, A)
    out_bias: Tensor  # (R, 1, A)

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.into, self.into_bias, self.out, self.out_bias))

    def log_probs(self, states: Tensor) -> Tensor:
        """Log-probabilities in nats of the actions in states (R, M, S) or (M, S): (R, M, A). Gradient flows to both."""
        hidden = torch.relu(states @ self.into + self.into_bias)
        return torch.log_softmax(hidden @ self.out + self.out_bias, -1)

    def matrix(self) -> Tensor:
        """The state-action matrix, (R, S, A) float64 probabilities without gradient."""
        with torch.no_grad():
            return self.log_probs(torch.eye(self.into.shape[1], dtype=self.into.dtype)).exp()

    def copy(self) -> "Policies":
        """Copy the weights as new leaves."""
        return Policies(*(weight.detach().clone().requires_grad_() for weight in self))


def new_policies(cells: int, seeds: Sequence[int]) -> Policies:
    """Initialise policies as `torch.nn.Linear` does, uniform in +-1/sqrt(fan-in), with one seed each."""

    def draw(generator: torch.Generator) -> list[Tensor]:
        shapes = [(cells, HIDDEN, cells), (1, HIDDEN, cells), (HIDDEN, ACTIONS, HIDDEN), (1, ACTIONS, HIDDEN)]
        return [
            (2 * torch.rand(rows, columns, generator=generator, dtype=torch.float64) - 1) / fan_in**0.5
            for rows, columns, fan_in in shapes
        ]

    drawn = zip(*(draw(torch.Generator().manual_seed(seed)) for seed in seeds), strict=True)
    return Policies(*(torch.stack(weights).requires_grad_() for weights in drawn))


def fit(policies: Policies, targets: Tensor, steps: int = FIT_STEPS) -> Iterator[int]:
    """Fit `policies` in place to the matrices `targets`, (S, A) or (R, S, A).

    The loss is the cross-entropy over all cells, the optimiser Adam. This is a generator. It yields the number of each
    finished step, for progress.
    """
    optimizer = torch.optim.Adam(list(policies), lr=FIT_RATE, fused=True)
    cells = torch.eye(policies.into.shape[1], dtype=policies.into.dtype)
    for step in range(steps):
        optimizer.zero_grad()
        entropies = -(targets * policies.log_probs(cells)).sum(-1)  # (R, S)
        entropies.mean(-1).sum().backward()  # agents do not affect each other
        optimizer.step()
        yield step + 1

"""Set up the agents, train them with each method, and keep their policies after every step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ift.lab.frozen_lake import methods
from ift.lab.frozen_lake.methods import Method, Moves, Settings
from ift.lab.frozen_lake.policy import Policies, fit, new_policies
from ift.lab.frozen_lake.trajectories import Trajectory, luckiest_optimal, shortest_detour
from ift.lab.frozen_lake.world import ACTIONS, Lake, optimal_policy

METHODS: tuple[Method, ...] = ("sft", "ift", "ift_scale", "orpo", "dpo", "simpo", "tdpo1", "tdpo2")
PAPER_ORDER: tuple[Method, ...] = ("dpo", "ift", "orpo", "sft")  # claimed, nearest to the optimum first
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "momentum": lambda weights, lr: torch.optim.SGD(weights, lr=lr, momentum=0.9),
    "adam": torch.optim.Adam,
    "rmsprop": torch.optim.RMSprop,
}
START_SEEDS = 1_000_000  # added to a seed for the start's initial weights: they are not the optimal net's
NOISE_SEED = 2_000_000  # of the sampled look-ahead and the agents' own roll-outs
LONGEST_ROLL_OUT = 30  # moves of an agent's own roll-out, where that is what is rejected
Tick = Callable[[], object]


@dataclass(frozen=True)
class Start:
    """The abilities of the agents before training.

    Attributes:
        skill: Share in [0, 1] of the optimal policy in every cell; the rest is uniform.
        habit: Share in [0, 1] of the detour's action in the cells of the detour: a bad habit of a pre-trained agent.
        random: Whether the agents are not pre-trained and have torch's initial weights.
    """

    skill: float = 0.6
    habit: float = 0.5
    random: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError if a share is outside [0, 1]."""
        if not 0 <= self.skill <= 1 or not 0 <= self.habit <= 1:
            raise ValueError(f"skill {self.skill} and habit {self.habit} must be in [0, 1]")


@dataclass(frozen=True)
class Task:
    """One lake and its agents before training, from which every method starts."""

    lake: Lake  # the world
    # (R, S, A) float64, the optimal *parameterised* policies: nets fitted to the optimal matrix
    optimum: Tensor
    start: Policies  # the agents; also the reference of DPO and TDPO
    target: Moves  # the trajectory to learn from, chosen by the preference methods
    rejected: Moves  # the trajectory they reject


@dataclass(frozen=True)
class Run:
    """The training of one method, K steps."""

    # (K + 1, R, S, A) float64: the state-action matrices from before the first step to after the last
    policies: Tensor
    # (K, R, S) float64: norm of the gradient in the weights that cell s feeds, at each step
    gradients: Tensor


def start_matrix(lake: Lake, start: Start, detour: Trajectory) -> Tensor:
    """The matrix to which the agents are fitted before training: (S, A) float64 probabilities."""
    matrix = start.skill * optimal_policy(lake) + (1 - start.skill) / ACTIONS
    for cell, action in zip(detour.cells, detour.actions, strict=True):
        habit = torch.nn.functional.one_hot(torch.tensor(action), ACTIONS)
        matrix[cell] = (1 - start.habit) * matrix[cell] + start.habit * habit
    return matrix


def make_tasks(lake: Lake, starts: Sequence[Start], seeds: Sequence[int], tick: Tick = int) -> list[Task]:
    """Fit the optimal policies and the starting policies of every seed together; returns one task for each start.

    `tick` is called after each of `FIT_STEPS` steps.
    """
    detour = shortest_detour(lake)
    matrices = [optimal_policy(lake)] + [start_matrix(lake, start, detour) for start in starts]
    initial = [new_policies(lake.cells, seeds)]
    initial += [new_policies(lake.cells, [seed + START_SEEDS for seed in seeds])] * len(starts)
    stacked = (torch.cat(weights).detach().requires_grad_() for weights in zip(*initial, strict=True))
    together = Policies(*stacked)
    for _ in fit(together, torch.stack(matrices).repeat_interleave(len(seeds), 0)):
        tick()
    parts = zip(*(weights.split(len(seeds)) for weights in together), strict=True)
    optimum, *fitted = (Policies(*weights) for weights in parts)
    target = Moves.of(luckiest_optimal(lake))
    tasks = []
    for start, policies in zip(starts, fitted, strict=True):
        begin = (initial[1] if start.random else policies).copy()
        tasks.append(Task(lake, optimum.matrix(), begin, target, Moves.of(detour)))
    return tasks


def into_a_hole(lake: Lake) -> Trajectory:
    """The shortest way into a hole on firm ice; of equally short ways, the one whose actions come first.

    Raises:
        ValueError: The map has no hole.
    """
    ways = [Trajectory((0,), ())]
    seen = {0}
    for way in ways:  # grows while it is read: breadth first
        for action, following in enumerate(lake.steps[way.cells[-1]].tolist()):
            if lake.terminal[following] and following != lake.gift:
                return Trajectory(way.cells, (*way.actions, action))
            if following not in seen:
                seen.add(following)
                ways.append(Trajectory((*way.cells, following), (*way.actions, action)))
    raise ValueError("this map has no hole to fall into")


def own_roll_outs(lake: Lake, policies: Policies) -> Moves:
    """Sample one roll-out of each agent on the lake's ice, up to the end of the episode.

    A roll-out has at most `LONGEST_ROLL_OUT` moves.
    """
    noise = torch.Generator().manual_seed(NOISE_SEED)
    matrix, here = policies.matrix(), torch.zeros(len(policies.into), dtype=torch.int64)
    agents, cells, actions, made = torch.arange(len(here)), [], [], []
    for _ in range(LONGEST_ROLL_OUT):
        action = torch.multinomial(matrix[agents, here], 1, generator=noise)[:, 0]
        cells.append(here)
        actions.append(action)
        made.append(~lake.terminal[here])
        here = torch.multinomial(lake.dynamics()[here, action], 1, generator=noise)[:, 0]
    return Moves(torch.stack(cells, 1), torch.stack(actions, 1), torch.stack(made, 1).double())


def train(task: Task, method: Method, settings: Settings, tick: Tick = int) -> Run:
    """Train a copy of the task's agents with one method; `tick` is called after each step."""
    agents, reference, target, pair = task.start.copy(), task.start, task.target, (task.target, task.rejected)
    noise = torch.Generator().manual_seed(NOISE_SEED)
    ift = settings if method == "ift" else replace(settings, detach="scale")
    alpha = None if method == "tdpo1" else settings.tdpo_alpha
    losses: dict[str, Callable[[], Tensor]] = {
        "sft": lambda: methods.sft_loss(agents, target),
        "ift": lambda: methods.ift_loss(agents, target, task.lake, ift, noise),
        "orpo": lambda: methods.orpo_loss(agents, *pair, settings.orpo_beta),
        "simpo": lambda: methods.simpo_loss(agents, *pair, settings.simpo_beta, settings.simpo_gamma),
        "dpo": lambda: methods.dpo_loss(agents, reference, *pair, settings.beta),
        "tdpo": lambda: methods.tdpo_loss(agents, reference, *pair, settings.beta, alpha),
    }
    loss = losses[method.removesuffix("_scale").rstrip("12")]

    optimizer = OPTIMIZERS[settings.optimizer](list(agents), lr=settings.learning_rate)
    policies, gradients = [agents.matrix()], []
    for _ in range(settings.steps):
        optimizer.zero_grad()
        loss().backward()
        gradients.append(agents.into.grad.norm(dim=-1))  # type: ignore[union-attr]
        optimizer.step()
        policies.append(agents.matrix())
        tick()
    return Run(torch.stack(policies), torch.stack(gradients))

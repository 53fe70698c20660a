"""The methods as losses of a two-layer policy: SFT, IFT, ORPO, DPO, TDPO and SimPO on the same lake.

A trajectory is to a policy what an answer is to a language model: its cells are the states (prompt and tokens so far),
its actions the tokens. Every loss here is a scalar: the sum over the agents, which do not affect each other. Gradient
flows to the policies, never to the reference. Sources of the formulas: docs/frozen_lake.md.
"""

from dataclasses import dataclass
from typing import Literal, get_args, get_type_hints

import torch
from torch import Tensor
from torch.nn import functional as F

from ift.lab.frozen_lake.policy import Policies
from ift.lab.frozen_lake.trajectories import Trajectory
from ift.lab.frozen_lake.world import ACTIONS, Lake
from ift.step.equations import propagation_weights, reduce_losses, temporal_residual
from ift.step.rows import RowLayout

Method = Literal["sft", "ift", "ift_scale", "orpo", "dpo", "simpo", "tdpo1", "tdpo2"]


@dataclass(frozen=True)
class Settings:
    """The settings of a training on the lake; the defaults are those of the published table.

    Attributes:
        residual_lambda: Share of the look-ahead cell in a mixed state, in [0, 1].
        gamma: Decay of the propagation, in (0, 1].
        propagation: "bellman", "cumsum", "none", or the control "position" (the weights of bellman for equal losses).
        detach: As `propagation_detach` of IFTConfig, for the method "ift". "none" is the released code, which produced
            the paper's results; the method "ift_scale" uses "scale", the default of `ift train`.
        lookahead: "greedy", "sample", "expected", or the control "random" (any of the four actions).
        beta: Beta of DPO and TDPO.
        orpo_beta: Weight of ORPO's odds-ratio term.
        tdpo_alpha: Weight of TDPO2's divergence term.
        simpo_beta: Beta of SimPO.
        simpo_gamma: Margin of SimPO.
        optimizer: "sgd", "momentum" (0.9), "adam" or "rmsprop".
        learning_rate: The constant learning rate.
        steps: The number of full-batch steps.
    """

    residual_lambda: float = 0.2
    gamma: float = 0.95
    propagation: Literal["bellman", "cumsum", "none", "position"] = "bellman"
    detach: Literal["none", "scale", "weights"] = "none"
    lookahead: Literal["greedy", "sample", "expected", "random"] = "greedy"
    beta: float = 0.1
    orpo_beta: float = 0.1
    tdpo_alpha: float = 0.5
    simpo_beta: float = 2.0
    simpo_gamma: float = 1.6
    optimizer: Literal["sgd", "momentum", "adam", "rmsprop"] = "sgd"
    learning_rate: float = 0.1
    steps: int = 20

    def __post_init__(self) -> None:
        """Raise ValueError if a value is out of range."""
        for name, kind in get_type_hints(Settings).items():
            value, choices = getattr(self, name), get_args(kind)
            if choices and value not in choices:
                raise ValueError(f"{name} is {value!r}: choose from {', '.join(choices)}")
        for name in ("beta", "tdpo_alpha", "simpo_beta", "learning_rate", "steps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be above 0")
        if not 0 <= self.residual_lambda <= 1 or not 0 < self.gamma <= 1 or not self.orpo_beta >= 0:
            raise ValueError(
                f"residual_lambda {self.residual_lambda} must be in [0, 1], gamma {self.gamma} in (0, 1], "
                f"orpo_beta {self.orpo_beta} 0 or more"
            )


@dataclass(frozen=True)
class Moves:
    """Trajectories as tensors, one per agent or one for all agents."""

    cells: Tensor  # (R, M) or (1, M) int64
    actions: Tensor  # the same shape
    made: Tensor  # the same shape, float64: 1 for a move, 0 for the padding of a shorter trajectory

    @classmethod
    def of(cls, trajectory: Trajectory) -> "Moves":
        """Make the moves of one trajectory for all agents."""
        cells, actions = torch.tensor([trajectory.cells]), torch.tensor([trajectory.actions])
        return cls(cells, actions, torch.ones(cells.shape, dtype=torch.float64))

    def log_probs(self, policies: Policies) -> Tensor:
        """Log-probabilities of the actions in their cells, (R, M) float64, in nats; 0 for padding."""
        states = F.one_hot(self.cells, policies.into.shape[1]).double()
        return chosen_actions(policies.log_probs(states), self.actions) * self.made

    def mean(self, values: Tensor) -> Tensor:
        """Mean of `values` (R, M) over the moves made by each agent: (R,)."""
        return values.sum(-1) / self.made.sum(-1)


def chosen_actions(log_probs: Tensor, actions: Tensor) -> Tensor:
    """The entries of log_probs (R, M, A) at the actions (1 or R, M): (R, M)."""
    return log_probs.gather(-1, actions.expand(log_probs.shape[:-1])[..., None])[..., 0]


# --- From the target trajectory alone ---------------------------------------------------------------------------------


def sft_loss(policies: Policies, target: Moves) -> Tensor:
    """Mean of -log pi(a_t | s_t) over the target's moves, in the states of the target."""
    return summed_over_agents(-target.log_probs(policies))


def ift_loss(
    policies: Policies, target: Moves, lake: Lake, settings: Settings, noise: torch.Generator
) -> Tensor:
    """Algorithm 1 (arXiv:2405.11870v3) on the lake.

    1. Look ahead: which cell would the agent itself have reached from the target's previous cell?
    2. Temporal residual connection (Eq. 17): mix that cell into the target's.
    3. Score the target's actions in the mixed states.
    4. Dynamic relation propagation: a move's loss weighs on the moves that led to it.
    """
    ahead = look_ahead(policies, target, lake, settings.lookahead, noise)  # (R, M, S)
    states = F.one_hot(target.cells, lake.cells).double()  # (1, M, S)
    mixed = temporal_residual(states, ahead, settings.residual_lambda)  # (R, M, S)
    losses = -chosen_actions(policies.log_probs(mixed), target.actions)  # (R, M)
    return summed_over_agents(weights_of(losses, settings) * losses)


def weights_of(losses: Tensor, settings: Settings) -> Tensor:
    """The weights of losses (R, M), in their shape.

    They come from dynamic relation propagation, or for the control "position" from bellman with equal losses.
    """
    kind, layout = settings.propagation, one_answer_per_row(losses)
    if kind == "position":
        return propagation_weights(torch.ones_like(losses), layout, "bellman", settings.gamma)
    return propagation_weights(losses, layout, kind, settings.gamma, settings.detach)


@torch.no_grad()
def look_ahead(policies: Policies, target: Moves, lake: Lake, kind: str, noise: torch.Generator) -> Tensor:
    """The cell that the agent intends to reach from the target's previous cell: (R, M, S), a distribution.

    For the first move it is the start.
    """
    states = F.one_hot(target.cells, lake.cells).double()
    own = policies.log_probs(states[:, :-1]).exp()  # (R, M - 1, A) what it would do in each cell but the last
    if kind == "greedy":
        own = F.one_hot(own.argmax(-1), ACTIONS).double()
    elif kind in ("sample", "random"):
        odds = own if kind == "sample" else torch.ones_like(own)
        drawn = torch.multinomial(odds.flatten(0, 1), 1, generator=noise).view(own.shape[:-1])
        own = F.one_hot(drawn, ACTIONS).double()
    meant = lake.steps[target.cells[:, :-1]]  # (1, M - 1, A) the cell that each action means to reach
    reached = F.one_hot(meant, lake.cells).double()  # (1, M - 1, A, S)
    ahead = torch.einsum("rma,rmas->rms", own, reached.expand(*own.shape, -1))
    return torch.cat([states[:, :1].expand(len(own), -1, -1), ahead], 1)


def one_answer_per_row(losses: Tensor) -> RowLayout:
    """The layout of losses (R, M) in which every entry is trained and every row is one answer."""
    every = torch.ones_like(losses, dtype=torch.bool)
    row = torch.arange(len(losses))[:, None].expand_as(losses)
    return RowLayout(trained=every, attended=every, documents=row, positions=every.cumsum(1) - 1)


def summed_over_agents(losses: Tensor) -> Tensor:
    """Sum over agents of the mean over the agent's moves.

    This is the reduction "sequence", applied to each agent as a batch of its own.
    """
    return reduce_losses(losses, one_answer_per_row(losses), "sequence", num_items=1)


# --- From a pair: the target is preferred to the detour ---------------------------------------------------------------


def orpo_loss(policies: Policies, target: Moves, rejected: Moves, beta: float) -> Tensor:
    """-mean log pi(target) - beta log sigmoid(log odds(target) - log odds(rejected)).

    The odds are those of the mean likelihood per move.
    """
    wanted, unwanted = (moves.mean(moves.log_probs(policies)) for moves in (target, rejected))
    odds = [mean - torch.log1p(-mean.exp()) for mean in (wanted, unwanted)]
    return (-wanted - beta * F.logsigmoid(odds[0] - odds[1])).sum()


def simpo_loss(policies: Policies, target: Moves, rejected: Moves, beta: float, gamma: float) -> Tensor:
    """-log sigmoid(beta (mean log pi(target) - mean log pi(rejected)) - gamma)."""
    wanted, unwanted = (moves.mean(moves.log_probs(policies)) for moves in (target, rejected))
    return -F.logsigmoid(beta * (wanted - unwanted) - gamma).sum()


def dpo_loss(policies: Policies, reference: Policies, target: Moves, rejected: Moves, beta: float) -> Tensor:
    """-log sigmoid(beta (change of log pi(target) - change of log pi(rejected))).

    A change is the difference between the policy and the reference.
    """
    return -F.logsigmoid(beta * _preference(policies, reference, target, rejected)).sum()


def tdpo_loss(
    policies: Policies, reference: Policies, target: Moves, rejected: Moves, beta: float, alpha: float | None
) -> Tensor:
    """DPO minus a token-level divergence from the reference: TDPO1 if `alpha` is None, otherwise TDPO2."""
    of_target, of_rejected = (_divergence(policies, reference, moves) for moves in (target, rejected))
    apart = of_rejected - of_target if alpha is None else alpha * (of_rejected - of_target.detach())
    preference = _preference(policies, reference, target, rejected)
    return -F.logsigmoid(beta * (preference - apart)).sum()


def _preference(policies: Policies, reference: Policies, target: Moves, rejected: Moves) -> Tensor:
    def change(moves: Moves) -> Tensor:
        return (moves.log_probs(policies) - moves.log_probs(reference).detach()).sum(-1)

    return change(target) - change(rejected)


def _divergence(policies: Policies, reference: Policies, moves: Moves) -> Tensor:
    """KL(reference || policy) in nats, summed over the cells of the trajectory: (R,)."""
    states = F.one_hot(moves.cells, policies.into.shape[1]).double()
    before, now = reference.log_probs(states).detach(), policies.log_probs(states)
    return ((before.exp() * (before - now)).sum(-1) * moves.made).sum(-1)

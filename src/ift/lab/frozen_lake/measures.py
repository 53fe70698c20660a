"""Measures of policies: the distance to the optimum, the success rate, and the cells that a training reached."""

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor

from ift.lab.frozen_lake.methods import Method
from ift.lab.frozen_lake.training import PAPER_ORDER, Run, Task
from ift.lab.frozen_lake.world import greedy, success, visits
from ift.lab.report.intervals import mean_interval

TOUCHED = 0.01  # a cell counts as explored from 1 % of the step's largest gradient on
PAIRS: tuple[tuple[Method, Method], ...] = (
    ("dpo", "ift"), ("ift", "orpo"), ("orpo", "sft"), ("ift", "sft"),
    ("ift_scale", "ift"), ("ift_scale", "orpo"), ("ift_scale", "sft"),
)  # fmt: skip


Estimate = dict[str, float]  # "mean" over agents, and "ci95": half the width of its 95 % interval


def estimate(values: Tensor) -> Estimate:
    """The mean of values (R,) and half the width of its 95 % interval, as {"mean", "ci95"}; NaN for a single value."""
    found = mean_interval(values.tolist())
    return {"mean": found.mean, "ci95": float("nan") if found.half is None else found.half}


def measure(task: Task, run: Run) -> dict[str, Tensor]:
    """Compute every measure after every step, each (K + 1, R) float64.

    * `mse_all`, `mse_non_terminal`, `mse_off_trajectory`: mean squared difference between the state-action matrix and
      the optimal one, over all cells, over the cells in which the agent can move, and over those of them that the
      target does not visit.
    * `success_{sampled,greedy}_{slippery,firm}`: probability in [0, 1] of reaching the gift within the time limit.
    * `cells_explored`: number of cells whose weights have changed in some step so far.
    * `own_ground`: share in [0, 1] of the gradient on the cells that the untrained agent itself would visit: the
      overlap between the distribution of the gradient over cells and that of the agent's visits on the lake's ice.
    """
    lake, moving = task.lake, ~task.lake.terminal
    off = moving.clone()
    off[task.target.cells.flatten()] = False
    errors = (run.policies - task.optimum).square().mean(-1)  # (K + 1, R, S)
    found = {
        "mse_all": errors.mean(-1),
        "mse_non_terminal": errors[..., moving].mean(-1),
        "mse_off_trajectory": errors[..., off].mean(-1),
    }
    for kind, policies in (("sampled", run.policies), ("greedy", greedy(run.policies))):
        for ice in ("slippery", "firm"):
            found[f"success_{kind}_{ice}"] = success(lake, policies, ice == "slippery")
    before = torch.zeros(1, *run.gradients.shape[1:], dtype=torch.float64)
    so_far = torch.cat([before, run.gradients.cumsum(0)])  # (K + 1, R, S)
    touched = run.gradients > TOUCHED * run.gradients.max(-1, keepdim=True).values
    found["cells_explored"] = torch.cat([before, touched.double().cummax(0).values]).sum(-1)
    own = visits(lake, task.start.matrix())
    share = so_far / so_far.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    found["own_ground"] = torch.minimum(share, own / own.sum(-1, keepdim=True)).sum(-1)
    return found


def summary(
    measured: Mapping[Method, Mapping[str, Tensor]], step: int = -1
) -> dict[str, dict[str, Estimate]]:
    """Method -> measure -> mean and interval over agents, after `step` steps (-1: after the last one)."""
    return {
        method: {name: estimate(values[step]) for name, values in found.items()}
        for method, found in measured.items()
    }


def in_order(errors: Mapping[Method, Tensor], ift: Method = "ift") -> Tensor:
    """Whether the order DPO < IFT < ORPO < SFT holds: bool in the shape of the tensors. `ift` is used as IFT."""
    ordered = [errors[ift if method == "ift" else method] for method in PAPER_ORDER]
    return torch.stack([low < high for low, high in pairwise(ordered)]).all(0)


def paired_differences(
    measured: Mapping[Method, Mapping[str, Tensor]], step: int = -1
) -> dict[str, Estimate]:
    """Differences of `mse_all`, agent by agent, between two methods; the key is "first-second"."""
    return {
        f"{first}-{second}": estimate((measured[first]["mse_all"] - measured[second]["mse_all"])[step])
        for first, second in PAIRS
    }

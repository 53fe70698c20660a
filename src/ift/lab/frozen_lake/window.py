"""Maps of where the paper's order holds and fails: sweeps of one setting, maps of two settings, and other worlds."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ift.lab.frozen_lake.measures import estimate, in_order, measure
from ift.lab.frozen_lake.methods import Method, Moves, Settings
from ift.lab.frozen_lake.policy import FIT_STEPS
from ift.lab.frozen_lake.training import (
    PAPER_ORDER,
    Start,
    Task,
    Tick,
    into_a_hole,
    make_tasks,
    own_roll_outs,
    train,
)  # fmt: skip
from ift.lab.frozen_lake.world import Lake, make_lake

IFT_DEFAULT: Method = "ift_scale"  # the variant that `ift train` uses
LONG = 100  # steps of the curves and maps
WINDOW_AGENTS = 20  # at most, where each world needs new agents
LAMBDAS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
GAMMAS = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0)
BETAS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.5, 1.0)
SKILLS = (0.2, 0.4, 0.6, 0.8, 0.9)
HABITS = (0.0, 0.25, 0.5, 0.75, 0.9)
VARIANTS: dict[str, dict[str, Any]] = {  # of IFT
    "as released": {},
    "scale detached": {"detach": "scale"},
    "weights detached": {"detach": "weights"},
    "cumsum": {"propagation": "cumsum"},
    "weights by position": {"propagation": "position"},
    "residual only": {"propagation": "none"},
    "propagation only": {"residual_lambda": 0.0},
    "sampled look-ahead": {"lookahead": "sample"},
    "expected look-ahead": {"lookahead": "expected"},
    "random look-ahead": {"lookahead": "random"},
}
OF_VARIANTS = ("own_ground", "success_sampled_slippery", "success_greedy_slippery")
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD, rate 0.05": {"learning_rate": 0.05},
    "SGD, rate 0.2": {"learning_rate": 0.2},
    "SGD, momentum 0.9, rate 0.01": {"optimizer": "momentum", "learning_rate": 0.01},
    "Adam, rate 0.001": {"optimizer": "adam", "learning_rate": 1e-3},
    "Adam, rate 0.003": {"optimizer": "adam", "learning_rate": 3e-3},
    "RMSprop, rate 0.001": {"optimizer": "rmsprop", "learning_rate": 1e-3},
}
RANDOM_MAPS = ((5, 0), (5, 1), (5, 2), (6, 0), (6, 1), (6, 2))  # (size, seed)


# One variation of the experiment: its `kind` and `name`, each method's error after the last step (`mse_all`), and the
# share of `agents` with the paper's order, with IFT as released (`order_share`) or detached (`order_share_scale`).
World = dict[str, Any]
# Share of `agents` with the paper's full order over two settings: `shares[row][column]`; names and values of both.
Map = dict[str, Any]


def errors(task: Task, method: Method, settings: Settings) -> Tensor:
    """Mean squared error to the optimum over all cells and actions after every step: (K + 1, R), in [0, 1]."""
    return (train(task, method, settings).policies - task.optimum).square().mean((-1, -2))


def sweeps(task: Task, settings: Settings, tick: Tick = int) -> dict[str, list[dict[str, Any]]]:
    """Vary one setting at a time, with the others as in `settings`.

    Returns:
        Name of the setting -> a list of {value, method -> mean and interval of its error}.
    """
    axes: dict[str, tuple[str, tuple[float, ...], tuple[Method, ...]]] = {
        "lambda": ("residual_lambda", LAMBDAS, ("ift", "ift_scale")),
        "gamma": ("gamma", GAMMAS, ("ift", "ift_scale")),
        "beta": ("beta", BETAS, ("dpo", "tdpo1", "tdpo2")),
        "orpo_beta": ("orpo_beta", BETAS, ("orpo",)),
    }
    found: dict[str, list[dict[str, Any]]] = {}
    for name, (field, values, methods) in axes.items():
        found[name] = []
        for value in values:
            changed = replace(settings, **{field: value})  # type: ignore[arg-type]
            of_methods = {method: estimate(errors(task, method, changed)[-1]) for method in methods}
            found[name].append({"value": value} | of_methods)
            tick()
    found["variant"] = []
    for name, fields in VARIANTS.items():
        measured = measure(task, train(task, "ift", replace(settings, **fields)))
        last = {one: estimate(measured[one][-1]) for one in ("mse_all", *OF_VARIANTS)}
        found["variant"].append({"value": name, "ift": last.pop("mse_all")} | last)
        tick()
    return found


def step_maps(task: Task, settings: Settings, tick: Tick = int) -> list[Map]:
    """Whether the order holds after each step, for every value of DPO's beta, ORPO's beta and lambda."""
    long = replace(settings, steps=LONG)
    usual = {method: errors(task, method, long) for method in PAPER_ORDER}
    maps = []
    axes: tuple[tuple[str, Method, str, tuple[float, ...]], ...] = (
        ("DPO beta", "dpo", "beta", BETAS),
        ("ORPO beta", "orpo", "orpo_beta", BETAS),
        ("lambda", "ift", "residual_lambda", LAMBDAS),
    )
    for name, method, field, values in axes:
        rows = []
        for value in values:
            curve = errors(task, method, replace(long, **{field: value}))  # type: ignore[arg-type]
            rows.append(in_order({**usual, method: curve})[1:])
            tick()
        held = torch.stack(rows).double().mean(-1)  # (values, steps)
        maps.append(_map((name, values), ("step", range(1, LONG + 1)), held, task))
    return maps


def start_map(lake: Lake, settings: Settings, agents: int, tick: Tick = int) -> Map:
    """Whether the order holds after the last step, for agents of every skill and every strength of habit."""
    starts = [Start(skill, habit) for skill in SKILLS for habit in HABITS]
    tasks = make_tasks(lake, starts, range(agents), tick)
    held = torch.stack([in_order(_last(task, settings)).double().mean() for task in tasks])
    shares = held.view(len(SKILLS), len(HABITS))
    return _map(("skill", SKILLS), ("habit", HABITS), shares, tasks[0])


def worlds(task: Task, settings: Settings, agents: int, tick: Tick = int) -> list[World]:
    """Train with other optimisers, other rejected trajectories, other starts, and on other lakes."""
    found = [_world("optimizer", name, task, replace(settings, **one)) for name, one in OPTIMIZERS.items()]
    hole, own = Moves.of(into_a_hole(task.lake)), own_roll_outs(task.lake, task.start)
    for name, rejected in (("falls into a hole", hole), ("the agent's own", own)):
        found.append(_world("rejected", name, replace(task, rejected=rejected), settings))
    (unfitted,) = make_tasks(task.lake, [Start(random=True)], range(agents), tick)
    found.append(_world("start", "not pre-trained", unfitted, settings))
    for name, other in other_lakes(task.lake).items():
        (elsewhere,) = make_tasks(other, [Start()], range(agents), tick)
        found.append(_world("lake", name, elsewhere, settings))
    return found


def other_lakes(lake: Lake) -> dict[str, Lake]:
    """Other lakes by name: this lake with the other kind of ice, gymnasium's 8x8 map, and random maps."""
    name = f"{lake.size}x{lake.size}, {'firm' if lake.slippery else 'slippery'}"
    found = {name: replace(lake, slippery=not lake.slippery)}
    found |= {f"8x8, {ice}": make_lake(8, ice == "slippery") for ice in ("slippery", "firm")}
    return found | {f"{size}x{size}, random {seed}": make_lake(size, seed=seed) for size, seed in RANDOM_MAPS}


def window_ticks(lake: Lake) -> int:
    """The total number of times that the functions above call their `tick`."""
    swept = len(LAMBDAS) + len(GAMMAS) + 2 * len(BETAS) + len(VARIANTS)
    mapped = 2 * len(BETAS) + len(LAMBDAS)
    return swept + mapped + FIT_STEPS * (2 + len(other_lakes(lake)))


def _last(task: Task, settings: Settings) -> dict[Method, Tensor]:
    return {method: errors(task, method, settings)[-1] for method in (*PAPER_ORDER, IFT_DEFAULT)}


def _world(kind: str, name: str, task: Task, settings: Settings) -> World:
    last = _last(task, settings)
    return {
        "kind": kind,
        "name": name,
        "mse_all": {method: estimate(values) for method, values in last.items()},
        "order_share": in_order(last).double().mean().item(),
        "order_share_scale": in_order(last, IFT_DEFAULT).double().mean().item(),
        "agents": len(task.start.into),
    }


def _map(
    rows: tuple[str, Sequence[float]], columns: tuple[str, Sequence[float]], shares: Tensor, task: Task
) -> Map:
    return {
        "rows": rows[0],
        "columns": columns[0],
        "row_values": list(rows[1]),
        "column_values": list(columns[1]),
        "shares": shares.tolist(),
        "agents": len(task.start.into),
    }

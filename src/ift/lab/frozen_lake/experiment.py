"""The whole experiment on one lake: trains, measures, varies settings, and writes the record and the pictures."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ift.files import write_atomically
from ift.lab.frozen_lake import charts, pictures, window
from ift.lab.frozen_lake.measures import estimate, in_order, measure, paired_differences, summary
from ift.lab.frozen_lake.methods import Method, Settings
from ift.lab.frozen_lake.policy import FIT_STEPS
from ift.lab.frozen_lake.training import METHODS, Run, Start, Task, Tick, make_tasks, train
from ift.lab.frozen_lake.trajectories import luckiest_optimal, shortest_detour
from ift.lab.frozen_lake.world import Lake, optimal_policy, success, visits

SHOWN: tuple[Method, ...] = ("sft", "ift", "ift_scale", "orpo", "dpo")  # in the pictures of the lake
WALK_SEED = 0  # of the episode in the animation; it was not selected
Curves = dict[Method, dict[str, dict[str, list[float]]]]


@dataclass(frozen=True)
class Outcome:
    """The runs of all methods on one lake, with their measures."""

    task: Task  # the lake and its agents
    settings: Settings  # of the trainings
    runs: Mapping[Method, Run]  # each method's policies, for `settings.steps` steps
    measured: Mapping[Method, Mapping[str, Tensor]]  # method -> measure -> (K + 1, R)
    curves: Curves  # method -> measure -> mean and interval after every step, `window.LONG` steps or more


def experiment_ticks(settings: Settings) -> int:
    """The number of times that `run_experiment` calls its `tick`."""
    return FIT_STEPS + len(METHODS) * max(settings.steps, window.LONG)


def run_experiment(lake: Lake, start: Start, settings: Settings, agents: int, tick: Tick = int) -> Outcome:
    """Train `agents` agents (seeds 0, 1, ...) with every method and measure them; `tick` is called after each step."""
    (task,) = make_tasks(lake, [start], range(agents), tick)
    runs: dict[Method, Run] = {}
    measured, curves = {}, {}
    for method in METHODS:
        long = train(task, method, replace(settings, steps=max(settings.steps, window.LONG)), tick)
        found = measure(task, long)
        runs[method] = Run(long.policies[: settings.steps + 1], long.gradients[: settings.steps])
        measured[method] = {name: values[: settings.steps + 1] for name, values in found.items()}
        curves[method] = {name: _curve(values) for name, values in found.items()}
    return Outcome(task, settings, runs, measured, curves)


def _curve(values: Tensor) -> dict[str, list[float]]:
    points = [estimate(row) for row in values]
    return {"mean": [point["mean"] for point in points], "ci95": [point["ci95"] for point in points]}


def outcome_record(outcome: Outcome, start: Start) -> dict[str, Any]:
    """The outcome as JSON values.

    `summary` is method -> measure -> {mean, ci95} after the last step; mean squared errors are not scaled.
    """
    lake, errors = outcome.task.lake, {method: found["mse_all"] for method, found in outcome.measured.items()}
    by_step = {ift: in_order(errors, ift).double().mean(-1).tolist() for ift in ("ift", "ift_scale")}
    best = optimal_policy(lake)
    arrives = {
        f"success_{ice}": success(lake, best, ice == "slippery").item() for ice in ("slippery", "firm")
    }
    return {
        "agents": len(outcome.task.start.into),
        "step": outcome.settings.steps,
        "lake": {"rows": lake.rows, "slippery": lake.slippery, "time_limit": lake.time_limit},
        "settings": asdict(outcome.settings),
        "start": asdict(start),
        "target": asdict(luckiest_optimal(lake)),
        "detour": asdict(shortest_detour(lake)),
        "optimum": arrives,
        "before": summary(outcome.measured, 0)["sft"],
        "summary": summary(outcome.measured),
        "order_share": by_step["ift"][-1],
        "order_shares": by_step,
        "paired_differences_mse_all": paired_differences(outcome.measured),
        "mse_by_cell": {method: _by_cell(outcome.task, run).tolist() for method, run in outcome.runs.items()},
        "curves": outcome.curves,
    }


def window_record(outcome: Outcome, tick: Tick = int) -> dict[str, Any]:
    """The sweeps, the maps and the other worlds as JSON values; `tick` is called `window.window_ticks` times."""
    task, settings = outcome.task, outcome.settings
    few = min(len(task.start.into), window.WINDOW_AGENTS)
    return {
        "sweeps": window.sweeps(task, settings, tick),
        "maps": [*window.step_maps(task, settings, tick), window.start_map(task.lake, settings, few, tick)],
        "worlds": window.worlds(task, settings, few, tick),
    }


def draw(outcome: Outcome, windowed: Mapping[str, Any] | None, folder: Path) -> list[str]:
    """Write the pictures into `folder`, and return their file names without extension."""
    task, runs = outcome.task, outcome.runs
    lake, best = task.lake, optimal_policy(task.lake)
    shown = {pictures.LABELS[method]: runs[method].policies[-1].mean(0) for method in SHOWN}
    named = {"optimum": best, "before": runs["sft"].policies[0].mean(0), **shown}
    ground = {pictures.LABELS[method]: pictures.gradient_share(runs[method].gradients) for method in SHOWN}
    own, ways = visits(lake, task.start.matrix()), (luckiest_optimal(lake), shortest_detour(lake))
    errors = {"before": _by_cell(task, runs["sft"], 0)}
    errors |= {pictures.LABELS[method]: _by_cell(task, runs[method]) for method in SHOWN}
    ground["where the agent goes"] = (own / own.sum(-1, keepdim=True)).mean(0)
    share, error = "Share of the gradient that falls on each cell.", "Error of each cell (x 1000)."
    figures = {
        "policies": pictures.policy_picture(lake, named, best),
        "ground": pictures.cells_picture(lake, ground, "{:.0%}".format, ways, share),
        "errors": pictures.cells_picture(lake, errors, lambda one: f"{1000 * one:.0f}", ways, error),
        "curves": charts.curves_chart(outcome.curves, outcome.settings.steps),
    }
    cells = pictures.walk(lake, runs["ift"].policies[-1][0], WALK_SEED)
    end = "arrives" if cells[-1] == lake.gift else "falls" if lake.terminal[cells[-1]] else "runs out of time"
    figures["walk"] = pictures.walk_strip(lake, cells, f"The first agent after IFT, likeliest actions: {end}")
    if windowed is not None:
        usual = {method: found["mse_all"][-1].mean().item() for method, found in outcome.measured.items()}
        figures["sweeps"] = charts.sweeps_chart(windowed["sweeps"], usual)
        figures["order"] = charts.order_chart(windowed["maps"])
        figures["worlds"] = charts.worlds_chart(windowed["worlds"])
    for name, figure in figures.items():
        pictures.save(figure, folder, name)
    pictures.save_walk(lake, cells, "IFT", folder / "walk.gif")
    return list(figures)


def _by_cell(task: Task, run: Run, step: int = -1) -> Tensor:
    """The squared error of each cell, averaged over its actions and over the agents: (S,) float64."""
    return (run.policies[step] - task.optimum).square().mean((0, -1))


def save_record(record: Mapping[str, Any], folder: Path) -> Path:
    """Write `record.json` atomically, with one line per key, and return its path."""
    file = folder / "record.json"
    lines = [f"{json.dumps(key)}: {json.dumps(_plain(one), allow_nan=False)}" for key, one in record.items()]
    write_atomically(file, "{\n" + ",\n".join(lines) + "\n}\n")
    return file


def _plain(value: Any) -> Any:
    """The value with tuples converted to lists and floats rounded to seven digits."""
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value

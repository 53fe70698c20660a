"""`ift frozen-lake`: which method comes nearest to the optimum of a small world in which it is known."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from ift.runs.argv import UsageError
from ift.runs.extras import needs_extra
from ift.text import counted

COLUMNS = {  # measure -> (heading, scale, digits, with its interval)
    "mse_all": ("error", 1000, 1, True),
    "mse_non_terminal": ("non-\nterminal", 1000, 1, True),
    "mse_off_trajectory": ("off the\ntarget", 1000, 1, True),
    "success_sampled_slippery": ("arrives,\nsampled", 1, 3, False),
    "success_greedy_slippery": ("arrives,\ngreedy", 1, 3, False),
    "cells_explored": ("cells", 1, 1, False),
    "own_ground": ("own\nground", 1, 2, False),
}


def main(
    output_dir: str, seeds: int, lake: dict[str, Any], start: dict[str, Any], settings: dict[str, Any], windowed: bool
) -> int:  # fmt: skip
    """Runs the experiment; returns the exit code. The record and the figures are written to `output_dir`."""
    needs_extra("frozen-lake", "gymnasium", "matplotlib")
    from ift.lab.frozen_lake.experiment import save_record
    from ift.lab.frozen_lake.methods import Settings
    from ift.lab.frozen_lake.training import Start
    from ift.lab.frozen_lake.trajectories import luckiest_optimal, shortest_detour
    from ift.lab.frozen_lake.world import make_lake

    console, started = Console(highlight=False), time.perf_counter()
    try:
        if seeds < 2:
            raise ValueError(f"--seeds is {seeds}: an interval needs at least 2")
        world, how, begin = make_lake(**lake), Settings(**settings), Start(**start)
        target, detour = luckiest_optimal(world), shortest_detour(world)
    except ValueError as error:
        raise UsageError(str(error)) from error
    ice = "slippery" if world.slippery else "firm"
    console.print(f"{world.size}x{world.size} lake, {ice} ice, {seeds} agents")
    console.print(f"  target  {target}  (the likeliest successful roll-out of the optimal policy)")
    console.print(f"  detour  {detour}  (rejected by the preference methods)")
    folder = Path(output_dir).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    record, names = _run(console, world, begin, how, seeds, windowed, folder)
    record["seconds"] = round(time.perf_counter() - started, 1)
    file = save_record(record, folder)
    _table(console, record)
    pictures = f"{', '.join(names)} (png, svg), walk.gif in {folder}"
    console.print(f"{record['seconds']:.0f} s. Record: {file}. Pictures: {pictures}.")
    console.print(
        "next: try another world, for instance ift frozen-lake --map_size 8 --output_dir lake-8x8",
        markup=False,
    )
    return 0


def _run(
    console: Console, world: Any, start: Any, settings: Any, seeds: int, windowed: bool, folder: Path
) -> tuple[dict[str, Any], list[str]]:
    """Trains, varies the settings and draws, with progress; returns the record and the names of the figures."""
    from ift.lab.frozen_lake import experiment
    from ift.lab.frozen_lake.window import window_ticks
    from ift.lab.progress import WorkProgress
    from ift.lab.report.provenance import provenance

    total = experiment.experiment_ticks(settings) + (window_ticks(world) if windowed else 0)
    with WorkProgress(console, total) as progress:
        progress.describe("training the agents")
        outcome = experiment.run_experiment(
            world, start, settings, seeds, lambda: progress.advance("training the agents")
        )
        record = asdict(provenance()) | experiment.outcome_record(outcome, start)
        if windowed:
            progress.describe("varying settings and worlds")
            record["window"] = experiment.window_record(
                outcome, lambda: progress.advance("varying settings and worlds")
            )
        progress.describe("drawing")
        return record, experiment.draw(outcome, record.get("window"), folder)


def _table(console: Console, record: dict[str, Any]) -> None:
    rows = {"before": record["before"]} | dict(
        sorted(record["summary"].items(), key=lambda one: one[1]["mse_all"]["mean"])
    )
    title = f"after {counted(record['step'], 'step')} (errors x 1000 ± 95 % interval)"
    table = Table(
        "", *(heading for heading, *_ in COLUMNS.values()), title=title, box=SIMPLE, padding=(0, 1, 0, 0)
    )
    for name, found in rows.items():
        cells = []
        for measure, (_, scale, digits, interval) in COLUMNS.items():
            half = f"±{scale * found[measure]['ci95']:.{digits}f}" if interval else ""
            cells.append(f"{scale * found[measure]['mean']:.{digits}f}{half}")
        table.add_row(name, *cells)
    console.print(table)
    best = record["optimum"]
    console.print(
        f"the optimum arrives with probability {best['success_slippery']:.3f} on slippery ice, "
        f"{best['success_firm']:.3f} on firm ice"
    )
    console.print(
        f"agents with the paper's order DPO < IFT < ORPO < SFT: {record['order_share']:.1%} with IFT as released, "
        f"{record['order_shares']['ift_scale'][-1]:.1%} with the scale of its weights detached, the default of ift "
        "train; differences of error x 1000:"
    )
    for pair, found in record["paired_differences_mse_all"].items():
        console.print(f"  {pair:<14} {1000 * found['mean']:+.2f} ± {1000 * found['ci95']:.2f}")


def command(
    output_dir: str = typer.Option("frozen-lake", "--output_dir", help="Folder for record and figures."),
    seeds: int = typer.Option(200, help="Number of agents, with seeds 0 to N - 1, trained together."),
    map_size: int = typer.Option(4, "--map_size", help="Cells per side of the map."),
    seed: int = typer.Option(None, help="Seed of a random map (default: gymnasium's map of size 4 or 8)."),
    hole_density: float = typer.Option(0.2, "--hole_density", help="Share of holes in a random map."),
    firm: bool = typer.Option(False, "--firm", help="Use ice that is not slippery."),
    skill: float = typer.Option(0.6, help="Share of the optimal policy in the agents before training."),
    habit: float = typer.Option(0.5, help="Share of the detour in the agents, on its cells."),
    residual_lambda: float = typer.Option(0.2, "--residual_lambda", help="lambda of IFT."),
    propagation_gamma: float = typer.Option(0.95, "--propagation_gamma", help="gamma of IFT."),
    propagation: str = typer.Option("bellman", help="Propagation of IFT: bellman, cumsum, none or position."),
    lookahead: str = typer.Option("greedy", help="Look-ahead of IFT: greedy, sample, expected or random."),
    beta: float = typer.Option(0.1, help="beta of DPO and TDPO."),
    orpo_beta: float = typer.Option(0.1, "--orpo_beta", help="beta of ORPO."),
    optimizer: str = typer.Option("sgd", help="Optimizer: sgd, momentum, adam or rmsprop."),
    learning_rate: float = typer.Option(0.1, "--learning_rate", help="Constant learning rate."),
    steps: int = typer.Option(20, help="Number of training steps."),
    window: bool = typer.Option(True, help="Also map for which settings the order of the methods holds."),
) -> int:
    """Measure which method comes nearest to a known optimum (paper, section 5.3; a minute, no download)."""
    lake = {"size": map_size, "seed": seed, "hole_density": hole_density, "slippery": not firm}
    settings = {
        "residual_lambda": residual_lambda, "gamma": propagation_gamma, "propagation": propagation,
        "lookahead": lookahead, "beta": beta, "orpo_beta": orpo_beta, "optimizer": optimizer,
        "learning_rate": learning_rate, "steps": steps,
    }  # fmt: skip
    return main(output_dir, seeds, lake, {"skill": skill, "habit": habit}, settings, window)

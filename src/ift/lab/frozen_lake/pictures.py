"""Pictures of the lake: policies as arrows and shades, the gradient on each cell, and the walk of one agent."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import torch
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Polygon, Rectangle
from torch import Tensor

from ift.lab.frozen_lake.methods import Method
from ift.lab.frozen_lake.trajectories import Trajectory
from ift.lab.frozen_lake.world import ACTIONS, Lake

ICE, WATER, LINE = "#f4f8fb", "#26445e", "#b8c7d3"
GOOD, BAD, TARGET, DETOUR = "#0b6e4f", "#c0392b", "#0b6e4f", "#b9770e"
COLORS: dict[Method, str] = {
    "sft": "#7f7f7f", "ift": "#d55e00", "ift_scale": "#e69f00", "orpo": "#009e73",
    "dpo": "#0072b2", "simpo": "#cc79a7", "tdpo1": "#56b4e9", "tdpo2": "#332288",
}  # fmt: skip
LABELS: dict[Method, str] = {method: method.upper() for method in COLORS} | {
    "ift": "IFT, as released",
    "ift_scale": "IFT, scale detached",
}
STEPS = ((-1, 0), (0, 1), (1, 0), (0, -1))  # of the actions, in columns and rows; rows grow downwards
CORNERS = ((-0.5, -0.5), (-0.5, 0.5), (0.5, 0.5), (0.5, -0.5), (-0.5, -0.5))  # wedge a is between a and a + 1


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write NAME.png and NAME.svg; equal figures give equal SVG files."""
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": "ift"}):
        figure.savefig(folder / f"{name}.png", dpi=120)
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


def policy_picture(lake: Lake, policies: dict[str, Tensor], optimum: Tensor) -> Figure:
    """One lake per named policy (S, A).

    The shade of a wedge is the probability of its action. An arrow shows the likeliest action, in red if it is not
    optimal.
    """
    figure, panels = _panels(len(policies))
    for axes, (name, policy) in zip(panels, policies.items(), strict=True):
        _draw_lake(axes, lake, name)
        for cell in (~lake.terminal).nonzero().flatten().tolist():
            _draw_policy(axes, cell % lake.size, cell // lake.size, policy[cell], int(optimum[cell].argmax()))
    figure.suptitle(
        "Each wedge: how likely the action is. Arrow: the likeliest one, red where it is not optimal."
    )
    return figure


def cells_picture(
    lake: Lake,
    values: dict[str, Tensor],
    shown: Callable[[float], str],
    ways: Sequence[Trajectory],
    title: str,
) -> Figure:
    """One lake per named tensor of values (S,), 0 or more.

    Each cell has a shade and the text that `shown` makes of its value; the target and the detour are drawn over the
    cells.
    """
    strongest = max(float(one.max()) for one in values.values())
    figure, panels = _panels(len(values))
    for axes, (name, value) in zip(panels, values.items(), strict=True):
        _draw_lake(axes, lake, name)
        for cell in (~lake.terminal).nonzero().flatten().tolist():
            column, row = cell % lake.size, cell // lake.size
            share = float(value[cell]) / strongest
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, color="#d55e00", alpha=share, lw=0))
            axes.text(column, row + 0.36, shown(float(value[cell])), ha="center", va="center", fontsize=9)
        for way, color, shift in zip(ways, (TARGET, DETOUR), (0.05, -0.05), strict=True):
            cells = [*way.cells, lake.gift]
            columns = [cell % lake.size + shift for cell in cells]
            axes.plot(columns, [cell // lake.size + shift for cell in cells], color=color, lw=2)
    figure.suptitle(f"{title} Green: the target. Brown: the detour.")
    return figure


def walk(lake: Lake, policy: Tensor, seed: int) -> list[int]:
    """The cells of one episode in gymnasium's environment with the greedy actions of a policy (S, A)."""
    options: dict[str, Any] = {"desc": list(lake.rows), "is_slippery": lake.slippery}
    with gymnasium.make("FrozenLake-v1", max_episode_steps=lake.time_limit, **options) as environment:
        cell, _ = environment.reset(seed=seed)
        cells, over = [int(cell)], False
        while not over:
            cell, _, ended, cut, _ = environment.step(int(policy[int(cell)].argmax()))
            cells.append(int(cell))
            over = ended or cut
    return cells


def walk_strip(lake: Lake, cells: Sequence[int], title: str) -> Figure:
    """At most ten moments of a walk side by side, including the last one."""
    moments = sorted({round(part * (len(cells) - 1) / 9) for part in range(10)})
    figure, panels = _panels(len(moments), width=1.7)
    for axes, moment in zip(panels, moments, strict=True):
        _draw_lake(axes, lake, f"move {moment}", fontsize=9)
        _draw_agent(axes, lake, cells[: moment + 1])
    figure.suptitle(title)
    return figure


def save_walk(lake: Lake, cells: Sequence[int], title: str, file: Path) -> None:
    """Write a walk as an animated GIF with three moves per second."""
    figure = Figure(figsize=(3.2, 3.5), layout="constrained")
    axes = figure.subplots()

    def draw(moment: int) -> list[Any]:
        axes.clear()
        _draw_lake(axes, lake, f"{title}, move {moment}", fontsize=10)
        _draw_agent(axes, lake, cells[: moment + 1])
        return []

    frames: Iterator[int] = iter([*range(len(cells)), *[len(cells) - 1] * 4])
    animation = FuncAnimation(figure, draw, frames=frames, save_count=len(cells) + 4, cache_frame_data=False)
    animation.save(file, writer=PillowWriter(fps=3))


def _panels(count: int, width: float = 2.9) -> tuple[Figure, list[Axes]]:
    columns = count if count <= 4 else (count + 1) // 2
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, width * rows + 0.7), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flatten())
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels[:count]


def _draw_lake(axes: Axes, lake: Lake, title: str, fontsize: int = 11) -> None:
    for cell, letter in enumerate("".join(lake.rows)):
        column, row = cell % lake.size, cell // lake.size
        color = WATER if letter == "H" else ICE
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=color, edgecolor=LINE))
        if letter == "G":
            axes.text(column, row, "★", ha="center", va="center", fontsize=16, color="#d4a017")
    axes.set(xlim=(-0.52, lake.size - 0.48), ylim=(lake.size - 0.48, -0.52), aspect="equal")
    axes.set_title(title, fontsize=fontsize)
    axes.set_axis_off()


def _draw_policy(axes: Axes, column: int, row: int, odds: Tensor, best: int) -> None:
    for action in range(ACTIONS):
        corners = [(column, row)] + [(column + x, row + y) for x, y in (CORNERS[action], CORNERS[action + 1])]
        axes.add_patch(Polygon(corners, color="#3b7dd8", alpha=float(odds[action]) ** 0.8 * 0.85, lw=0))
    likeliest = int(odds.argmax())
    x, y = STEPS[likeliest]
    tip, tail = (column + 0.34 * x, row + 0.34 * y), (column - 0.22 * x, row - 0.22 * y)
    color = GOOD if likeliest == best else BAD
    axes.annotate("", tip, tail, arrowprops={"arrowstyle": "-|>", "lw": 2.2, "color": color})


def _draw_agent(axes: Axes, lake: Lake, cells: Sequence[int]) -> None:
    columns, rows = [cell % lake.size for cell in cells], [cell // lake.size for cell in cells]
    axes.plot(columns, rows, color="#d55e00", lw=1.5, alpha=0.4)
    axes.add_patch(Circle((columns[-1], rows[-1]), 0.27, color="#d55e00", zorder=3))


def gradient_share(gradients: Tensor) -> Tensor:
    """The share of each cell in the gradient norms (K, R, S), over all steps, averaged over agents: (S,), in [0, 1]."""
    summed = gradients.sum(0)
    return (summed / summed.sum(-1, keepdim=True).clamp(min=torch.finfo(summed.dtype).tiny)).mean(0)

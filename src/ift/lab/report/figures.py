"""Figures of comparisons: score by method, by compute, by lambda and gamma; learning curves; positions of errors."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from ift.lab.report.comparisons import Comparison, Variant, sweep
from ift.lab.report.wording import CURVES, SHARES, label
from ift.text import visible

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f")
_MARKERS = "osD^vPX*"
_INK = {"light": ("#1b1f24", "#ffffff", "#d7dbe0"), "dark": ("#e3e6ea", "#16191d", "#3a4048")}


@dataclass(frozen=True)
class Picture:
    """A figure: its file name without extension, its title, its size in inches, and the function that draws it."""

    name: str
    title: str
    size: tuple[float, float]
    draw: Callable[[Figure], None]


def pictures(comparison: Comparison, metric: str = "exact_match") -> list[Picture]:
    """The figures for which a comparison has the data."""
    variants, splits = comparison.variants, comparison.splits
    keyed = max(3.4, 0.26 * len(variants) + 0.5)  # height with a legend
    score = label(metric)
    score = score[:1].upper() + score[1:] if score != metric else score  # a name is written as it is logged
    size = (2.2 + 3.2 * len(splits), 1.3 + 0.38 * len(variants))
    found = [Picture("score", f"{score} by method", size, partial(_scores, comparison, metric))]
    if measured := [name for name in ("flops", "seconds") if any(v.costs(name) for v in variants)]:
        draw = partial(_compute, comparison, metric, measured)
        found.append(Picture("compute", f"{score} against compute", (2.4 + 3.6 * len(measured), keyed), draw))
    for key in ("residual_lambda", "propagation_gamma"):
        if sweep(comparison, key):
            draw = partial(_sweep, comparison, metric, key)
            title = f"{score} against {label(key)}"
            found.append(Picture(label(key), title, (1 + 3.6 * len(splits), 3.4), draw))
    if logged := [name for name in CURVES if any(_curve(v, name)[0] for v in variants)]:
        draw = partial(_curves, comparison, logged)
        found.append(Picture("curves", "Learning curves", (2.4 + 3.2 * len(logged), keyed), draw))
    split = next((one for one in splits if any(error_shares(v, one)[0] for v in variants)), None)
    if split is not None:
        draw = partial(_errors, comparison, split)
        found.append(Picture("errors", f"First wrong step of the answers ({split})", (6.4, keyed), draw))
    return found


def image(picture: Picture, kind: str, theme: str = "light") -> bytes:
    """Draw a figure as `png` or `svg`, in the theme `light` or `dark`; equal records give equal bytes."""
    ink, paper, line = _INK[theme]
    style: dict[Any, Any] = {
        "text.color": ink, "axes.labelcolor": ink, "xtick.color": ink, "ytick.color": ink, "axes.edgecolor": line,
        "grid.color": line, "figure.facecolor": paper, "axes.facecolor": paper, "savefig.facecolor": paper,
        "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
        "axes.axisbelow": True, "font.family": "DejaVu Sans", "font.size": 9, "grid.linewidth": 0.6,
        "axes.titlesize": 10, "text.parse_math": False, "svg.hashsalt": "ift", "svg.fonttype": "path",
        "axes.prop_cycle": cycler(color=_COLOURS),
    }  # fmt: skip
    with mpl.rc_context(style):
        figure = Figure(figsize=picture.size, layout="constrained")
        FigureCanvasAgg(figure)
        picture.draw(figure)
        out = io.BytesIO()
        metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        figure.savefig(out, format=kind, dpi=140, metadata=metadata)
    return out.getvalue()


def error_shares(variant: Variant, split: str) -> tuple[list[float], bool]:
    """The shares of answers whose first wrong step is 1, 2, ..., in 0..1.

    The second value is whether all answers were counted, and not only the samples.
    """
    counts: list[int] = []
    total, everything = 0, True
    for run in variant.runs.values():
        found = run.error_steps.get(split)
        if found is None:
            everything = False
            samples = [sample for sample in run.samples if sample.split == split]
            steps = [sample.first_wrong_step for sample in samples if sample.first_wrong_step]
            found, answers = [steps.count(step) for step in range(1, max(steps, default=0) + 1)], len(samples)
        else:
            answers = int(run.scores[split]["n"] or 0) if split in run.scores else sum(found)
        total += answers
        counts = [a + b for a, b in zip_longest(counts, found, fillvalue=0)]
    return ([count / total for count in counts] if total else []), everything


def _style(index: int) -> dict[str, Any]:
    shift = index // len(_COLOURS)
    marker, line = _MARKERS[(index + shift) % 8], ("-", "--", ":", "-.")[shift % 4]
    return {"color": _COLOURS[index % len(_COLOURS)], "marker": marker, "linestyle": line}


def _scaled(metric: str) -> tuple[float, str]:
    return (100, f"{label(metric)} (%)") if metric in SHARES else (1, label(metric))


def _panels(figure: Figure, columns: int, **options: Any) -> list[Any]:
    return list(figure.subplots(1, columns, squeeze=False, **options)[0])


def _legend(figure: Figure, axes: Any) -> None:
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    figure.legend(found.values(), found.keys(), loc="outside right upper")


def _scores(comparison: Comparison, metric: str, figure: Figure) -> None:
    scale, words = _scaled(metric)
    axes = _panels(figure, len(comparison.splits), sharey=True)
    for axis, split in zip(axes, comparison.splits, strict=True):
        for row, variant in enumerate(comparison.variants):
            style = _style(row)
            values = [scale * value for value in variant.scores(split, metric).values()]
            axis.plot(values, [row + 0.25] * len(values), ".", color=style["color"], alpha=0.6, markersize=5)
            found = variant.estimate(split, metric)
            if found is not None:
                half = scale * found.half if found.half is not None else None
                axis.errorbar(
                    scale * found.mean, row, xerr=half, fmt=style["marker"], color=style["color"], capsize=3
                )
        axis.set(title=visible(split), xlabel=words)
        axis.grid(False, axis="y")
    axes[0].set_yticks(range(len(comparison.variants)), [visible(v.label) for v in comparison.variants])
    axes[0].set_ylim(len(comparison.variants) - 0.4, -0.6)


def _compute(comparison: Comparison, metric: str, measured: list[str], figure: Figure) -> None:
    scale, words = _scaled(metric)
    split = comparison.splits[0]
    axes = _panels(figure, len(measured), sharey=True)
    for axis, name in zip(axes, measured, strict=True):
        for index, variant in enumerate(comparison.variants):
            style, costs = _style(index), variant.costs(name)
            scores = variant.scores(split, metric)
            pairs = [(costs[s], scale * scores[s]) for s in variant.runs if costs.get(s) and s in scores]
            mean, cost = variant.estimate(split, metric), variant.mean_cost(name)
            if pairs:
                axis.plot(*zip(*pairs, strict=True), ".", color=style["color"], alpha=0.45)
            if mean is not None and cost:
                half = scale * mean.half if mean.half is not None else None
                form = {"fmt": style["marker"], "color": style["color"], "capsize": 3}
                axis.errorbar(cost, scale * mean.mean, yerr=half, label=visible(variant.label), **form)
        axis.set_xlabel(f"{label(name)} of training")
        _compute_scale(axis, [cost for v in comparison.variants for cost in v.costs(name).values() if cost])
    axes[0].set_ylabel(f"{words}, {visible(split)}")
    _legend(figure, axes)


def _compute_scale(axis: Any, costs: list[float]) -> None:
    """Use a linear axis from 0, or a logarithmic one if costs differ by more than a factor of twenty."""
    if costs and max(costs) > 20 * min(costs):
        axis.set_xscale("log")
        axis.xaxis.set_minor_formatter(NullFormatter())
    else:
        axis.set_xlim(left=0)
        axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))


def _sweep(comparison: Comparison, metric: str, key: str, figure: Figure) -> None:
    scale, words = _scaled(metric)
    axes = _panels(figure, len(comparison.splits))
    for axis, split in zip(axes, comparison.splits, strict=True):
        for index, (method, points) in enumerate(sweep(comparison, key).items()):
            found = [(value, variant.estimate(split, metric)) for value, variant in points]
            drawn = [
                (value, scale * one.mean, scale * (one.half or 0)) for value, one in found if one is not None
            ]
            if drawn:
                x, y, half = zip(*drawn, strict=True)
                axis.errorbar(x, y, yerr=half, capsize=3, label=visible(method), **_style(index))
        axis.set(title=visible(split), xlabel=label(key))
        axis.legend()
    axes[0].set_ylabel(words)


def _curve(variant: Variant, name: str) -> tuple[list[int], list[float]]:
    """The mean over seeds at the steps that all seeds have logged."""
    by_seed = []
    for run in variant.runs.values():
        found: dict[int, float] = {}
        for entry in run.curves:
            step, value = entry["step"], entry.get(name)
            if isinstance(step, int) and isinstance(value, int | float):
                found[step] = value
        by_seed.append(found)
    steps = sorted(set(by_seed[0]).intersection(*by_seed[1:]))
    return steps, [sum(found[step] for found in by_seed) / len(by_seed) for step in steps]


def _curves(comparison: Comparison, logged: list[str], figure: Figure) -> None:
    axes = _panels(figure, len(logged))
    for axis, name in zip(axes, logged, strict=True):
        for index, variant in enumerate(comparison.variants):
            steps, values = _curve(variant, name)
            style = {**_style(index), "marker": None}
            if steps:
                axis.plot(steps, values, label=visible(variant.label), **style)
        axis.set(title=label(name), xlabel="step")
    _legend(figure, axes)


def _errors(comparison: Comparison, split: str, figure: Figure) -> None:
    (axis,) = _panels(figure, 1)
    longest, complete = 1, True
    for index, variant in enumerate(comparison.variants):
        shares, everything = error_shares(variant, split)
        if shares:
            longest, complete = max(longest, len(shares)), complete and everything
            steps = range(1, len(shares) + 1)
            axis.plot(steps, [100 * share for share in shares], label=visible(variant.label), **_style(index))
    name = "answers (%)" if complete else "sampled answers (%)"
    axis.set(xlabel="first wrong step", ylabel=name, ylim=(0, None))
    axis.set_xticks(range(1, longest + 1, 1 + longest // 12))
    _legend(figure, [axis])

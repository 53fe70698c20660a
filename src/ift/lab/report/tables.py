"""Comparisons as Markdown."""

from collections.abc import Sequence

from ift.lab.report.chosen import chosen_lines
from ift.lab.report.comparisons import Comparison, Variant
from ift.lab.report.verdict import verdict
from ift.lab.report.wording import NONE, estimate, label, markdown, number

COSTS = ("seconds", "flops", "peak_memory_bytes", "models_held", "answers_seen", "labels")


Cells = tuple[list[str], list[list[str]]]  # column heads, and the lines below them


def score_cells(comparison: Comparison, split: str, metric: str = "exact_match") -> Cells:
    """One row per method: the metric with its interval, the difference to the baseline, all seeds, other metrics."""
    others = [
        name
        for name in comparison.metrics()
        if name != metric and any(variant.scores(split, name) for variant in comparison.variants)
    ]
    base = comparison.baseline
    differ = any(comparison.differing(one, split, metric) is not None for one in comparison.variants)
    apart = [f"minus {base}, paired", *(["rows that differ"] if differ else [])]
    heads = ["method", label(metric), *(apart if base else []), "by seed", "n"]
    lines = []
    for variant in comparison.variants:
        cells = [variant.label, estimate(variant.estimate(split, metric), metric)]
        if base:
            cells.append(estimate(comparison.difference(variant, split, metric), metric, signed=True))
            cells += [share(comparison.differing(variant, split, metric))] if differ else []
        cells += [by_seed(variant, split, metric), answers(variant, split)]
        lines.append([*cells, *(estimate(variant.estimate(split, name), name) for name in others)])
    return [*heads, *map(label, others)], lines


def cost_cells(comparison: Comparison) -> Cells:
    """One row per method with its mean costs over seeds; costs that were not measured are left out."""
    measured = [name for name in COSTS if any(variant.costs(name) for variant in comparison.variants)]
    lines = [
        [variant.label, *(number(variant.mean_cost(name), name) for name in measured)]
        for variant in comparison.variants
    ]
    return ["method", *map(label, measured)], lines


def score_table(comparison: Comparison, split: str, metric: str = "exact_match") -> str:
    """`score_cells` as a Markdown table, without a line feed at its end."""
    return _table(*score_cells(comparison, split, metric))


def cost_table(comparison: Comparison) -> str:
    """`cost_cells` as a Markdown table; "" if no cost was measured."""
    heads, lines = cost_cells(comparison)
    return _table(heads, lines) if len(heads) > 1 else ""


def share(value: float | None) -> str:
    """Format a share in 0..1 in percent."""
    return NONE if value is None else f"{100 * value:.1f} %"


def by_seed(variant: Variant, split: str, metric: str) -> str:
    """The value of every seed, in the order of the seeds."""
    values = variant.scores(split, metric)
    shown = [f"{seed}: {number(values.get(seed), metric)}" for seed in variant.runs]
    return ", ".join(shown)


def answers(variant: Variant, split: str) -> str:
    """The number of answers scored per seed."""
    counts = {int(n) for n in variant.scores(split, "n").values()}
    return ", ".join(f"{n:,}" for n in sorted(counts)) or NONE


def report_markdown(
    comparisons: Sequence[Comparison], metric: str, figures: dict[str, list[tuple[str, str]]]
) -> str:
    """The whole report as one Markdown page; figures are (title, path relative to the page), by title of comparison."""
    parts = ["# Report", HOW_TO_READ]
    for comparison in comparisons:
        parts.append(f"## {markdown(comparison.title)}")
        parts += _listed([*verdict(comparison, metric), *chosen_lines(comparison)])
        for split in comparison.splits:
            parts += [f"### {markdown(split)}", score_table(comparison, split, metric)]
        costs = cost_table(comparison)
        parts += ["### Cost", costs] if costs else []
        parts += ["### Notes", *_listed(comparison.notes)] if comparison.notes else []
        parts += [f"![{markdown(title)}]({path})" for title, path in figures.get(comparison.title, [])]
    return "\n\n".join(parts) + "\n"


HOW_TO_READ = (
    "A score is the mean over seeds ± half of its 95 % interval, which is for other seeds and other test rows. If an "
    "interval reaches beyond 0 or 100 %, only the part within counts. If a note says that the values of rows are not "
    "stored, the interval is for other seeds only (Student's t). Differences are computed between runs of the same "
    "seed, row by row. One seed has no interval. If every row of every seed has the same value, ± of a right-or-wrong "
    "score is 3 divided by the number of rows, because a difference on fewer rows may have been missed; other scores "
    "then have no interval. The base is the model before training. "
    "Costs are means over seeds; seconds depend on other work of the machine, operations do not."
)


def _listed(lines: Sequence[str]) -> list[str]:
    """One Markdown list; an empty list without lines."""
    return ["\n".join(f"* {markdown(line)}" for line in lines)] if lines else []


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(heads)
    escaped = [[markdown(cell) for cell in line] for line in (heads, *lines)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (escaped[0], rule, *escaped[1:]))

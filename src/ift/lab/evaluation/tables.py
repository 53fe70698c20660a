"""The tables that `ift evaluate` prints."""

from collections.abc import Sequence

from rich.table import Table

from ift.lab.evaluation.paper import AVERAGES, BENCHMARKS, COLUMNS
from ift.lab.evaluation.run import Evaluated
from ift.lab.evaluation.summary import paper_average
from ift.lab.report.intervals import Interval


def scores_table(found: Sequence[Evaluated]) -> Table:
    """A row per benchmark, a column per model: per cent and standard error."""
    table = Table("benchmark", "shots", "n", title="Scores, % ± standard error")
    for model in found:
        table.add_column(model.name, justify="right")
    for number, one in enumerate(found[0].scores):
        cells = [model.scores[number] for model in found]
        table.add_row(
            one.label, str(found[0].results[one.label][0].shots), str(len(one.items)),
            *(f"{cell.value:.2%}" + ("" if cell.stderr is None else f" ± {cell.stderr:.2%}") for cell in cells),
        )  # fmt: skip
    if (averages := [paper_average(model.scores) for model in found])[0]:
        table.add_section()
        means = [sum(one.value for one in five or []) / 5 for five in averages]
        table.add_row("average, as in the paper", "", "", *(f"{mean:.2%}" for mean in means))
    return table


def differences_table(gaps: dict[str, dict[str, Interval]], first: str) -> Table:
    """The differences in points, with their intervals."""
    table = Table("benchmark", title=f"Points ahead of {first} [95 % interval, questions paired]")
    for name in gaps:
        table.add_column(name, justify="right")
    for label in next(iter(gaps.values())):
        row = [gaps[name][label] for name in gaps]
        table.add_row(
            label, *(f"{100 * gap.value:+.2f} [{100 * gap.low:+.2f}, {100 * gap.high:+.2f}]" for gap in row)
        )
    return table


def paper_table(found: Sequence[Evaluated]) -> Table | None:
    """The paper's numbers on the same benchmarks; None without a common benchmark."""
    labels = {one.label for one in found[0].scores}
    shown = [number for number, label in enumerate(COLUMNS) if label in labels]
    if not shown:
        return None
    table = Table(title="The paper's, %: Mistral-7B-v0.1 (arXiv:2405.11870v3)")
    table.add_column("method", no_wrap=True)
    for number in shown:
        table.add_column(COLUMNS[number], justify="right")
    table.add_column("average", justify="right")
    for method, values in BENCHMARKS.items():
        table.add_row(method, *(f"{values[number]:.2f}" for number in shown), f"{AVERAGES[method]:.2f}")
    return table

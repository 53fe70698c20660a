"""Writes a report: Markdown, pictures and the HTML page of the records in a folder."""

from pathlib import Path

from ift.lab.report.chosen import chosen_lines
from ift.lab.report.comparisons import Comparison
from ift.lab.report.verdict import verdict
from ift.runs.argv import named
from ift.text import counted, visible


def write(
    runs: list[str], out: Path, baseline: str | None, methods: str | None, metric: str | None
) -> list[str]:
    """Write the report; returns the lines of the verdict and of the chosen settings, and lines that name the files.

    `baseline`, `methods` and `metric` are those of `ift report`; None: the default.
    """
    from ift.lab.report import ReportError, find
    from ift.lab.report.answers import with_answers
    from ift.lab.report.comparisons import compare
    from ift.lab.report.figures import image, pictures
    from ift.lab.report.page import html_page
    from ift.lab.report.studies import default_metric, tell_apart
    from ift.lab.report.tables import report_markdown
    from ift.lab.report.wording import label

    apart = tell_apart(with_answers(find(runs)))
    records = apart.records
    known_names = {name for record in records.values() for name in (record.method, record.label)}
    names = named(methods or "", known_names)
    comparisons = compare(records, apart.baseline(baseline), names)
    known = [*dict.fromkeys(name for comparison in comparisons for name in comparison.metrics())]
    lines = apart.lines
    if metric is None:
        metric = default_metric(records, known)
        if metric != "exact_match":
            others = ", ".join(name for name in known if name != metric)
            lines.append(f"compared by {label(metric)} ({metric}); --metric gives another: {others}")
    if metric not in known:
        raise ReportError(
            f"--metric: found {metric!r}, which no record has; known: {', '.join(sorted(known))}"
        )
    folder = out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    figures: dict[str, list[tuple[str, str]]] = {}
    for number, comparison in enumerate(comparisons, start=1):
        for picture in pictures(comparison, metric):
            name = f"{number}-{picture.name}"
            for kind in ("png", "svg"):
                (folder / f"{name}.{kind}").write_bytes(image(picture, kind))
            figures.setdefault(comparison.title, []).append((picture.title, f"figures/{name}.png"))
    (out / "report.md").write_text(
        report_markdown(comparisons, metric, figures), encoding="utf-8", errors="replace"
    )
    (out / "report.html").write_text(html_page(comparisons, metric), encoding="utf-8", errors="replace")
    notes = [visible(f"note: {one.title}: {note}") for one in comparisons for note in one.notes]
    drawn = sum(map(len, figures.values()))
    return [
        *map(visible, lines),
        *notes,
        *map(visible, _verdicts(comparisons, metric, runs)),
        f"{counted(len(records), 'run')}, {counted(len(comparisons), 'comparison')}",
        f"page      {out / 'report.html'}",
        f"tables    {out / 'report.md'}",
        f"figures   {folder} ({drawn}, as PNG and SVG)",
    ]


def _verdicts(comparisons: list[Comparison], metric: str, runs: list[str]) -> list[str]:
    """The verdict and the chosen settings of each comparison, with its title in front if there are several."""
    return [
        f"{one.title}: {line}" if len(comparisons) > 1 else line
        for one in comparisons
        for line in [*verdict(one, metric, runs), *chosen_lines(one)]
    ]

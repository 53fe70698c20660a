"""Curves of finished or running training runs from their metrics.jsonl: Markdown, a figure and one page."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ift.files import numbered_lines
from ift.lab.report.decode import ReportError
from ift.lab.report.figures import Picture, image
from ift.text import visible

METRICS, RUN, STATE = "metrics.jsonl", "run.json", "trainer_state.json"
PANELS = {  # metric -> title; those that no run has are left out
    "loss": "loss that is trained",
    "nll": "loss of the targets' tokens (nats)",
    "eval_nll": "the same on evaluation rows",
    "end_nll": "loss of the end of an answer",
    "eval_exact_match": "exact match on evaluation rows",
    "lookahead_accuracy": "look-ahead right (share)",
    "propagation_negative_share": "tokens pushed up (share)",
    "grad_norm": "norm of the gradient",
    "learning_rate": "learning rate",
}
_STYLE = (
    ":root{color-scheme:light dark}body{margin:0 auto;max-width:80rem;padding:1rem;font:1rem/1.5 system-ui,sans-serif;"
    "overflow-wrap:anywhere}img{max-width:100%;height:auto}.wide{overflow-x:auto}table{border-collapse:collapse;"
    "font-size:.875rem}th,td{padding:.375rem .75rem;text-align:left;border-top:1px solid;white-space:nowrap}"
)


@dataclass(frozen=True)
class TrainingRun:
    """A training run, finished or not.

    Attributes:
        label: The name of its folder, with the parent folder if two runs share a name.
        finished: Whether the run is finished; None if it is not a run of `ift train`, which alone says so.
        saved: The step whose weights are saved and its score, if `load_best_model_at_end` has chosen it; else "".
        curves: Steps and values in order, by metric. If a step was logged twice, the later value counts.
    """

    label: str
    finished: bool | None
    saved: str
    curves: dict[str, tuple[list[float], list[float]]]

    @property
    def state(self) -> str:
        """The progress of the run as text."""
        step = max((steps[-1] for steps, _ in self.curves.values()), default=0)
        saved = f"; the saved weights are those of {self.saved}" if self.saved else ""
        state = {True: "finished at", False: "not finished, at", None: "at"}[self.finished]
        return f"{state} step {step:g}{saved}"


def training_folders(places: Sequence[str]) -> list[Path]:
    """The folders in `places` if all are folders of training runs, else an empty list.

    The stages of a sequence are found in its folder.

    Raises:
        ReportError: Some places are training runs and others are not.
    """
    found: list[Path] = []
    others: list[str] = []
    for place in places:
        folder = Path(place).expanduser()
        stages = sorted(one.parent for one in folder.glob(f"*/{METRICS}") if (one.parent / RUN).is_file())
        own = _log_of(folder)
        inside = stages if own is None or (stages and own.name == STATE) else [folder]
        found += inside
        others += [] if inside else [place]
    if found and others:
        raise ReportError(
            f"{others[0]}: found neither {METRICS} nor {STATE}, so this is not the folder of a training run, as "
            f"{found[0]} is. Fix: report training runs alone"
        )
    return found


def _log_of(folder: Path) -> Path | None:
    """The file with a run's logged values: ift's own, or else what every Trainer keeps in its newest checkpoint."""
    if (folder / METRICS).is_file():
        return folder / METRICS
    states = [*folder.glob(f"checkpoint-*/{STATE}"), *folder.glob(STATE)]
    return max(states, key=lambda file: file.stat().st_mtime, default=None)


def _entries(log: Path) -> Iterator[dict[str, Any]]:
    """The logged values by name, for each time something was logged; a line that is still being written is left out."""
    if log.name == STATE:
        yield from json.loads(log.read_text(encoding="utf-8"))["log_history"]
        return
    for _, line in numbered_lines(log):
        with suppress(ValueError):
            yield json.loads(line)


def _with_nll(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The log of another Trainer, with the loss of trl's SFT under the name that it has here.

    It is the mean over the targets' tokens, as `nll`. SFT is told by its accuracy of tokens, without rewards of pairs.
    """
    names = {name for entry in entries for name in entry}
    if "mean_token_accuracy" not in names or any(name.startswith("rewards/") for name in names):
        return entries
    same = {"loss": "nll", "eval_loss": "eval_nll"}
    return [
        {**{same[name]: one for name, one in entry.items() if name in same}, **entry} for entry in entries
    ]


def read_run(folder: Path, label: str) -> TrainingRun:
    """Read the metrics of a run of `ift train`, of `IFTTrainer`, or of another Trainer of transformers.

    Raises:
        ReportError: There are no metrics yet, or a file cannot be read.
    """
    values: dict[str, dict[float, float]] = {}
    log = _log_of(folder) or folder / METRICS
    try:
        record = json.loads((folder / RUN).read_text(encoding="utf-8")) if (folder / RUN).is_file() else {}
        finished, saved = record.get("finished"), visible(str(record.get("saved") or ""))
        for entry in _with_nll([*_entries(log)]) if log.name == STATE else _entries(log):
            for name in PANELS:
                if isinstance(entry.get(name), int | float):
                    values.setdefault(name, {})[float(entry["step"])] = float(entry[name])
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ReportError(f"{folder}: its {log.name} or {RUN} cannot be read ({error})") from None
    if not values:
        raise ReportError(f"{log}: no metrics yet; wait for the first logged step")
    curves = {
        name: ([*sorted(found)], [found[step] for step in sorted(found)]) for name, found in values.items()
    }
    return TrainingRun(visible(label), finished, saved, curves)


def write_training_report(folders: Sequence[Path], out: Path) -> list[str]:
    """Write report.html, report.md and the figure of the curves to `out`; returns lines that name the files.

    Raises:
        ReportError: A run cannot be read.
    """
    names = [folder.resolve().name for folder in folders]
    labels = [
        f"{folder.resolve().parent.name}/{name}" if names.count(name) > 1 else name
        for folder, name in zip(folders, names, strict=True)
    ]
    runs = [read_run(folder, label) for folder, label in zip(folders, labels, strict=True)]
    picture = curves_picture(runs)
    (out / "figures").mkdir(parents=True, exist_ok=True)
    for kind in ("png", "svg"):
        (out / "figures" / f"training-curves.{kind}").write_bytes(image(picture, kind))
    table = last_values(runs)
    (out / "report.md").write_text(_markdown(table), encoding="utf-8")
    (out / "report.html").write_text(_page(table, picture), encoding="utf-8")
    states = [f"{run.label}: {run.state}" for run in runs]
    return [
        *states,
        f"page      {out / 'report.html'}",
        f"tables    {out / 'report.md'}",
        f"figures   {out / 'figures'}",
    ]


def last_values(runs: Sequence[TrainingRun]) -> list[list[str]]:
    """A table of the last value of each metric: the header, and one row per run."""
    shown = [name for name in PANELS if any(name in run.curves for run in runs)]
    rows = [["run", "state", *shown]]
    for run in runs:
        cells = [f"{run.curves[name][1][-1]:.4g}" if name in run.curves else "–" for name in shown]
        rows.append([run.label, run.state, *cells])
    return rows


def curves_picture(runs: Sequence[TrainingRun]) -> Picture:
    """One panel for each metric of any run, with one line per run."""
    shown = [name for name in PANELS if any(name in run.curves for run in runs)]
    rows = -(-len(shown) // 3)
    size = (min(len(shown), 3) * 3.6, rows * 2.6 + 0.25 * len(runs) + 0.2)
    return Picture("training-curves", "Curves of the training", size, partial(_draw, runs, shown))


def _draw(runs: Sequence[TrainingRun], shown: Sequence[str], figure: Figure) -> None:
    columns = min(len(shown), 3)
    panels = figure.subplots(-(-len(shown) // columns), columns, squeeze=False).flatten()
    for panel, name in zip(panels, shown, strict=False):
        panel.set_title(PANELS[name])
        panel.set_xlabel("step")
        for number, run in enumerate(runs):
            if name in run.curves:
                few = len(run.curves[name][0]) < 30
                panel.plot(*run.curves[name], color=f"C{number}", marker="o" if few else None, markersize=3)
    for panel in panels[len(shown) :]:
        panel.set_visible(False)
    handles = [
        panels[0].plot([], [], color=f"C{number}", label=run.label)[0] for number, run in enumerate(runs)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=1)


def _markdown(table: Sequence[Sequence[str]]) -> str:
    rows = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in table]
    rows.insert(1, "|" + "---|" * len(table[0]))
    return (
        "# Training runs\n\nThe last value of each metric:\n\n"
        + "\n".join(rows)
        + ("\n\n![Curves of the training](figures/training-curves.png)\n")
    )


def _page(table: Sequence[Sequence[str]], picture: Picture) -> str:
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    light, dark = (base64.b64encode(image(picture, "svg", theme)).decode() for theme in ("light", "dark"))
    rows = [
        "<tr>" + "".join(f"<{cell}>{html.escape(text)}</{cell}>" for text in row) + "</tr>"
        for row, cell in zip(table, ["th", *["td"] * (len(table) - 1)], strict=True)
    ]
    source = "data:image/svg+xml;base64,"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>Training runs</title>'
        f"<style>{_STYLE}</style></head><body><h1>Training runs</h1><p>The last value of each metric:</p>"
        f'<div class="wide"><table>{"".join(rows)}</table></div><h2>Curves</h2><picture>'
        f'<source srcset="{source}{dark}" media="(prefers-color-scheme: dark)">'
        f'<img src="{source}{light}" alt="Curves of the training, one panel for each metric"></picture></body></html>\n'
    )

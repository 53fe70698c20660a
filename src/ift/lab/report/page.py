"""One HTML page without external parts: a sortable table, filters, figures, answers side by side."""

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import jinja2

from ift.lab.report.chosen import chosen_lines
from ift.lab.report.comparisons import Comparison
from ift.lab.report.figures import image, pictures
from ift.lab.report.intervals import Estimate
from ift.lab.report.tables import COSTS, HOW_TO_READ, answers, by_seed, share
from ift.lab.report.verdict import verdict
from ift.lab.report.wording import estimate, json_for_script, label, number
from ift.text import visible


def html_page(comparisons: Sequence[Comparison], metric: str = "exact_match") -> str:
    """The report of comparisons as one HTML page.

    `metric` is the metric of the differences and of the figures. The page's content security policy (CSP) allows only
    its own style and script, by their hashes, and pictures inside the page.
    """
    folder = files("ift.lab.report")
    script, style = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["visible"] = visible
    template = environment.from_string(folder.joinpath("page.html.j2").read_text(encoding="utf-8"))
    return template.render(
        policy=(
            f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
            "base-uri 'none'; form-action 'none'"
        ),
        script=script,
        style=style,
        data=json_for_script({"samples": _samples(comparisons)}),
        how_to_read=HOW_TO_READ,
        columns=_columns(comparisons, metric),
        rows=_rows(comparisons, metric),
        splits=list(dict.fromkeys(split for comparison in comparisons for split in comparison.splits)),
        comparisons=comparisons,
        verdicts={one.title: [*verdict(one, metric), *chosen_lines(one)] for one in comparisons},
        figures={comparison.title: _figures(comparison, metric) for comparison in comparisons},
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _columns(comparisons: Sequence[Comparison], metric: str) -> list[dict[str, Any]]:
    names = _metrics(comparisons, metric)
    bases = list(dict.fromkeys(comparison.baseline for comparison in comparisons if comparison.baseline))
    heads = [("method", False), ("split", False), (label(metric), True)]
    heads += [(f"minus {bases[0]}", True), ("rows that differ", True)] if bases else []
    heads += [("comparison", False), ("by seed", False), ("answers", True)]
    heads += [(label(name), True) for name in (*names, *_costs(comparisons))]
    return [{"name": name, "numeric": numeric} for name, numeric in heads]


def _metrics(comparisons: Sequence[Comparison], metric: str) -> list[str]:
    names = dict.fromkeys(name for comparison in comparisons for name in comparison.metrics())
    return [name for name in names if name != metric]


def _costs(comparisons: Sequence[Comparison]) -> list[str]:
    variants = [variant for comparison in comparisons for variant in comparison.variants]
    return [name for name in COSTS if any(variant.costs(name) for variant in variants)]


def _rows(comparisons: Sequence[Comparison], metric: str) -> list[dict[str, Any]]:
    """One row for each method and split; a cell is its text and the number to sort by (None: sort by the text)."""
    others, costs = _metrics(comparisons, metric), _costs(comparisons)
    has_base = any(comparison.baseline for comparison in comparisons)
    rows = []
    for comparison in comparisons:
        for split in comparison.splits:
            for variant in comparison.variants:
                n = variant.scores(split, "n")
                if not n:
                    continue
                cells = [_cell(variant.estimate(split, metric), metric)]
                if has_base:
                    cells.append(_cell(comparison.difference(variant, split, metric), metric, signed=True))
                    differ = comparison.differing(variant, split, metric)
                    cells.append({"text": share(differ), "value": differ, "number": True})
                cells += [_text_cell(comparison.title), _text_cell(by_seed(variant, split, metric))]
                cells.append({"text": answers(variant, split), "value": min(n.values()), "number": True})
                cells += [_cell(variant.estimate(split, name), name) for name in others]
                means = {name: variant.mean_cost(name) for name in costs}
                cells += [
                    {"text": number(mean, name), "value": mean, "number": True}
                    for name, mean in means.items()
                ]
                names = {"label": variant.label, "comparison": comparison.title, "split": split}
                rows.append({**names, "cells": cells})
    return rows


def _text_cell(text: str) -> dict[str, Any]:
    return {"text": text, "value": None, "number": False}


def _cell(found: Estimate | None, name: str, signed: bool = False) -> dict[str, Any]:
    value = found.mean if found is not None else None
    return {"text": estimate(found, name, signed), "value": value, "number": True}


def _figures(comparison: Comparison, metric: str) -> list[dict[str, str]]:
    found = []
    for picture in pictures(comparison, metric):
        light, dark = (base64.b64encode(image(picture, "svg", theme)).decode() for theme in ("light", "dark"))
        found.append({"title": picture.title, "light": light, "dark": dark})
    return found


def _samples(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """The problems with the answers of all methods and seeds, ordered by comparison, split and id."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    runs = [
        (comparison.title, variant.label, seed, run)
        for comparison in comparisons
        for variant in comparison.variants
        for seed, run in variant.runs.items()
    ]
    for title, name, seed, run in runs:
        for one in run.samples:
            texts = {key: visible(getattr(one, key)) for key in ("id", "prompt", "target")}
            new = {"comparison": title, "split": one.split, **texts, "answers": []}
            lines = visible(one.answer).split("\n")
            answer = {"label": name, "shown": visible(name), "seed": seed, "lines": lines}
            answer |= {"right": one.right, "wrong": one.first_wrong_step}
            found.setdefault((title, one.split, one.id), new)["answers"].append(answer)
    return [*found.values()]

"""The tables of docs/results.md and the README's table of results, from the studies in docs/records."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from ift.lab.report import RunRecord, find
from ift.lab.report.comparisons import Comparison, Variant, compare
from ift.lab.report.tables import cost_table, score_table
from ift.lab.report.wording import estimate
from page_tables import RECORDS, table

TASKS = {"compare-full": "word problems", "compare-relation": "relations"}
PRETRAINED = {"compare-e2e": ("E2E, BLEU", "bleu"), "compare-geoquery": ("GeoQuery, SQL result equal", "sql")}
ROUNDED = {  # SmolLM2 on E2E with RMSprop: the weights and the learning rate
    "compare-e2e-rmsprop-float32": "float32, 3e-6",
    "compare-e2e-rmsprop-bfloat16": "bfloat16, 3e-6",
    "compare-e2e-rmsprop-bfloat16-fast": "bfloat16, 3e-5",
}
SCORE = "exact_match"
SPLITS = ("test", "longer")
FACTS = ("facts_stated", "nothing_false")  # these have a table of their own
EXPLAINED = (
    "sft", "ift", "ift as released", "ift gamma 0.5", "ift lambda 0.4", "ift lambda 1", "ift cumsum",
)  # fmt: skip


def study(name: str) -> dict[Path, RunRecord]:
    """A study's run records, from docs/records or else from docs/records/as-released.

    `as-released/NAME` is the latter's, whether or not the study was renewed.
    """
    places = [RECORDS / f"{name}.jsonl", RECORDS / "as-released" / f"{name}.jsonl"]
    return find([next((place for place in places if place.exists()), places[0])])


def grouped(name: str, baseline: str | None) -> Comparison:
    """The comparison of a study's runs."""
    (found,) = compare(study(name), baseline, [])
    return found


def released(*names: str) -> str:
    """IFT and IFT after SFT, by default and as released, minus SFT, on both splits of each study."""
    rows = []
    for name in names:
        for folder, which in (("", "the default"), ("as-released/", "as released")):
            found = grouped(folder + name, "sft")
            for variant in found.variants:
                if variant.label in ("ift", "sft+ift"):
                    cells = [cell for split in SPLITS for cell in _against([found], [variant], split)]
                    rows.append([TASKS[name], f"{variant.label}, {which}", *cells])
    return table(["", "", "test", "minus SFT", "longer", "minus SFT"], rows)


def parts(name: str) -> str:
    """Exact match of every variant on both splits, minus SFT and minus IFT."""
    to_sft, to_ift = grouped(name, "sft"), grouped(name, "ift")
    rows = []
    for variant in to_sft.variants:
        (same,) = [one for one in to_ift.variants if one.label == variant.label]
        cells = [cell for split in SPLITS for cell in _against([to_sft, to_ift], [variant, same], split)]
        rows.append([variant.label, *(cell.replace(" points", "") for cell in cells)])
    return table(["", "test", "minus SFT", "minus IFT", "longer", "minus SFT", "minus IFT"], rows)


def settings(name: str, base: str, *labels: str) -> str:
    """Exact match of IFT with other settings on both splits, minus that of the variant `base`, in the order given."""
    found = grouped(name, base)
    by_label = {variant.label: variant for variant in found.variants}
    rows = []
    for label in (base, *labels):
        variant = by_label[label]
        cells = [
            cell.replace(" points", "") for split in SPLITS for cell in _against([found], [variant], split)
        ]
        rows.append([label, *cells, str(len(variant.runs))])
    minus = f"minus `{base}`"
    return table(["", "test", minus, "longer", minus, "seeds"], rows)


def _against(comparisons: list[Comparison], variants: list[Variant], split: str) -> list[str]:
    """Exact match of a variant, and its difference to the baseline of each comparison."""
    differences = [
        estimate(found.difference(variant, split, SCORE), SCORE, signed=True)
        for found, variant in zip(comparisons, variants, strict=True)
    ]
    return [estimate(variants[0].estimate(split, SCORE), SCORE), *differences]


def ends(name: str) -> str:
    """By method: mean over seeds of the end token's negative log-likelihood at some steps, and how many answers end."""
    steps = (1, 3, 6, 10, 15, 20)
    rows = []
    for variant in grouped(name, None).variants:
        curves = [{point["step"]: point for point in run.curves} for run in variant.runs.values()]
        if not all(curves):
            continue  # the base is not trained
        cells = [f"{statistics.mean(curve[step]['eos_nll'] for curve in curves):.2f}" for step in steps]
        key = "propagation_negative_share"
        shares = [point[key] for curve in curves for point in curve.values() if key in point]
        stopped = estimate(variant.estimate("test", "stopped"), "stopped")
        rows.append([variant.label, *cells, f"{statistics.mean(shares):.1%}", stopped])
    last = ["tokens pushed up, all steps", "stops with its end token, test"]
    return table(["nats at step", *map(str, steps), *last], rows)


def mispredicted(*names: str) -> str:
    """By task: the share of target tokens that IFT's look-ahead got wrong, and the scores beside SFT's."""
    labels = ("ift", "ift residual only", "ift as released", "neftune")
    rows = []
    for name in names:
        found = grouped(name, "sft")
        title, metric = PRETRAINED[name]
        by_label = {variant.label: variant for variant in found.variants}
        curves = [run.curves for run in by_label["ift"].runs.values()]
        wrong = [
            f"{1 - statistics.mean(curve[at]['lookahead_accuracy'] for curve in curves):.0%}"
            for at in (0, -1)
        ]
        apart = [
            estimate(found.difference(by_label[label], "test", metric), metric, signed=True)
            if label in by_label
            else "–"
            for label in labels
        ]
        rows.append([title, *wrong, estimate(found.base.estimate("test", metric), metric), *apart])
    return table(["", "mispredicted, first ten steps", "mispredicted, last ten steps", "sft", *labels], rows)


def rounding(*names: str) -> str:
    """By weights and learning rate: BLEU of the base and of SFT, the other methods minus SFT, and answers that end."""
    rows = []
    for name in names:
        found = grouped(name, "sft")
        by_label = {variant.label: variant for variant in found.variants}
        others = [by_label[label] for label in ("ift", "ift as released")]
        rows.append(
            [
                ROUNDED[name],
                *(estimate(by_label[label].estimate("test", "bleu"), "bleu") for label in ("base", "sft")),
                *(estimate(found.difference(one, "test", "bleu"), "bleu", signed=True) for one in others),
                *(estimate(one.estimate("test", "stopped"), "stopped") for one in (by_label["sft"], *others)),
            ]
        )
    stops = [f"{label}, stops" for label in ("sft", "ift", "ift as released")]
    return table(["weights and rate", "base", "sft", "ift", "ift as released", *stops], rows)


def search(name: str) -> str:
    """Every method's trials on the validation problems."""
    rows = []
    for variant in grouped(name, None).variants:
        tried = next(iter(variant.runs.values())).search
        if tried:
            scores = [f"{_setting(trial.config)}: {trial.score:.1%}" for trial in tried]
            rows.append([variant.label, "; ".join(scores)])
    return table(["method", "setting: exact match"], rows)


def _setting(config: dict[str, Any]) -> str:
    found = {name.split(".")[-1]: value for name, value in config.items() if not name.endswith("simpo_gamma")}
    beta = f", beta {found['beta']:g}" if "beta" in found else ""
    return f"{found['learning_rate']:g}{beta}"


def first_errors(name: str) -> str:
    """Guesses that are right, losses pushed up, likelihood, and at which step answers first go wrong."""
    steps = range(4)
    rows = []
    for variant in grouped(name, None).variants:
        if variant.label not in EXPLAINED:
            continue
        runs = [*variant.runs.values()]
        logged = [[point for point in run.curves if "propagation_negative_share" in point] for run in runs]
        guesses = [points[0]["lookahead_accuracy"] for points in logged if "lookahead_accuracy" in points[0]]
        right = (
            f"{statistics.mean(guesses):.1%}" if guesses else "-"
        )  # without a look-ahead there is no guess
        pushed = statistics.mean(points[-1]["propagation_negative_share"] for points in logged)
        likely = estimate(variant.estimate("test", "target_log_likelihood"), "target_log_likelihood")
        stopped = statistics.mean(run.scores["test"]["stopped"] for run in runs)
        cells = [variant.label, right, f"{pushed:.1%}", likely, f"{stopped:.1%}"]
        for step in steps:
            counts = [(run.error_steps["test"][step : step + 1] or [0])[0] for run in runs]
            cells.append(f"{statistics.mean(counts) / runs[0].scores['test']['n']:.1%}")
        rows.append(cells)
    header = [
        "",
        "right guesses, first ten steps",
        "tokens pushed up, last ten steps",
        "log-likelihood of the target",
        "stopped",
    ]
    return table([*header, *(f"first wrong at step {step + 1}" for step in steps)], rows)


def scores(name: str, split: str, *metrics: str) -> str:
    """Scores on a split, as `ift report` has them: all of them, or one."""
    found = grouped(name, "sft")
    for run in (run for variant in found.variants for run in variant.runs.values()):
        for fact in FACTS:
            run.scores[split].pop(fact, None)
    return score_table(found, split, *metrics)


def facts(name: str) -> str:
    """What experiments/e2e/slots.py found in the answers: means over seeds, and the differences from SFT."""
    found = grouped(name, "sft")
    rows = []
    for variant in found.variants:
        cells = []
        for metric in FACTS:
            cells += [
                estimate(variant.estimate("test", metric), metric),
                estimate(found.difference(variant, "test", metric), metric, signed=True),
            ]
        rows.append([variant.label, *cells])
    return table(["", "facts stated", "minus SFT", "answers with nothing false", "minus SFT"], rows)


def costs(name: str) -> str:
    """The cost of one training, as `ift report` has it."""
    return cost_table(grouped(name, "sft"))


def command(name: str) -> str:
    """The command of a study's first record, as a block of code."""
    return f"```\n{next(iter(study(name).values())).provenance.command}\n```"

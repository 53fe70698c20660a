"""Fill the tables of docs/results.md from docs/records: `python docs/make_results.py`."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

from ift.lab.report import RunRecord, find, mean_interval
from ift.lab.report.comparisons import Comparison, compare
from ift.lab.report.figures import image, pictures
from ift.lab.report.tables import cost_table, score_table
from ift.lab.report.wording import estimate

TASKS = {"compare-full": "word problems", "compare-relation": "relations"}
DOCS = Path(__file__).resolve().parent
RECORDS = DOCS / "records"
SCORE = "exact_match"
WHY = (
    "sft", "ift", "ift as released", "ift gamma 0.5", "ift lambda 0.4", "ift lambda 1", "ift cumsum",
)  # fmt: skip


def study(name: str) -> dict[Path, RunRecord]:
    """A study's run records, from docs/records or else from docs/records/as-released.

    `as-released/NAME` is the latter's, whether or not the study was renewed.
    """
    places = [RECORDS / f"{name}.jsonl", RECORDS / "as-released" / f"{name}.jsonl"]
    return find([next((place for place in places if place.exists()), places[0])])


def mean_and_interval(values: list[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval (Student) over seeds."""
    found = mean_interval(values)
    return found.mean, found.half


def table(records: list[dict]) -> str:
    """The demo's table over seeds, and the paired difference, as Markdown."""
    lines = [
        f"| over {len(records)} seeds | exact match | by seed | stops with its end token | answer tokens |",
        "|---|---|---|---|---|",
    ]
    scores = {}
    for name in records[0]["results"]:
        found = [record["results"][name] for record in records]
        scores[name] = [one["exact_match"] for one in found]
        by_seed = ", ".join(f"{score:.1%}" for score in scores[name])
        if len(set(scores[name])) == 1:  # the base does not depend on the seed
            shown, by_seed = f"{scores[name][0]:.1%}", "the same model"
        else:
            mean, half = mean_and_interval(scores[name])
            shown = f"{mean:.1%} +- {half:.1%}"
        stopped = statistics.mean(one["stopped"] for one in found)
        length = statistics.mean(one["mean_length"] for one in found)
        lines.append(f"| {name} | {shown} | {by_seed} | {stopped:.1%} | {length:.1f} |")
    mean, half = mean_and_interval([i - s for i, s in zip(scores["ift"], scores["sft"], strict=True)])
    lines.append("")
    lines.append(f"IFT - SFT, paired by seed: {mean:+.1%} +- {half:.1%} (95 % interval).")
    return "\n".join(lines)


def rates_table(records: list[dict]) -> str:
    """Validation scores by method and learning rate, mean over seeds, and how often each rate was chosen."""
    lines = ["| method | learning rate | validation, mean over seeds | chosen |", "|---|---|---|---|"]
    for method in ("sft", "ift"):
        found = [record["results"][method] for record in records]
        for rate in found[0]["validation"]:
            share = statistics.mean(one["validation"][rate] for one in found)
            times = sum(one["learning_rate"] == rate for one in found)
            lines.append(f"| {method} | {rate} | {share:.1%} | {times} of {len(records)} |")
    return "\n".join(lines)


def comparison(name: str) -> str:
    """Scores and costs of a study's runs, as `ift report` has them."""
    found = grouped(name, "sft")
    parts = [f"Split `{split}`:\n\n{score_table(found, split)}" for split in ("test", "longer")]
    return "\n\n".join([*parts, f"Cost of one training:\n\n{cost_table(found)}"])


def grouped(name: str, baseline: str) -> Comparison:
    """The comparison of a study's runs."""
    (found,) = compare(study(name), baseline, [])
    return found


def record_command(name: str) -> str:
    """The command of the first record."""
    return next(iter(study(name).values())).provenance.command


def ends_table(name: str) -> str:
    """By method: mean over seeds of the end token's negative log-likelihood at some steps, and who stops at last."""
    found = grouped(name, "sft")
    steps = (1, 3, 6, 10, 15, 20)
    lines = [
        "| nats at step | "
        + " | ".join(map(str, steps))
        + " | tokens pushed up, all steps | stops by itself, test |",
        "|" + "---|" * (len(steps) + 3),
    ]
    for variant in found.variants:
        curves = [{point["step"]: point for point in run.curves} for run in variant.runs.values()]
        if not all(curves):
            continue  # the base is not trained
        cells = [f"{statistics.mean(curve[step]['eos_nll'] for curve in curves):.2f}" for step in steps]
        shares = [
            point["propagation_negative_share"]
            for curve in curves
            for point in curve.values()
            if "propagation_negative_share" in point
        ]
        stopped = estimate(variant.estimate("test", "stopped"), "stopped")
        lines.append(f"| {variant.label} | {' | '.join(cells)} | {statistics.mean(shares):.1%} | {stopped} |")
    return "\n".join(lines)


def short_table(name: str) -> str:
    """Exact match and difference to SFT on both splits, and FLOPs against SFT's."""
    found = grouped(name, "sft")
    flops = {variant.label: variant.mean_cost("flops") for variant in found.variants}
    lines = ["| | test | minus SFT | longer | minus SFT | FLOPs / SFT's |", "|---|---|---|---|---|---|"]
    for variant in found.variants:
        cells = [variant.label]
        for split in ("test", "longer"):
            cells.append(estimate(variant.estimate(split, SCORE), SCORE))
            cells.append(estimate(found.difference(variant, split, SCORE), SCORE, signed=True))
        cells.append(f"{flops[variant.label] / flops['sft']:.2f}" if flops[variant.label] else "–")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def parts_table(name: str) -> str:
    """Exact match of every variant on both splits, minus SFT and minus IFT as published."""
    to_sft, to_ift = grouped(name, "sft"), grouped(name, "ift")
    heads = ["", "test", "minus SFT", "minus IFT", "longer", "minus SFT", "minus IFT"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for variant in to_sft.variants:
        (same,) = [it for it in to_ift.variants if it.label == variant.label]
        cells = [variant.label]
        for split in ("test", "longer"):
            cells.append(estimate(variant.estimate(split, SCORE), SCORE))
            for found, shown in ((to_sft, variant), (to_ift, same)):
                cells.append(estimate(found.difference(shown, split, SCORE), SCORE, signed=True))
        lines.append(f"| {' | '.join(cells)} |".replace(" points", ""))
    return "\n".join(lines)


def search_table(name: str) -> str:
    """Every method's trials."""
    lines = ["| method | setting: exact match |", "|---|---|"]
    for variant in grouped(name, "sft").variants:
        tried = next(iter(variant.runs.values())).search
        if tried:
            told = [f"{_setting(trial.config)}: {trial.score:.1%}" for trial in tried]
            lines.append(f"| {variant.label} | {'; '.join(told)} |")
    return "\n".join(lines)


def _setting(config: dict) -> str:
    found = {name.split(".")[-1]: value for name, value in config.items() if not name.endswith("simpo_gamma")}
    beta = f", beta {found['beta']:g}" if "beta" in found else ""
    return f"{found['learning_rate']:g}{beta}"


def why_table(name: str) -> str:
    """Guesses that are right, losses pushed up, likelihood, and at which step answers first go wrong."""
    steps = range(4)
    heads = [
        "",
        "guesses right at first",
        "tokens pushed up at last",
        "log-likelihood of the target",
        "stopped",
    ]
    heads += [f"first wrong at step {step + 1}" for step in steps]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for variant in grouped(name, "sft").variants:
        if variant.label not in WHY:
            continue
        runs = [*variant.runs.values()]
        logged = [[point for point in run.curves if "lookahead_accuracy" in point] for run in runs]
        right = statistics.mean(points[0]["lookahead_accuracy"] for points in logged)
        pushed = statistics.mean(points[-1]["propagation_negative_share"] for points in logged)
        likely = estimate(variant.estimate("test", "target_log_likelihood"), "target_log_likelihood")
        stopped = statistics.mean(run.scores["test"]["stopped"] for run in runs)
        cells = [variant.label, f"{right:.1%}", f"{pushed:.1%}", likely, f"{stopped:.1%}"]
        for step in steps:
            counts = [(run.error_steps["test"][step : step + 1] or [0])[0] for run in runs]
            cells.append(f"{statistics.mean(counts) / runs[0].scores['test']['n']:.1%}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def lambda_curve(name: str) -> bytes:
    """The figure of exact match against lambda, as SVG."""
    (picture,) = [it for it in pictures(grouped(name, "sft")) if it.name == "lambda"]
    return image(picture, "svg")


def released_table(*names: str) -> str:
    """IFT by default and as released, and what begins with SFT, minus SFT, on both splits of each study."""
    lines = ["| | | test | minus SFT | longer | minus SFT |", "|---|---|---|---|---|---|"]
    for name in names:
        for folder, which in (("", "the default"), ("as-released/", "as released")):
            found = grouped(folder + name, "sft")
            for variant in found.variants:
                if variant.label not in ("ift", "sft+ift"):
                    continue
                cells = [TASKS[name], f"{variant.label}, {which}"]
                for split in ("test", "longer"):
                    cells.append(estimate(variant.estimate(split, SCORE), SCORE))
                    cells.append(estimate(found.difference(variant, split, SCORE), SCORE, signed=True))
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def scores(name: str, metric: str) -> str:
    """The table of one score on the split `test`."""
    return score_table(grouped(name, "sft"), "test", metric)


def costs(name: str) -> str:
    """The table of costs."""
    return cost_table(grouped(name, "sft"))


def demo(kind: str, folder: str = "") -> str:
    """The demo's learning rates, or its results."""
    lines = (RECORDS / folder / "demo.jsonl").read_text().splitlines()
    return {"rates": rates_table, "results": table}[kind]([json.loads(line) for line in lines])


def command(name: str) -> str:
    """The command of a study, as a block of code."""
    return f"```\n{record_command(name)}\n```"


MAKERS = {
    one.__name__: one
    for one in (
        demo, comparison, search_table, short_table, parts_table, why_table, ends_table, released_table, scores, costs,
        command,
    )
}  # fmt: skip


def fill(page: Path) -> None:
    """Fill every `<!-- table: MAKER arguments -->` of a page, up to `<!-- end of table -->`."""

    def made(found: re.Match[str]) -> str:
        name, *arguments = found[2].split()
        if name not in MAKERS:  # another script's
            return found[0]
        return f"{found[1]}\n{MAKERS[name](*arguments)}\n{found[3]}"

    text = re.sub(
        r"(<!-- table: (.*?) -->)\n.*?(<!-- end of table -->)", made, page.read_text(), flags=re.DOTALL
    )
    page.write_text(text)


def main() -> None:
    """Fill the tables of results.md and the README, and draw the figure."""
    (DOCS / "images" / "ablate-lambda.svg").write_bytes(lambda_curve("ablate-full"))
    fill(DOCS / "results.md")
    fill(DOCS.parent / "README.md")


if __name__ == "__main__":
    main()

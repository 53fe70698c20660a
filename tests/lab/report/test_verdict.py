"""The verdict in words: the same sentences whoever is ahead, and none from too few seeds."""

import random
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from small_records import record, write
from typer.testing import CliRunner

from ift.cli.main import app
from ift.lab.report import Cost
from ift.lab.report.comparisons import compare
from ift.lab.report.intervals import Estimate
from ift.lab.report.page import html_page
from ift.lab.report.tables import report_markdown
from ift.lab.report.verdict import _below, seeds_to_add, verdict
from ift.lab.report.wording import label

ROWS = 200
FLOPS = {"sft": 1e12, "ift": 1.2e12, "dpo": 2e12, "base": 1.0}


def comparison(shares, seeds=3, spread=0, **changes):
    """Methods with just these shares of right answers, at rows drawn for each method and seed."""
    records = []
    for method, share in shares.items():
        for seed in range(seeds):
            right = share * ROWS + spread * (seed - 1) * (1 if method == "ift" else -1)
            values = [float(row < right) for row in range(ROWS)]
            random.Random(f"{method} {seed}").shuffle(values)
            one = record(method, seed, scores={"test": {"n": ROWS, "exact_match": sum(values) / ROWS}})
            cost = Cost(seconds=FLOPS[method] / 1e11, flops=FLOPS[method])
            rows = {"test": {"exact_match": values}}
            records.append(replace(one, **{"cost": cost, "row_scores": rows, **changes}))
    (found,) = compare({Path(f"{number}.json"): one for number, one in enumerate(records)})
    return found


@pytest.mark.parametrize(("first", "second"), [("sft", "ift"), ("ift", "sft")])
def test_one_winner_is_named_in_the_same_words_whoever_it_is(first, second):
    lines = verdict(comparison({first: 0.8, second: 0.6, "dpo": 0.5, "base": 0.1}), "exact_match")
    assert lines[0].startswith(
        f"Verdict on test (exact match): {first} is ahead of every other method beyond noise, with "
    )
    assert re.match(
        rf"Behind it beyond noise: (dpo is [\d.]+ ± [\d.]+ points below it, )?{second} is ", lines[1]
    )
    assert lines[1].count(" points below it") == 2
    assert "base" not in " ".join(lines)
    expected = {
        "sft": "It is also the cheapest: 1.00e+12 FLOPs a training.",
        "ift": "It takes 1.20e+12 FLOPs a training, 1.20 times those of sft, the cheapest.",
    }
    assert lines[2].startswith(
        "These ± are wider than those of the tables (98.3 % instead of 95 %), because 3 methods"
    )
    assert lines[3:] == [expected[first]]


def test_where_all_are_level_the_cheapest_is_named_and_what_more_seeds_would_tell():
    found = comparison({"sft": 0.7, "ift": 0.71, "dpo": 0.69})
    lines = verdict(found, "exact_match")
    assert lines[0].startswith(
        "Verdict on test (exact match): no method differs from another beyond noise. The highest mean is "
    )
    size = r"[\d.]+ ± [\d.]+ points below it"
    assert re.search(rf"%, of ift; (sft|dpo) is {size}, (sft|dpo) is {size}\.$", lines[0]), lines[0]
    assert lines[1] == (
        "These ± are wider than those of the tables (98.3 % instead of 95 %), because 3 methods are compared with each "
        "other."
    )
    assert lines[2].startswith("Of those, sft is the cheapest: 1.00e+12 FLOPs a training. Times that: ")
    assert "ift 1.20" in lines[2]
    assert lines[3].startswith("With 6 seeds the difference between ift and sft would be known to about ± ")
    assert "points" in lines[3]
    assert not any("wider" in line for line in verdict(comparison({"sft": 0.7, "ift": 0.71}), "exact_match"))


def test_with_too_few_rows_no_seeds_are_proposed():
    """Red when: "it shows only that everything runs" stands beside "with 5 seeds it would be beyond noise"."""
    level = {"sft": 0.7, "ift": 0.74}
    found = comparison(level, spread=6, row_scores={})
    few = replace(found, variants=[_with_rows(one, 20) for one in found.variants])
    assert seeds_to_add(found, "exact_match") is not None
    assert seeds_to_add(few, "exact_match") is None
    lines = verdict(few, "exact_match")
    assert lines[0].startswith("Too few rows to compare methods: 20 were scored")
    assert not any("seeds the difference" in line for line in lines)
    assert lines[-1].startswith(
        "No number of seeds is proposed, because 20 rows would be too few with any: score 50"
    )


def _with_rows(variant, rows):
    runs = {
        seed: replace(run, scores={"test": {**run.scores["test"], "n": rows}})
        for seed, run in variant.runs.items()
    }
    return replace(variant, runs=runs)


def test_some_are_level_and_some_behind():
    lines = verdict(comparison({"sft": 0.7, "ift": 0.71, "dpo": 0.4}), "exact_match")
    assert ": ift is the best with " in lines[0]
    assert re.search(r"Not behind it beyond noise: sft is 1\.0 ± [\d.]+ points below it\.$", lines[0])
    assert re.match(r"Behind it beyond noise: dpo is 31\.0 ± [\d.]+ points below it\.$", lines[1])


def test_a_difference_is_said_with_one_direction_and_no_sign():
    assert _below(Estimate(-0.275, 0.379, 3), "target_log_likelihood_per_token") == "0.275 ± 0.379 below"


def test_methods_with_other_seeds_are_compared_on_the_common_ones():
    """Red when: sft has the higher mean of three seeds than of four, is the best, and others are "above" it."""
    found = comparison({"sft": 0.7, "ift": 0.72}, seeds=4)
    easy = {seed: run for seed, run in found.variants[0].runs.items() if seed != 0}
    lines = verdict(
        replace(found, variants=[replace(found.variants[0], runs=easy), found.variants[1]]), "exact_match"
    )
    assert lines[0] == (
        "The verdict is on the seeds that all methods have (1, 2, 3), and leaves out those that only some have "
        "(ift: 0); the tables have all."
    )
    hard = comparison({"sft": 0.7, "ift": 0.74}, seeds=4)
    worst = replace(hard.variants[1].runs[3], scores={"test": {"n": ROWS, "exact_match": 0.0}},
                    row_scores={"test": {"exact_match": [0.0] * ROWS}})  # fmt: skip
    three = {seed: run for seed, run in hard.variants[0].runs.items() if seed < 3}
    four = {**hard.variants[1].runs, 3: worst}
    mixed = [replace(hard.variants[0], runs=three), replace(hard.variants[1], runs=four)]
    said = " ".join(verdict(replace(hard, variants=mixed), "exact_match"))
    assert "sft is 4.0 ±" in said
    assert "below it" in said
    assert " above it" not in said
    assert "The verdict is on the seeds" not in " ".join(verdict(hard, "exact_match"))


def test_too_few_seeds_give_no_verdict():
    (line,) = verdict(comparison({"sft": 0.8, "ift": 0.4}, seeds=2), "exact_match")
    assert line.startswith("Verdict on test (exact match): none. 2 common seeds cannot tell")
    assert "give --seeds 3 or more" in line
    assert verdict(comparison({"sft": 0.8}), "exact_match") == []


def test_many_comparisons_need_more_than_one_does():
    """Bonferroni: a difference that is beyond noise among two methods is not so among many level ones."""
    two = comparison({"sft": 0.8, "ift": 0.74})
    assert "ahead of every other" in verdict(two, "exact_match")[0]
    crowd = [replace(two.variants[1], label=f"ift {number}") for number in range(200)]
    found = replace(two, variants=[two.variants[0], *crowd])
    assert "no method differs from another beyond noise" in verdict(found, "exact_match")[0]


def test_a_method_with_a_seed_that_diverged_is_left_out():
    found = comparison({"sft": 0.8, "ift": 0.6, "dpo": 0.5})
    broken = replace(found.variants[1].runs[0], scores={"test": {"n": ROWS, "exact_match": None}})
    found.variants[1].runs[0] = broken
    lines = verdict(found, "exact_match")
    assert lines[0] == f"{found.variants[1].label} is left out: a seed has no finite score."


def test_costs_that_nobody_measured_are_not_made_up():
    found = comparison({"sft": 0.8, "ift": 0.6})
    for seed, run in found.variants[0].runs.items():
        found.variants[0].runs[seed] = replace(run, cost=Cost())
    assert "costs were not measured" in " ".join(verdict(found, "exact_match"))


def test_without_rows_the_interval_over_seeds_decides():
    found = comparison({"sft": 0.8, "ift": 0.6}, row_scores={})
    assert "sft is ahead of every other" in verdict(found, "exact_match")[0]
    level = comparison({"sft": 0.7, "ift": 0.71}, spread=3, row_scores={})
    assert "With 6 seeds the difference between" in " ".join(verdict(level, "exact_match"))


def test_the_report_begins_with_the_verdict_a_sentence_a_line():
    found = replace(comparison({"sft": 0.7, "ift": 0.71}), notes=["a note"])
    text = report_markdown([found], "exact_match", {})
    lines = verdict(found, "exact_match")
    assert len(lines) == 3
    assert [text.index(line[:20]) for line in lines] == sorted(text.index(line[:20]) for line in lines)
    assert text.index("* With 6 seeds") < text.index("### test") < text.index("### Notes\n\n* a note")
    page = html_page([found])
    assert page.index("<li>Verdict on test") < page.index("<table")


def test_a_study_is_told_how_to_add_the_seeds_that_the_verdict_asks_for():
    """Not where more seeds do not help, and not for records that no study can add to."""
    few = comparison({"sft": 0.8, "ift": 0.4}, seeds=2)
    grow = "repeat the study's command with --seeds 3 and the same --output_dir: the finished runs are kept."
    assert verdict(few, "exact_match")[0].endswith(grow)
    assert seeds_to_add(few, "exact_match") == 3
    assert grow not in verdict(replace(few, experiment="mine"), "exact_match")[0]
    decided = comparison({"sft": 0.8, "ift": 0.4})
    assert seeds_to_add(decided, "exact_match") is None
    level = comparison({"sft": 0.7, "ift": 0.71})
    assert "with 30 seeds either" in verdict(level, "exact_match")[-1]
    assert seeds_to_add(level, "exact_match") is None
    near = comparison({"sft": 0.7, "ift": 0.74}, spread=6, row_scores={})
    enough = seeds_to_add(near, "exact_match")
    assert 10 <= enough <= 14  # by hand: 4 points, standard deviation 6
    (said,) = verdict(near, "exact_match")[-1:]
    assert said.startswith(
        f"With {enough} seeds the difference between ift and sft would be known to about ± 3."
    )
    assert "so that a difference as large as now would be beyond noise. To add the missing seeds" in said


def test_a_score_that_is_the_same_everywhere_tells_nothing():
    found = comparison({"sft": 0.0, "ift": 0.0}, seeds=2)
    assert seeds_to_add(found, "exact_match") is None
    lines = verdict(found, "exact_match")
    assert lines == [
        "Verdict on test (exact match): none. Every method scores 0.0 % with every seed, so this score does not "
        "distinguish them. Read some answers; then train longer, or choose another --score."
    ]


def test_where_a_score_is_the_same_everywhere_the_command_for_another_one_is_named(tmp_path, monkeypatch):
    """Text 0.0 % for all, and the likelihoods differ: `ift report` with that command gives a verdict."""
    name = "target_log_likelihood_per_token"
    likelihood = {"sft": -2.0, "ift": -3.0}
    scores = {
        method: {"test": {"n": 60, "text": 0.0, "stopped": 0.5, name: value}}
        for method, value in likelihood.items()
    }
    runs = [
        record(method, seed, scores=found, samples=[])
        for method, found in scores.items()
        for seed in range(3)
    ]
    for module in ("figures", "page"):  # draw nothing
        monkeypatch.setattr(f"ift.lab.report.{module}.pictures", lambda *given: [])
    monkeypatch.chdir(tmp_path)
    write(runs, tmp_path / "my runs")
    found = CliRunner().invoke(app, ["report", "my runs", "--metric", "text"])
    assert found.exit_code == 0, found.output
    command = f"ift report 'my runs' --metric {name}"
    said = f" The same records by log-likelihood of the target, per token, in which they differ: {command}\n"
    assert said in found.output
    again = CliRunner().invoke(app, shlex.split(command)[1:])
    assert f"Verdict on test ({label(name)}): sft is ahead of every other method beyond noise" in again.output
    assert "sft: learning rate 0.001 was chosen" in again.output
    written = (tmp_path / "ift-report" / "report.html").read_text()
    assert "my runs" not in written


@pytest.mark.parametrize(
    ("rows", "stopped", "said"),
    [
        ([], 0.0, "No answer without text stopped"),
        ([], 0.5, "Those that end with their end token count as stopped"),
        ([[1.0, 0.0], [1.0, 0.0]], 0.5, "Those that end with"),
        ([[1.0, 0.0], [0.0, 1.0]], 0.5, "No answer without text stopped"),
    ],
)
def test_empty_answers_count_as_stopped_only_if_some_did_stop(rows, stopped, said):
    """Answers of spaces that were cut at the limit have no text and did not stop."""
    scores = {"test": {"n": 60, "exact_match": 0.0, "stopped": stopped, "empty": 0.5}}
    by_row = {"test": dict(zip(("empty", "stopped"), rows, strict=True))} if rows else {}
    runs = [
        record(method, seed, scores=scores, row_scores=by_row)
        for method in ("sft", "ift")
        for seed in range(3)
    ]
    (found,) = compare({Path(f"{number}.json"): one for number, one in enumerate(runs)})
    assert f"sft 50.0 %, ift 50.0 %. {said}" in verdict(found, "exact_match")[0]


@pytest.mark.parametrize("empty", [1.0, 0.0])
def test_answers_without_text_are_said_before_the_verdict_and_shown_where_there_are_any(empty):
    """Red when: "stops with its end token" 100 % of answers without text reads like a win."""
    scores = {
        method: {"test": {"n": 60, "exact_match": 0.0, "stopped": share, "empty": share}}
        for method, share in {"sft": 0.0, "ift": empty}.items()
    }
    runs = [record(method, seed, scores=found) for method, found in scores.items() for seed in range(3)]
    (found,) = compare({Path(f"{number}.json"): one for number, one in enumerate(runs)})
    lines, page = verdict(found, "exact_match"), report_markdown([found], "exact_match", {})
    caveat = (
        "Answers without text: sft 0.0 %, ift 100.0 %. Those that end with their end token count as stopped: "
    )
    assert lines[0].startswith(caveat) == bool(empty)
    assert (" | answers without text |" in page) == bool(empty)
    assert ("answers without text" in html_page([found])) == bool(empty)
    assert lines[-1].startswith("Verdict on test (exact match): none.")


@pytest.mark.parametrize(("rows", "warned"), [(49, True), (50, False)])
def test_too_few_rows_are_warned_of_before_the_verdict(rows, warned):
    scores = {
        method: {"test": {"n": rows, "exact_match": share}}
        for method, share in {"sft": 0.5, "ift": 0.6}.items()
    }
    runs = [record(method, seed, scores=found) for method, found in scores.items() for seed in range(3)]
    (found,) = compare({Path(f"{number}.json"): one for number, one in enumerate(runs)})
    lines = verdict(found, "exact_match")
    assert lines[0].startswith("Too few rows to compare methods: 49 were scored") == warned
    assert any(line.startswith("Verdict on test") for line in lines)


def test_a_training_that_the_time_has_shortened_is_said_before_the_verdict():
    config = {"learning_rate": 1e-5, "training_share": 0.2119}
    lines = verdict(comparison({"sft": 0.8, "ift": 0.6}, config=config), "exact_match")
    assert lines[0].startswith("Each training was shortened to 21 % of its steps by the time budget")
    assert lines[1].startswith("Verdict on test")
    assert not any(
        "shortened" in line for line in verdict(comparison({"sft": 0.8, "ift": 0.6}), "exact_match")
    )

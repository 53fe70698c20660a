"""Which settings a search chose, whether at an edge of what was tried, and by what where the score ties."""

from dataclasses import replace

import pytest
from small_records import PROVENANCE, record

from ift.lab.report import Trial
from ift.lab.report.chosen import chosen_line, chosen_lines
from ift.lab.report.comparisons import compare
from ift.lab.report.page import html_page
from ift.lab.report.tables import report_markdown


def tried(*scores, ties=None, rates=(1e-3, 3e-3, 3e-4)):
    ties = ties or [None] * len(scores)
    configs = [{"learning_rate": rate} for rate in rates]
    return [Trial(*one) for one in zip(configs, scores, ties, strict=True)]


@pytest.mark.parametrize(
    ("trials", "said"),
    [
        (tried(0.7, 0.6, 0.5), "sft: learning rate 0.001 was chosen from 3 settings."),
        (tried(0.6, 0.7, 0.5),
         "sft: learning rate 0.003 was chosen from 3 settings, with the largest learning rate tried: a "
         "higher one may be better; "
         "try --learning_rates 0.003,0.009 with another --output_dir."),
        (tried(0.6, 0.5, 0.7),
         "sft: learning rate 0.0003 was chosen from 3 settings, with the smallest learning rate tried: a "
         "lower one may be better; "
         "try --learning_rates 0.0003,0.0001 with another --output_dir."),
        (tried(0.0, 0.0, 0.0, ties=[-1.0, -2.0, -3.0]),
         "sft: learning rate 0.001 was chosen from 3 settings. The validation score is the same, 0, for all 3; of "
         "these the one with the highest log-likelihood of the targets per token was chosen."),
        (tried(0.5, 0.25, 0.5),
         "sft: learning rate 0.001 was chosen from 3 settings. The validation score is the same, 0.5, for 2 of 3; of "
         "these the one tried first was chosen."),
        (tried(None, None, None),
         "sft: learning rate 0.001 was chosen from 3 settings. No trial has a finite validation score, so the first "
         "one was chosen."),
        ([Trial({"2.learning_rate": 1e-5, "2.beta": beta}, beta) for beta in (0.1, 0.5)],
         "sft: learning rate 1e-05, beta 0.5 was chosen from 2 settings."),
    ],
)  # fmt: skip
def test_what_was_chosen_is_said_with_its_reason(trials, said):
    assert chosen_line("sft", trials, "--learning_rates") == said


def test_without_a_flag_none_is_proposed():
    line = chosen_line("sft", tried(0.6, 0.7, 0.5), None)
    assert line.endswith("with the largest learning rate tried: a higher one may be better.")


def test_a_report_says_it_of_every_method_that_was_searched(tmp_path):
    """The largest rate for both; DPO learns from pairs. The base and methods without a search have no line."""
    command = "ift compare --dataset_name rows.jsonl"
    records = [
        record(method, seed, provenance=replace(PROVENANCE, command=command), **more)
        for method, more in (("sft", {}), ("dpo", {}), ("base", {"search": None}), ("ift", {"search": None}))
        for seed in (0, 1)
    ]
    (found,) = compare({tmp_path / f"{number}.json": one for number, one in enumerate(records)})
    sft, dpo = chosen_lines(found)
    assert sft.startswith(
        "sft: learning rate 0.001 was chosen from 2 settings, with the largest learning rate"
    )
    assert "try --learning_rates 0.001,0.003 with" in sft
    assert "try --pair_learning_rates 0.001,0.003 with" in dpo
    markdown = report_markdown([found], "exact_match", {})
    assert markdown.index("* sft: learning rate 0.001 was chosen") < markdown.index("### test")
    assert f"<li>{sft}</li>" in html_page([found])
    by_seed = replace(
        records[1], search=[Trial({"learning_rate": 1e-3}, 0.9), Trial({"learning_rate": 3e-3}, 0.1)]
    )
    by_seed = {
        tmp_path / "0.json": replace(records[0], search=tried(0.1, 0.9, 0.2)),
        tmp_path / "1.json": by_seed,
    }
    assert chosen_lines(compare(by_seed)[0]) == [
        "sft: chosen by seed: learning rate 0.003; learning rate 0.001."
    ]


def test_on_the_testbed_there_is_no_flag_for_rates(tmp_path):
    (found,) = compare({tmp_path / "0.json": record("sft", 0)})
    assert chosen_lines(found) == [
        "sft: learning rate 0.001 was chosen from 2 settings, with the largest learning rate tried: a higher one "
        "may be better."
    ]

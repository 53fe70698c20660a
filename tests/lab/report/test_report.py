"""`ift report` without a browser: groups and refusals, tables, figures, escaping, the same bytes again."""

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from small_records import HOSTILE, SCORES, ablation, comparison, record, write
from typer.testing import CliRunner

from ift.cli.main import app
from ift.lab.report import Cost, DataSplit, ReportError
from ift.lab.report.comparisons import compare, sweep
from ift.lab.report.figures import error_shares, image, pictures
from ift.lab.report.page import _rows, html_page
from ift.lab.report.tables import HOW_TO_READ, cost_table, report_markdown, score_table
from ift.lab.report.wording import json_for_script, label, markdown
from ift.runs.argv import named
from ift.text import visible


def grouped(records, *words):
    return compare({Path(f"run{number}.json"): one for number, one in enumerate(records)}, *words)


def run(*words):
    return CliRunner().invoke(app, ["report", *map(str, words)])


def test_a_report_says_where_everything_lies_and_is_the_same_again(tmp_path):
    """Also with the records named in another order."""
    runs = write([*comparison(2), *ablation(2)], tmp_path / "runs")
    done = run(runs, "--output_dir", tmp_path / "one")
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    for name in ("report.html", "report.md", "figures"):
        assert str(tmp_path / "one" / name) in said
        assert (tmp_path / "one" / name).exists()
    assert "21 runs, 2 comparisons" in said
    files = sorted(file for file in runs.rglob("*.json"))
    assert run(*reversed(files), "--output_dir", tmp_path / "two").exit_code == 0
    one, two = ({file.relative_to(tmp_path / name): file.read_bytes() for file in (tmp_path / name).rglob("*.*")}
                for name in ("one", "two"))  # fmt: skip
    assert one == two
    names = {file.name for file in one}
    drawn = {f"2-{name}" for name in ("score", "compute", "curves", "errors")} | {"1-lambda"}
    for name in drawn:
        assert {f"{name}.png", f"{name}.svg"} <= names
        assert ET.fromstring(one[Path("figures", f"{name}.svg")]).tag.endswith("svg")
        with Image.open(tmp_path / "one" / "figures" / f"{name}.png") as drawing:
            drawing.verify()
    for link in re.findall(r"\]\((.+?)\)", one[Path("report.md")].decode()):
        assert (tmp_path / "one" / link).exists()


def test_a_table_by_hand():
    """SFT 0.5 and 0.6, IFT 0.6 and 0.8: gains 10 and 20 points, half 12.7062 * 5 = 63.5 points."""
    runs = [
        record(method, seed, scores={"test": {"n": 10, "exact_match": score}})
        for method, scores in {"sft": (0.5, 0.6), "ift": (0.6, 0.8)}.items()
        for seed, score in enumerate(scores)
    ]
    (found,) = grouped(runs)
    assert score_table(found, "test").splitlines() == [
        "| method | exact match | minus sft, paired | by seed | n |",
        "| --- | --- | --- | --- | --- |",
        "| sft | 55.0 ± 63.5 % | – | 0: 50.0 %, 1: 60.0 % | 10 |",
        "| ift | 70.0 ± 127.1 % | +15.0 ± 63.5 points | 0: 60.0 %, 1: 80.0 % | 10 |",
    ]
    (found,) = grouped(runs, "ift", ["sft", "ift"])
    assert "minus ift, paired" in score_table(found, "test")
    heads = "| method | seconds | FLOPs | peak memory | models held | answers seen | labels |"
    assert cost_table(found).splitlines()[0] == heads


def test_a_table_has_one_notation_of_intervals():
    """Red when: a share whose interval reaches beyond 100 % is shown by its ends beside others with ±."""
    runs = [
        record(
            method,
            seed,
            scores={"test": {"n": 10, "exact_match": 0.5 + seed / 100, "stopped": 0.99 - seed / 100}},
        )
        for method in ("sft", "ift")
        for seed in (0, 1)
    ]
    (found,) = grouped(runs)
    cells = [cell["text"] for row in _rows([found], "exact_match") for cell in row["cells"]]
    for shown in (score_table(found, "test"), " | ".join(cells)):
        assert shown.count("50.5 ± 6.4 %") == shown.count("98.5 ± 6.4 %") == 2
        assert " to " not in shown
    assert "reaches beyond 0 or 100 %" in HOW_TO_READ


def test_methods_stand_in_a_sensible_or_the_asked_order():
    (found,) = grouped(comparison())
    assert [one.label for one in found.variants] == ["base", "sft", "dpo", "ift", "sft+dpo", "sft+ift"]
    (found,) = grouped(comparison(), None, ["ift", "sft"])
    assert [one.label for one in found.variants] == ["ift", "sft"]
    (found,) = grouped([record("ift", variant=f"lambda {value}", score=0.5) for value in (0.9, 0.1, 0.25)])
    assert [one.label for one in found.variants] == ["ift lambda 0.1", "ift lambda 0.25", "ift lambda 0.9"]


def test_what_cannot_be_compared_is_refused_with_the_files():
    other = record("ift", data={"test": DataSplit(500, "00" * 32)})
    with pytest.raises(
        ReportError, match=r"run0\.json and run1\.json: data\.test: one setting, .* different rows"
    ):
        grouped([record(), other])
    assert len(grouped([record(), replace(other, setting="another")])) == 2
    with pytest.raises(ReportError, match=r"run0\.json and run1\.json: two records of sft, seed 0"):
        grouped([record(), record()])
    runs = [record(seed=0, search=None), record(seed=1, search=None, config={"learning_rate": 1})]
    with pytest.raises(
        ReportError, match=r"config\.learning_rate: 0\.001 and 1 in two seeds of sft, and neither"
    ):
        grouped(runs)
    with pytest.raises(
        ReportError, match=r"--baseline: found 'sfd', which no record has; known: base, dpo, ift, sft"
    ):
        grouped(comparison(), "sfd")
    with pytest.raises(ReportError, match=r"--methods: found 'orpo', which no record has; known: base, dpo"):
        grouped(comparison(), None, ["sft", "orpo"])
    with pytest.raises(
        ReportError, match=r"--baseline: 'dpo' is not among the runs shown; add it to --methods"
    ):
        grouped(comparison(), "dpo", ["sft"])


def test_what_a_reader_must_know_is_said():
    searched = [
        record(seed=0),
        replace(record(seed=1), config={"learning_rate": 1.0, "residual_lambda": 0.0}),
    ]
    (found,) = grouped([*searched, record("ift", 1), record("ift", 2)])
    assert found.notes == [
        "sft: learning_rate was chosen for each seed: 0.001 (seed 0), 1.0 (seed 1).",
        "ift and sft have different seeds; paired over common ones: 1.",
        "The values of rows are not stored: these intervals are for other seeds, not for other rows.",
    ]
    broken = record("ift", 1, scores={"test": {"n": 5, "exact_match": None}})
    (found,) = grouped([record("ift", 0), broken])
    assert (
        found.notes[:2]
        == [
            "ift, seed 1: not a finite number: test.exact_match.",
        ]
        or "ift, seed 1: not a finite number: test.exact_match." in found.notes
    )
    assert (
        found.variants[0].estimate("test", "exact_match") is None
    )  # never a mean of the seeds that went well


def test_a_sweep_takes_what_differs_in_one_setting_alone():
    extra = record("ift", variant="gamma 0.5", experiment="ablate",
                   config={"learning_rate": 1e-3, "residual_lambda": 0.3, "propagation_gamma": 0.5})  # fmt: skip
    tuned = record("ift", variant="lambda 1", experiment="ablate",
                   config={"learning_rate": 3e-4, "residual_lambda": 1.0})  # fmt: skip
    (found,) = grouped([*ablation(), extra, tuned])
    (points,) = sweep(found, "residual_lambda").values()
    assert [value for value, _ in points] == [0.0, 0.1, 0.2, 0.4, 0.8, 1.0]  # what was searched may differ
    assert sweep(found, "propagation_gamma") == {}


def test_a_sweep_has_the_searched_variant_among_those_that_took_over_its_choice():
    """As `ift ablate` writes them: IFT as published is searched, the others have its learning rate and no search."""
    runs = [
        record("ift", seed, variant=variant, search=search, experiment="ablate",
               config={"learning_rate": 1e-3, "residual_lambda": value})
        for variant, value, search in (("", 0.2, record().search), ("lambda 0.4", 0.4, None)) for seed in range(2)
    ]  # fmt: skip
    (found,) = grouped(runs)
    (points,) = sweep(found, "residual_lambda").values()
    assert [value for value, _ in points] == [0.2, 0.4]


def test_places_of_errors_are_counted_over_all_answers_or_said_to_be_samples():
    """Of 10 answers with the first wrong step at 1, 1, 2: 20 % and 10 %."""
    scores = {"test": {"n": 10, "exact_match": 0.7}}
    (found,) = grouped([record(scores=scores, error_steps={"test": [2, 1]})])
    assert error_shares(found.variants[0], "test") == ([0.2, 0.1], True)
    (found,) = grouped([record(scores=scores, error_steps={})])  # samples: 4, three of them wrong at step 2
    assert error_shares(found.variants[0], "test") == ([0.0, 0.75], False)


def test_hostile_texts_in_markdown_stay_in_their_cell():
    shown = markdown(HOSTILE)
    assert "\n" not in shown
    assert not re.search(r"(?<!\\)[|<>`*\[\]]", shown)
    assert "\u202e" not in shown
    assert markdown("a|b\\|c & <b>") == "a\\|b\\\\\\|c &amp; \\<b\\>"
    (found,) = grouped([record(variant=HOSTILE, setting=HOSTILE)])
    page = report_markdown([found], "exact_match", {})
    for block in page.split("\n\n"):
        if block.startswith("|"):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
    assert not re.search(r"(?<!\\)<", page)


def test_hostile_texts_in_the_page_are_text():
    hostile = record("ift", variant=HOSTILE, setting=HOSTILE, config={HOSTILE: HOSTILE})
    page = html_page(grouped([hostile, record("sft", setting=HOSTILE)]))
    assert page.count("<script") == page.count("</script") == 2
    assert "<img src=x" not in page
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert json.loads(data)["samples"][0]["prompt"] == visible(HOSTILE)
    assert not set("<>&") & set(data)
    assert not re.search(r'\s(?:src|href|srcset|action)="(?!data:|#)', page)


def test_hostile_texts_in_what_is_printed_are_written_out(tmp_path):
    from ift.lab.report.writing import write as write_report

    runs = write([record("sft", seed, setting=HOSTILE) for seed in range(2)], tmp_path / "runs")
    said = write_report([str(runs)], tmp_path / "out", None, None, "exact_match")
    assert said[0].startswith("note: ")
    "".join(said).encode()


def test_scores_of_the_users_own_are_written_as_they_are_logged():
    """`last_number.right` of a function is not `last number.right` in tables or `Last_number.right` in figures."""
    assert [label(name) for name in ("exact_match", "last_number.right")] == [
        "exact match",
        "last_number.right",
    ]
    (one,) = grouped(comparison(2))
    titles = {metric: pictures(one, metric)[0].title for metric in ("my_score.Right", "json", "bleu")}
    assert list(titles.values()) == ["my_score.Right by method", "JSON equal by method", "BLEU by method"]


def test_json_in_a_script_cannot_end_it():
    text = "</script><!-- <script> \u2028 & \ud800"
    shown = json_for_script([text])
    assert not set("<>&\u2028") & set(shown)
    assert json.loads(shown) == [text]


def test_characters_that_turn_or_hide_text_are_written_out():
    assert visible("a\u202eb\u2066c\u200bd\x00e\ud800") == "a[U+202E]b[U+2066]c[U+200B]d[U+0000]e[U+D800]"
    assert visible("naïve 数学 שלום\n\tok") == "naïve 数学 שלום\n\tok"


def test_figures_take_texts_as_they_are():
    (found,) = grouped([record("sft", seed, setting="$x$", variant="$\\frac{$ _ %") for seed in range(2)])
    for picture in pictures(found):
        assert image(picture, "png").startswith(b"\x89PNG")


def test_the_verb_refuses_in_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    runs = write(comparison(1), tmp_path / "runs")
    for words, said in (
        ([tmp_path / "empty"], "no run records in"),
        ([tmp_path / "none"], "none: no such file or folder"),
        ([runs, "--metric", "f1"], "--metric: found 'f1', which no record has"),
        ([runs, "--methods", "sft,orpo"], "--methods: found 'orpo', which no record has"),
    ):
        done = run(*words, "--output_dir", tmp_path / "out")
        assert done.exit_code == 1
        assert said in done.output
        assert "Traceback" not in done.output
    assert not (tmp_path / "out").exists()


def test_one_seed_and_records_without_extras_still_make_a_report(tmp_path):
    bare = [
        record(method, search=None, error_steps={}, curves=[], samples=[], data={}, score=SCORES[method])
        for method in ("sft", "ift")
    ]
    bare = [replace(one, cost=Cost()) for one in bare]
    done = run(write(bare, tmp_path / "runs"), "--output_dir", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert [file.name for file in sorted((tmp_path / "out" / "figures").iterdir())] == [
        "1-score.png",
        "1-score.svg",
    ]


def test_names_with_commas_are_named_as_they_are():
    known = {"ift", "ift scale detached", "ift scale detached, lambda 0", "sft"}
    assert named("sft,ift scale detached, lambda 0 , ift", known) == [
        "sft",
        "ift scale detached, lambda 0",
        "ift",
    ]
    assert named("ift scale detached,sft,", known) == ["ift scale detached", "sft"]
    assert named("", known) == []


@pytest.mark.parametrize(
    ("name", "signed", "shown"),
    [
        ("sql", False, "52.3 ± 4.6 %"),
        ("sql", True, "+52.3 ± 4.6 points"),
        ("bleu", True, "+0.5 ± 0.0"),
        ("mean_length", False, "0.5 ± 0.0"),
        ("target_log_likelihood", False, "0.523 ± 0.046"),
    ],
)
def test_a_mean_has_as_many_digits_as_its_score_needs(name, signed, shown):
    from ift.lab.report.intervals import Estimate
    from ift.lab.report.wording import estimate

    assert estimate(Estimate(0.52345, 0.04567, 3), name, signed) == shown

"""What the answers of a study add to its records: values of rows, the share that differs, rows side by side."""

import json
from pathlib import Path

import pytest
from small_records import record

from ift.lab.report import find, pack, save
from ift.lab.report.answers import SHOWN, with_answers
from ift.lab.report.comparisons import compare
from ift.lab.report.intervals import crossed_interval
from ift.lab.report.page import html_page
from ift.lab.report.tables import report_markdown, score_table

ROWS = 60


def right(method, seed, row):
    """SFT is right at even rows; IFT at these and, with seed 1, at rows 1, 5, 9, ..."""
    return row % 2 == 0 or (method == "ift" and seed == 1 and row % 4 == 1)


def study(folder, *, scores=False, total=None):
    """Records and answers of two methods with two seeds."""
    for method in ("sft", "ift"):
        for seed in range(2):
            values = [float(right(method, seed, row)) for row in range(ROWS)]
            split = {"n": ROWS, "exact_match": sum(values) / ROWS if total is None else total}
            one = record(method, seed, scores={"test": split}, error_steps={}, samples=[], data={})
            save(one, folder / "runs" / f"{method}-seed{seed}.json")
            lines = [
                {"row": row, "prompt": f"p{row}", "target": "t", "answer": f"a{value:g}", "right": value == 1}
                | ({"scores": {"exact_match": value}} if scores else {})
                for row, value in enumerate(values)
            ]
            file = folder / "answers" / f"{method}-seed{seed}.jsonl"
            file.parent.mkdir(exist_ok=True)
            file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "runs"


@pytest.mark.parametrize("scores", [True, False])
def test_values_of_rows_pair_the_difference_by_row(tmp_path, scores):
    runs = study(tmp_path, scores=scores)
    (found,) = compare(with_answers(find([runs])))
    sft, ift = found.variants
    apart = [
        [float(right("ift", seed, row)) - right("sft", seed, row) for row in range(ROWS)] for seed in (0, 1)
    ]
    assert found.difference(ift, "test", "exact_match") == crossed_interval(apart, share=True)
    assert sft.estimate("test", "exact_match").rows == ROWS
    assert found.differing(ift, "test", "exact_match") == 15 / (2 * ROWS)
    assert found.differing(sft, "test", "exact_match") is None
    assert found.notes == []
    table = score_table(found, "test").splitlines()
    assert table[0] == "| method | exact match | minus sft, paired | rows that differ | by seed | n |"
    assert "| 12.5 % |" in table[3]


@pytest.mark.parametrize("scores", [True, False])
def test_a_base_model_is_compared_with_every_seed(tmp_path, scores):
    """Red when: its difference is that to seed 0 alone, and not that of the means in the same table."""
    runs = study(tmp_path, scores=scores)
    shared = {
        "scores": {"test": {"n": ROWS, "exact_match": 0.0}},
        "error_steps": {},
        "samples": [],
        "data": {},
    }
    values = {"row_scores": {"test": {"exact_match": [0.0] * ROWS}}} if scores else {}
    save(record("base", 0, **shared, **values), runs / "base-seed0.json")
    records = find([runs])
    (found,) = compare(with_answers(records) if scores else records, "ift")
    ift = next(one for one in found.variants if one.label == "ift")
    apart = found.difference(found.variants[0], "test", "exact_match")
    assert found.variants[0].label == "base"
    assert apart.mean == pytest.approx(-ift.estimate("test", "exact_match").mean)
    assert apart.mean != pytest.approx(-ift.scores("test", "exact_match")[0])
    assert apart.n == 2


def test_a_right_or_wrong_score_of_one_has_its_rows_without_their_values(tmp_path):
    """All rows are the same then. Red when: an answer that always stopped has ± 0.0 %, as if 60 rows were all rows."""
    for seed in range(2):
        scores = {"n": ROWS, "exact_match": 0.5, "stopped": 1.0}
        one = record("sft", seed, scores={"test": scores}, error_steps={}, samples=[], data={})
        save(one, tmp_path / f"sft-seed{seed}.json")
    ((sft,),) = (one.variants for one in compare(find([tmp_path])))
    assert sft.estimate("test", "stopped").half == pytest.approx(3 / ROWS)
    assert sft.rows("test", "exact_match") == {}


def test_without_answers_intervals_are_for_seeds_alone_and_a_sentence_says_so(tmp_path):
    runs = study(tmp_path)
    (found,) = compare(find([runs]))
    assert found.variants[0].estimate("test", "exact_match").rows is None
    assert found.notes == [
        "The values of rows are not stored: these intervals are for other seeds, not for other rows."
    ]
    assert "rows that differ" not in report_markdown([found], "exact_match", {})


def test_values_whose_mean_is_not_the_score_are_not_taken(tmp_path):
    """As sentence BLEU is not the corpus'."""
    (found,) = compare(with_answers(find([study(tmp_path, scores=True, total=0.9)])))
    assert found.variants[0].rows("test", "exact_match") == {}


def test_rows_where_methods_differ_stand_side_by_side(tmp_path):
    """15 rows differ, at one seed; each is in the page with the answers of all methods and seeds."""
    records = with_answers(find([study(tmp_path)]))
    for one in records.values():
        assert [sample.id for sample in one.samples] == [str(row) for row in range(1, ROWS, 4)]
        assert one.samples[0].answer == ("a1" if one.label == "ift" and one.seed == 1 else "a0")
    page = html_page(compare(records))
    assert '"id":"5"' in page
    assert '"id":"2"' not in page


def test_at_most_twenty_rows_are_shown_evenly_spread(tmp_path):
    for method, answer in (("sft", "a"), ("ift", "b")):
        save(record(method, 0, samples=[]), tmp_path / "runs" / f"{method}.json")
        lines = [
            {"row": row, "prompt": "p", "target": "t", "answer": answer, "right": None} for row in range(100)
        ]
        file = Path(tmp_path, "answers", f"{method}.jsonl")
        file.parent.mkdir(exist_ok=True)
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for one in with_answers(find([tmp_path / "runs"])).values():
        assert [sample.id for sample in one.samples] == [str(row) for row in range(0, 100, 100 // SHOWN)]


def test_a_packed_study_keeps_the_values_of_its_rows(tmp_path):
    """Those of answers beside it too, and to seven digits; so its intervals are those of the folder."""
    runs = study(tmp_path)
    pack([runs], tmp_path / "study.jsonl")
    (packed,), (whole,) = compare(find([tmp_path / "study.jsonl"])), compare(with_answers(find([runs])))
    for one, other in zip(packed.variants, whole.variants, strict=True):
        assert one.rows("test", "exact_match") == other.rows("test", "exact_match") != {}
    save(record(row_scores={"test": {"nll": [1 / 3]}}), tmp_path / "one" / "run.json")
    pack([tmp_path / "one"], tmp_path / "one.jsonl")
    (found,) = find([tmp_path / "one.jsonl"]).values()
    assert found.row_scores == {"test": {"nll": [0.3333333]}}


@pytest.mark.parametrize(
    ("metric", "values", "half"),
    [
        ("bleu", {"sft": [17.0] * ROWS, "ift": [17.0] * ROWS}, None),
        ("mine", {"sft": [0.0] * ROWS, "ift": [0.0] * ROWS}, None),
        ("rouge", {"sft": [0.0] * ROWS, "ift": [0.0] * ROWS}, None),
        ("sql", {"sft": [0.0] * ROWS, "ift": [0.0] * ROWS}, 3 / ROWS),
        ("mine", {"sft": [0.0, 1.0] * (ROWS // 2), "ift": [0.0, 1.0] * (ROWS // 2)}, 3 / ROWS),
    ],
)
def test_only_a_share_has_an_interval_where_no_row_differs(metric, values, half):
    """Red when: 3 / N, a share, is the interval of a score on another scale; or its lack is not explained."""
    runs = [
        record(method, seed, scores={"test": {"n": ROWS, metric: sum(rows) / ROWS}}, error_steps={}, samples=[],
               data={}, row_scores={"test": {metric: rows}})
        for method, rows in values.items() for seed in range(3)
    ]  # fmt: skip
    (found,) = compare({Path(f"{run.method}-{run.seed}.json"): run for run in runs})
    sft, ift = found.variants
    assert found.difference(ift, "test", metric).half == half
    said = [note for note in found.notes if "says nothing about other rows" in note]
    if half is None:
        assert sft.estimate("test", metric).half is None
        assert "±" not in score_table(found, "test", metric)
        (note,) = said
        value = {"bleu": "17", "mine": "0", "rouge": "0.0 %"}[metric]
        assert note.startswith(
            f"test.{metric}: every row has the value {value} with every method and seed, so all differences are 0. This"
        )
    else:
        assert said == []


def test_scores_of_which_some_are_the_same_everywhere_are_told_with_their_values():
    """The values and the differences, each with the methods that have them."""
    values = {"sft": [0.0, 2.0] * (ROWS // 2), "ift": [0.5, 2.5] * (ROWS // 2), "dpo": [3.0] * ROWS}
    runs = [
        record(method, seed, scores={"test": {"n": ROWS, "mine": sum(rows) / ROWS}}, error_steps={}, samples=[],
               data={}, row_scores={"test": {"mine": rows}})
        for method, rows in values.items() for seed in range(3)
    ]  # fmt: skip
    (found,) = compare({Path(f"{run.method}-{run.seed}.json"): run for run in runs})
    (note,) = [note for note in found.notes if "says nothing about other rows" in note]
    assert note.startswith(
        "test.mine: every row of every seed has the value 3 with dpo; every row of every seed differs from sft by 0.5 "
        "with ift. This"
    )

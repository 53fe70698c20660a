"""Several studies in one report: told apart by folder, the same runs once, and what to type where that cannot be."""

import json
from dataclasses import replace

import pytest
from small_records import record
from typer.testing import CliRunner

from ift.cli.main import app
from ift.lab.report import DataSplit, ReportError, find, pack, save
from ift.lab.report.comparisons import compare
from ift.lab.report.studies import default_metric, tell_apart
from ift.lab.report.writing import write


def study(folder, methods=("base", "sft", "ift"), seeds=(0, 1, 2), **changes):
    """The records of a study in its folder; the same arguments give the same ones."""
    for method in methods:
        for seed in (0,) if method == "base" else seeds:
            of_this = {} if method == "base" else changes
            one = record(method, seed, **{"scores": {"test": {"n": 9, "exact_match": 0.5}}, **of_this})
            save(one, folder / "runs" / f"{method}-seed{seed}.json")
    return folder


def labels(records):
    return sorted({one.label for one in records.values()})


def test_methods_of_one_label_are_told_apart_by_the_studys_folder(tmp_path):
    """Each with its scores; the base, which is the same in both, counts once."""
    better = {"scores": {"test": {"n": 9, "exact_match": 0.75}}}
    places = [study(tmp_path / "s1"), study(tmp_path / "s2", ("base", "sft", "ift", "dpo"), **better)]
    found = tell_apart(find(places))
    assert labels(found.records) == ["base", "dpo", "ift (s1)", "ift (s2)", "sft (s1)", "sft (s2)"]
    assert found.lines == [
        "1 run is in another folder too, with the same settings and scores: counted once",
        "ift is in several studies: ift (s1), ift (s2)",
        "sft is in several studies: sft (s1), sft (s2)",
    ]
    (one,) = compare(found.records, found.baseline(None))
    means = {variant.label: variant.estimate("test", "exact_match").mean for variant in one.variants}
    assert (one.baseline, means["ift (s1)"], means["ift (s2)"]) == ("sft (s1)", 0.5, 0.75)
    assert found.lines[-1] == "differences are from sft (s1); --baseline 'sft (s2)' changes that"
    assert found.baseline("sft (s2)") == "sft (s2)"
    with pytest.raises(
        ReportError, match=r"--baseline sft: .* give --baseline 'sft \(s1\)' or --baseline 'sft \(s2\)'"
    ):
        found.baseline("sft")


def test_studies_that_trained_on_other_rows_say_so(tmp_path):
    """Of one seed: with the rows of the testbed, other seeds have other rows. Red when: only the test rows count."""
    split = {"test": DataSplit(9, "t")}
    for name, rows, digest in (("s1", 64, "a"), ("s2", 56, "b")):
        study(tmp_path / name, ("sft",), data={**split, "train": DataSplit(rows, digest)}, config={"x": name})
    lines = tell_apart(find([tmp_path])).lines
    assert lines[-1] == (
        "they trained on different rows (s1 64 rows, s2 56 rows): a difference between studies may come from the rows"
    )
    study(tmp_path / "s2", ("sft",), data={**split, "train": DataSplit(64, "a")}, config={"x": "s2"})
    assert "different rows" not in " ".join(tell_apart(find([tmp_path])).lines)


def test_a_study_that_is_given_twice_counts_once_and_other_seeds_are_further_seeds(tmp_path):
    study(tmp_path / "s1")
    study(tmp_path / "copy")
    study(tmp_path / "later", ("sft", "ift"), seeds=(3, 4))
    (one,) = compare(tell_apart(find([tmp_path])).records)
    assert {variant.label: [*variant.runs] for variant in one.variants} == {
        "base": [0], "sft": [0, 1, 2, 3, 4], "ift": [0, 1, 2, 3, 4],
    }  # fmt: skip


def test_other_settings_of_other_seeds_are_another_method(tmp_path):
    """Not searched: else the seeds of one method would have two learning rates, which was refused."""
    study(tmp_path / "a" / "out", ("ift",), search=None)
    study(tmp_path / "b" / "out", ("ift",), seeds=(3, 4), search=None, config={"learning_rate": 0.5})
    assert labels(tell_apart(find([tmp_path])).records) == ["ift (a/out)", "ift (b/out)"]


def test_packed_studies_are_told_apart_by_their_file_and_stay_so(tmp_path):
    study(tmp_path / "s1")
    study(tmp_path / "s2", scores={"test": {"n": 9, "exact_match": 0.75}})
    for name in ("s1", "s2"):
        pack([tmp_path / name], tmp_path / f"{name}.jsonl")
    both = tell_apart(find([tmp_path / "s1.jsonl", tmp_path / "s2.jsonl"])).records
    assert labels(both) == ["base", "ift (s1)", "ift (s2)", "sft (s1)", "sft (s2)"]
    assert pack([tmp_path / "s1", tmp_path / "s2"], tmp_path / "both.jsonl") == 1 + 4 * 3
    assert labels(tell_apart(find([tmp_path / "both.jsonl"])).records) == labels(both)


def test_studies_on_other_rows_are_refused_with_what_to_type(tmp_path):
    study(tmp_path / "s1")
    study(tmp_path / "s2", ("sft", "ift"), data={"test": DataSplit(9, "ab" * 32)})
    found = CliRunner().invoke(app, ["report", str(tmp_path), "--output_dir", str(tmp_path / "out")])
    assert found.exit_code == 1
    said = f"make a report of each study: ift report {tmp_path / 's1'} --output_dir s1-report"
    assert f"scored on different rows, so they cannot be in one table; {said}" in found.output


def test_without_exact_match_the_studys_own_metric_is_taken_and_named(tmp_path, monkeypatch):
    for module in ("figures", "page"):  # draw nothing
        monkeypatch.setattr(f"ift.lab.report.{module}.pictures", lambda *given: [])
    scores = {"test": {"n": 9, "bleu": 20.0, "sql": 0.5, "stopped": 1.0, "target_log_likelihood": -3.0}}
    place = study(tmp_path / "s1", ("sft", "ift"), scores=scores)
    lines = write([str(place)], tmp_path / "out", None, None, None)
    assert lines[0].startswith("compared by BLEU (bleu); --metric gives another: sql, stopped, ")
    (place / "plan.json").write_text(json.dumps({"own": {"metric": "sql"}}))
    lines = write([str(place)], tmp_path / "out", None, None, None)
    assert lines[0].startswith("compared by SQL result equal (sql); ")
    assert "| method | SQL result equal |" in (tmp_path / "out" / "report.md").read_text()
    records = find([place])
    with_match = {
        file: replace(one, scores={"test": {"n": 9, "exact_match": 1.0}}) for file, one in records.items()
    }
    assert default_metric(with_match, ["sql", "exact_match"]) == "exact_match"

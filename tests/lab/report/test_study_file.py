"""A study in one file: what is packed is found, tables and figures are the same, bad lines are named."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from small_records import HOSTILE, ablation, comparison, record, write
from typer.testing import CliRunner

from ift.cli.main import app
from ift.lab.report import ReportError, find, pack, save
from ift.lab.report.comparisons import compare
from ift.lab.report.study import thinned
from ift.lab.report.tables import report_markdown


def run(*words):
    return CliRunner().invoke(app, ["report", *map(str, words)])


def files(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*.*")}


def test_a_packed_study_is_what_was_packed(tmp_path):
    """All but the metric of the curves that nothing draws; texts of any kind among it."""
    odd = record(
        "ift", 7, variant=HOSTILE, setting="a\u2028b\u0085c", config={"name": "x", "betas": [0.9, 1.0]}
    )
    runs = write(comparison(), tmp_path / "runs")
    save(odd, runs / "y.json")
    extra = record(
        "ift", 8, curves=[{"step": 1, "nll": 0.5, "tokens_per_second": 3.0}, {"step": 1, "train_loss": 2.0}]
    )
    save(extra, runs / "z.json")
    assert pack([runs], tmp_path / "new" / "study.jsonl") == 18
    assert os.listdir(tmp_path / "new") == ["study.jsonl"]
    found = find([tmp_path / "new" / "study.jsonl"])
    assert [*found] == [tmp_path / "new" / f"study.jsonl:{line}" for line in range(1, 19)]
    (*packed, last), (*others, _) = found.values(), find([runs]).values()
    assert [replace(one, curves=[]) for one in packed] == [replace(one, curves=[]) for one in others]
    for one, other in zip(packed, others, strict=True):
        for line, before in zip(one.curves, other.curves, strict=True):
            assert line == {name: pytest.approx(value, rel=5e-7) for name, value in before.items()}
    assert last == replace(extra, curves=[{"step": 1, "nll": 0.5}])


def test_a_report_of_the_file_is_that_of_the_folder(tmp_path):
    """Tables to the last byte; and all the rest, where curves have no digits to lose."""
    runs = write([*comparison(2), *ablation(2)], tmp_path / "runs")
    for path, one in find([runs]).items():
        short = [{name: float(f"{value:.6g}") if name != "step" else value for name, value in line.items()}
                 for line in one.curves]  # fmt: skip
        save(replace(one, curves=short), path)
    done = run(runs, "--pack", tmp_path / "study.jsonl")
    assert done.exit_code == 0, done.output
    assert re.search(r"study\.jsonl: 21 runs, [\d,]+ bytes", done.output.replace("\n", ""))
    assert not (tmp_path / "ift-report").exists()
    for source, out in ((runs, "one"), (tmp_path / "study.jsonl", "two")):
        assert run(source, "--output_dir", tmp_path / out).exit_code == 0
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert run(runs, "--output_dir", tmp_path / "one").exit_code == 0  # its own files are written again
    assert run(runs, "--pack", tmp_path / "study.jsonl").exit_code == 0
    for words, file in (
        (("--output_dir", tmp_path), "report.md"),
        (("--pack", tmp_path / "my.jsonl"), "my.jsonl"),
    ):
        (tmp_path / file).write_text("mine")
        refused = run(runs, *words)
        assert (refused.exit_code, (tmp_path / file).read_text()) == (1, "mine")
        assert f"{file}: this file exists" in refused.output.replace("\n", "")


def test_tables_are_the_same_however_thin_the_file_is(tmp_path):
    runs = write(comparison(), tmp_path / "runs")
    pages = []
    pack([runs], tmp_path / "study.jsonl", points=0, samples=0)
    for place in (runs, tmp_path / "study.jsonl"):
        pages.append(report_markdown(compare(find([place])), "exact_match", {}))
    assert pages[0] == pages[1]
    assert {len(one.curves) + len(one.samples) for one in find([tmp_path / "study.jsonl"]).values()} == {0}


def test_curves_are_thinned_evenly_with_both_ends():
    """Of 11 lines in training 5: 0, 2.5 (to even: 2), 5, 7.5 (8), 10. Lines of evaluation are thinned by themselves."""
    curve = [{"step": step, "nll": step + 1 / 3, "loss": 1.0} for step in range(11)]
    assert thinned(curve, 5) == [
        {"step": 0, "nll": 0.3333333},
        {"step": 2, "nll": 2.333333},
        {"step": 5, "nll": 5.333333},
        {"step": 8, "nll": 8.333333},
        {"step": 10, "nll": 10.33333},
    ]
    evaluated = [
        {"step": 5, "eval_nll": None},
        {"step": 10, "eval_nll": 0.25},
        {"step": 10, "train_loss": 1.0},
    ]
    assert thinned(curve[:6] + evaluated[:1] + curve[6:] + evaluated[1:], 2) == [
        {"step": 0, "nll": 0.3333333},
        {"step": 5, "eval_nll": None},
        {"step": 10, "nll": 10.33333},
        {"step": 10, "eval_nll": 0.25},
    ]
    assert thinned(curve, 0) == []
    assert len(thinned(curve, 50)) == 11


def test_the_first_problems_of_each_split_are_kept(tmp_path):
    one = record("ift")
    both = [*one.samples, *(replace(sample, split="longer") for sample in one.samples)]
    save(replace(one, samples=both), tmp_path / "runs" / "run.json")
    pack([tmp_path / "runs"], tmp_path / "study.jsonl", samples=3)
    (found,) = find([tmp_path / "study.jsonl"]).values()
    assert found.samples == [*both[:3], *both[4:7]]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not JSON .*; make the record again"),
        ("[1]", 'not the record of a run: it has no "format": "ift-run"; leave the line out'),
        ('{"format": "ift-run", "schema": 2}', "schema: found 2, this ift reads up to 1"),
        ('{"format": "ift-run", "schema": 1, "experiment": "x"}', "setting: this key is missing; add it"),
        ('{"format": "ift-run", "sead": 1}', "sead: unknown key; did you mean 'seed'"),
        (b"\xff", "not JSON .*utf-8"),
    ],
)
def test_a_bad_line_is_named_with_file_line_and_fix(tmp_path, line, said):
    study = tmp_path / "study.jsonl"
    pack([write(comparison(1), tmp_path / "runs")], study)
    lines = study.read_bytes().splitlines(keepends=True)
    study.write_bytes(
        b"".join([lines[0], b"\r\n", line.encode() if isinstance(line, str) else line, b"\n", *lines[1:]])
    )
    with pytest.raises(ReportError, match=f"{re.escape(str(study))}:3: {said}"):
        find([study])


def test_empty_lines_are_passed_over_and_an_empty_file_is_refused(tmp_path):
    study = tmp_path / "study.jsonl"
    pack([write(comparison(1), tmp_path / "runs")], study)
    count = len(find([study]))
    study.write_bytes(study.read_bytes().replace(b"\n", b"\r\n\r\n").rstrip())
    assert len(find([study])) == count
    study.write_text("\n\n")
    with pytest.raises(ReportError, match=r"study\.jsonl: no run records in it; make the file again"):
        find([study])


def test_folders_are_searched_for_studies_too(tmp_path):
    """Other JSON lines, such as a run's metrics, are passed over; lines stay in their order, past the ninth."""
    runs = write(comparison(), tmp_path / "runs")
    pack([runs], tmp_path / "all" / "deep" / "study.jsonl")
    (tmp_path / "all" / "metrics.jsonl").write_text('{"loss": 1.0, "step": 1}\n')
    assert [one.label for one in find([tmp_path / "all"]).values()] == [
        one.label for one in find([runs]).values()
    ]
    with pytest.raises(ReportError, match=r"metrics\.jsonl:1: not the record of a run"):
        find([tmp_path / "all" / "metrics.jsonl"])


def test_duplicates_are_refused_with_file_and_line(tmp_path):
    study = tmp_path / "study.jsonl"
    runs = write([record("ift"), record("sft")], tmp_path / "runs")
    pack([runs], study)
    other = json.loads(study.read_text().splitlines()[0])
    other["scores"]["test"]["exact_match"] = 0.123  # an equal record counts once
    study.write_text(study.read_text() + json.dumps(other) + "\n")
    with pytest.raises(ReportError, match=r"study\.jsonl:1 and .*study\.jsonl:3: two records of ift, seed 0"):
        compare(find([study]))
    before = study.read_bytes()
    with pytest.raises(ReportError, match=r"two records of ift, seed 0"):
        pack([runs, study], study)
    assert study.read_bytes() == before


def test_a_file_is_thinned_in_its_place_and_a_write_that_breaks_off_leaves_it(tmp_path, monkeypatch):
    study = tmp_path / "study.jsonl"
    pack([write(comparison(1), tmp_path / "runs")], study)
    before = study.read_bytes()
    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            pack([study], study, points=2)
    assert study.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["runs", "study.jsonl"]
    pack([study], study, points=2)
    assert {len(json.loads(line)["curves"]) for line in study.read_text().splitlines()} == {2}


def test_the_verb_refuses_in_one_line(tmp_path):
    runs, out = write(comparison(1), tmp_path / "runs"), tmp_path / "study.jsonl"
    for words, code, said in (
        (["--pack", tmp_path / "study.json"], 1, "study.json: the file's name must end in .jsonl"),
        (
            ["--pack", runs / "deep" / "study.jsonl"],
            1,
            "where its records would be found twice; write it elsewhere",
        ),
        (["--pack", out, "--pack_points", 1], 1, "found 1; give 2 or more, or 0 to leave the curves out"),
        (["--pack", out, "--pack_samples", -1], 1, "found -1; give 0 or more"),
        (
            ["--pack", out, "--metric", "stopped"],
            2,
            "--metric is for a report, and --pack writes none: leave it out",
        ),
        (["--pack_points", 3], 2, "--pack_points needs --pack: give both, or leave it out"),
    ):
        done = run(runs, *words)
        assert done.exit_code == code, done.output
        assert said in " ".join(done.output.split())
        assert "Traceback" not in done.output
    assert os.listdir(tmp_path) == ["runs"]
    assert not Path("ift-report").exists()

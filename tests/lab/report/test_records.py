"""Records: what is written is what is read; what is wrong is refused with file, key, found and fix."""

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from small_records import HOSTILE, record

import ift
from ift.lab.report import SCHEMA, ReportError, RunRecord, find, load, provenance, save
from ift.lab.report.provenance import clean_command


def test_a_record_comes_back_as_it_was(tmp_path):
    one = record(
        "sft+dpo", 3, variant=HOSTILE, config={"betas": [0.9, 0.99], "lambda": None, "name": "x", "on": True}
    )
    path = save(one, tmp_path / "deep" / "run.json")
    assert load(path) == one
    first, second = json.loads(path.read_text()), list(json.loads(path.read_text()))
    assert second[:2] == ["format", "schema"]
    assert first["schema"] == SCHEMA == 1
    assert os.listdir(path.parent) == ["run.json"]


def test_whole_numbers_stay_whole_and_fractions_take_them(tmp_path):
    one = load(
        save(record(config={"steps": 10, "rate": 1.0}, curves=[{"step": 5, "nll": 1}]), tmp_path / "r.json")
    )
    assert [type(value) for value in one.config.values()] == [int, float]
    assert type(one.curves[0]["step"]) is int
    assert type(one.scores["test"]["n"]) is float


def test_a_diverged_run_is_recorded(tmp_path):
    scores = {"test": {"n": 5, "exact_match": 0.0, "target_log_likelihood": -math.inf}}
    path = save(record(scores=scores, curves=[{"step": 1, "nll": math.nan}]), tmp_path / "run.json")
    assert load(path).scores["test"]["target_log_likelihood"] is None
    assert load(path).curves == [{"step": 1, "nll": None}]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": "one"}, "seed: found 'one'; give a whole number"),
        ({"seed": True}, "seed: found True; give a whole number"),
        ({"scores": {}}, "scores: found no split; give at least one"),
        (
            {"scores": {"test": {"exact_match": 1}}},
            "scores.test.n: found None; give the number of answers scored",
        ),
        ({"scores": {"test": {"n": "five"}}}, "scores.test.n: found 'five'; give a finite number"),
        ({"method": " "}, "method: found an empty text; name it"),
        ({"cost": {"seconds": -1}}, "cost.seconds: found -1.0; give 0 or more"),
        ({"cost": {"second": 1}}, "cost.second: unknown key; did you mean 'seconds'?"),
        ({"extra": 1}, "extra: unknown key; known: format, schema, experiment"),
        ({"data": {"test": {"rows": 1}}}, "data.test.sha256: this key is missing; add it"),
        ({"curves": [{"nll": 1.0}]}, "curves[0].step: found None; give a whole number"),
        ({"samples": [3]}, "samples[0]: found 3; give an object {...}"),
        (
            {"search": [{"config": {"x": {}}, "score": 1}]},
            "search[0].config.x: found {}; give a finite number or",
        ),
        ({"schema": 0}, "schema: found ift-run 0; give ift-run 1"),
        ({"schema": 2}, "schema: found 2, this ift reads up to 1; install a newer intuitive-fine-tuning"),
        ({"format": "other"}, 'not the record of a run: it has no "format": "ift-run"; leave the file out'),
    ],
)
def test_what_is_wrong_is_named_with_file_and_fix(tmp_path, changes, said):
    path = save(record(), tmp_path / "run.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ReportError, match=re.escape(f"{path}: {said}")):
        load(path)


def test_a_missing_key_and_broken_files_are_named(tmp_path):
    path = save(record(), tmp_path / "run.json")
    values = json.loads(path.read_text())
    del values["seed"]
    path.write_text(json.dumps(values))
    with pytest.raises(ReportError, match=r"run\.json: seed: this key is missing; add it"):
        load(path)
    path.write_text("{")
    with pytest.raises(ReportError, match=r"run\.json: not JSON .*; make the record again"):
        load(path)
    with pytest.raises(ReportError, match=r"none\.json: cannot be read"):
        load(tmp_path / "none.json")


def test_a_record_that_could_not_be_read_is_not_written(tmp_path):
    path = save(record(seed=1), tmp_path / "run.json")
    for wrong in (record(config={"model": object()}), record(seed=1.5), replace(record(), scores={})):
        with pytest.raises(ReportError, match=r"run\.json: not saved: "):
            save(wrong, path)
    assert load(path) == record(seed=1)
    assert os.listdir(tmp_path) == ["run.json"]


def test_a_write_that_breaks_off_leaves_the_old_record(tmp_path, monkeypatch):
    path = save(record(), tmp_path / "run.json")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save(record(seed=1), path)
    assert load(path) == record()
    assert os.listdir(tmp_path) == ["run.json"]


def test_folders_are_searched_and_other_json_is_passed_over(tmp_path):
    path = save(record(), tmp_path / "a" / "b" / "run.json")
    (tmp_path / "a" / "config.json").write_text('{"model_type": "llama"}')
    assert find([tmp_path, path]) == {path: record()}
    with pytest.raises(ReportError, match=r"config\.json: not the record of a run"):
        find([tmp_path / "a" / "config.json"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReportError, match=r"no run records in .*empty; name the output folder"):
        find([tmp_path / "empty"])
    with pytest.raises(ReportError, match="nowhere: no such file or folder"):
        find([tmp_path / "nowhere"])


def test_every_key_of_a_record_is_explained():
    text = (Path(__file__).parents[3] / "docs" / "report.md").read_text()
    for name in RunRecord.__dataclass_fields__:
        assert f"| `{name}`" in text, name


def test_provenance_holds_nothing_private(monkeypatch):
    """Of the machine no path, host or user; of the environment nothing."""
    import getpass
    import platform

    monkeypatch.setenv("HF_TOKEN", "sesame-open")
    words = [
        "compare",
        f"--output_dir={Path.cwd()}/runs",
        "--data",
        str(Path.home() / "rows.jsonl"),
        "--seeds=5",
    ]
    found = provenance(words)
    text = repr(found)
    assert found.command == "ift compare --output_dir=runs --data rows.jsonl --seeds=5"
    for private in ("sesame", str(Path.cwd()), str(Path.home()), sys.prefix, platform.node()):
        assert private not in text
    assert getpass.getuser() not in found.command
    assert found.versions["torch"]
    assert found.hardware["cores"] == os.cpu_count()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found.created)
    assert found.git_commit is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", found.git_commit)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--hub_token", "abc"], "ift --hub_token '***'"),
        (["--hub-token=abc"], "ift '--hub-token=***'"),
        (["--x=hf_0123456789abcdef"], "ift '--x=***'"),
        (["https://me:word@host/data.json"], "ift https://host/data.json"),
        (["--token_weights", "w.py:steep"], "ift --token_weights w.py:steep"),
        (["--max_new_tokens", "96", "--eos_token", "</s>"], "ift --max_new_tokens 96 --eos_token '</s>'"),
        (
            ["C:\\Users\\me\\rows.json", "~me/rows.json", "a/b/c", "a,/x/y/z"],
            "ift rows.json rows.json a/b/c a,z",
        ),
    ],
)
def test_the_command_keeps_what_is_needed(words, shown):
    assert clean_command(words) == shown


@pytest.mark.parametrize(
    ("script", "shown"),
    [
        ("/usr/local/bin/ift", "ift --seeds 3"),
        (str(Path(ift.__file__).parent / "cli" / "main.py"), "ift --seeds 3"),
        ("experiments/regimes/run.py", "python experiments/regimes/run.py --seeds 3"),
        ("/home/me/study.py", "python study.py --seeds 3"),
    ],
)
def test_the_command_of_this_process(monkeypatch, script, shown):
    monkeypatch.setattr(sys, "argv", [script, "--seeds", "3"])
    assert provenance(local_model=False).command == shown


def test_the_commit_is_that_of_the_repository_of_the_source(tmp_path, monkeypatch):
    module = sys.modules["ift.lab.report.provenance"]
    assert module._git_commit(tmp_path) is None  # no repository tracks the source from there

    def git(*words):
        identity = ["-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", tmp_path, *identity, *words], check=True, capture_output=True)

    git("init")
    (tmp_path / "provenance.py").write_text("")
    assert module._git_commit(tmp_path) is None
    git("add", ".")
    git("commit", "-m", "first")
    assert re.fullmatch("[0-9a-f]{40}", module._git_commit(tmp_path))
    (tmp_path / "provenance.py").write_text("changed")
    assert module._git_commit(tmp_path).endswith("-dirty")

"""The scripts of experiments/: rows from small files in the data sets' own formats, and the record of a study."""

import csv
import importlib.util
import json
import sqlite3
import sys
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


def script(monkeypatch, path):
    spec = importlib.util.spec_from_file_location(path.replace("/", "_"), EXPERIMENTS / f"{path}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def rows_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_rows_of_e2e(monkeypatch, tmp_path):
    def write(name, inputs):
        with (tmp_path / name).open("w", newline="", encoding="utf-8-sig") as file:
            lines = csv.writer(file)
            lines.writerows([("mr", "ref"), *inputs])
        return tmp_path / name

    dev = write("dev.csv", [("name[A]", "A is."), ("name[A]", "It is A."), ("name[B]", "B, it is.")])
    test = write("test.csv", [("name[C]", "C is."), ("name[C]", "It is C.")])
    script(monkeypatch, "e2e/make_rows").write_rows(dev, test, tmp_path / "rows")
    train, held_out = (rows_of(tmp_path / "rows" / f"{name}.jsonl") for name in ("train", "test"))
    assert {row["completion"][0]["content"] for row in train} <= {"A is.", "It is A.", "B, it is."}
    assert [row["prompt"][0]["content"].splitlines()[-1] for row in train].count("name[A]") == 1
    assert held_out[0]["references"] == ["C is.", "It is C."]
    assert held_out[0]["completion"] == [{"role": "assistant", "content": "C is."}]


def test_rows_of_geoquery(monkeypatch, tmp_path):
    with sqlite3.connect(tmp_path / "geo.sqlite") as connection:
        connection.execute("CREATE TABLE city (name TEXT)")
        connection.execute("INSERT INTO city VALUES ('rome')")
    connection.close()

    def sentence(part, **variables):
        return {"text": f"is {' or '.join(variables)} there", "variables": variables, "question-split": part}

    entries = [
        {"sql": ['SELECT name FROM city WHERE name = "var1" ;'],
         "sentences": [sentence("train", var1="rome"), sentence("test", var1="paris"), sentence("dev", var1="rome")]},
        {"sql": ['SELECT name FROM city WHERE name IN ("var1", "var10") ;'],
         "sentences": [sentence("test", var1="paris", var10="rome")]},
        {"sql": ["SELECT nothing FROM nowhere ;"], "sentences": [sentence("train", var1="rome")]},
    ]  # fmt: skip
    (tmp_path / "geo.json").write_text(json.dumps(entries))
    counts = script(monkeypatch, "geoquery/make_rows").write_rows(
        tmp_path / "geo.json", tmp_path / "geo.sqlite", tmp_path / "rows"
    )
    assert counts == {
        "train: kept": 1, "train: left out": 1, "test: kept": 1, "test: left out": 1, "dev: not used": 1
    }  # fmt: skip
    (row,) = rows_of(tmp_path / "rows" / "test.jsonl")
    assert row["prompt"][0]["content"].endswith("is paris or rome there")
    assert row["completion"][0]["content"] == 'SELECT name FROM city WHERE name IN ("paris", "rome") ;'


@pytest.fixture
def regimes(monkeypatch):
    return script(monkeypatch, "regimes/run")


def test_the_record_of_the_regimes_counts_right_answers(regimes, tmp_path):
    from dataclasses import asdict

    run = {
        "regime": "few",
        **asdict(regimes.REGIMES["few"]),
        "contender": "sft",
        "provenance": {"git_commit": "x"},
    }
    lines = [
        {**run, "seed": seed, "right": {"end": {"test": "1101", "longer": "0" * seed + "1"}}}
        for seed in (20, 21)
    ]
    (tmp_path / "few.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    regimes.pack([tmp_path / "few.jsonl"], tmp_path / "record.jsonl")
    first, second = rows_of(tmp_path / "record.jsonl")
    assert first["right"] == second["right"] == {"end": {"test": 3, "longer": 1}}
    assert (first["rows"], first["n"], first["provenance"]) == (48, regimes.PROBLEMS, {"git_commit": "x"})
    assert second.keys() == {"regime", "contender", "seed", "right"}


def test_every_contender_is_a_method_with_known_settings(regimes):
    from ift.methods.table import parse_methods

    for method, changes in regimes.CONTENDERS.values():
        (found,) = parse_methods(method)
        assert changes.keys() <= set(found.load()[1].__dataclass_fields__)

"""`ift compare --score`: rows that a score cannot take are refused, and runs end in records that hold the scores."""

import json
import re
import shutil
import sqlite3

import pytest
from typer.testing import CliRunner

from ift.cli.main import app
from ift.lab.compare import trial
from ift.lab.compare.run_study import report_study
from ift.lab.compare.split import Split
from ift.lab.compare.study import Study
from ift.lab.compare.study_args import StudyArgs
from ift.lab.compare.user_data import UserData
from ift.lab.compare.user_study import user_study
from ift.lab.report import load
from ift.lab.testbed import tiny_base_path
from ift.runs.argv import UsageError

WORDS = [
    "--max_length",
    "96",
    "--per_device_train_batch_size",
    "8",
    "--max_steps",
    "1",
    "--logging_steps",
    "1",
]
FUNCTION = (
    'def gold(prompt, answer, row): return {"right": answer == row["gold"], "n": len(row["references"])}'
)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with rows of SQL, their database and a function."""
    monkeypatch.chdir(tmp_path)
    with sqlite3.connect("city.sqlite") as connection:
        connection.execute("CREATE TABLE city (name TEXT, people INT)")
        connection.executemany("INSERT INTO city VALUES (?, ?)", [(f"c{n}", n) for n in range(20)])
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Which city has {n} people?"}],
            "completion": [{"role": "assistant", "content": f"SELECT name FROM city WHERE people = {n}"}],
            "references": [f"SELECT name FROM city WHERE people = {n}", f"SELECT 'c{n}'"],
            "gold": f"c{n}",
        }
        for n in range(20)
    ]
    write(rows)
    (tmp_path / "mine.py").write_text(FUNCTION)
    return rows


def write(rows):
    with open("rows.jsonl", "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def invoke(*words):
    model = ["--model_name_or_path", str(tiny_base_path()), "--dataset_name", "rows.jsonl", *WORDS]
    return CliRunner().invoke(app, ["compare", *model, "--output_dir", "out", *words])


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--score", "sqll"], 2, "--score sqll: unknown; did you mean sql"),
        (["--score", "sql"], 2, "need each other"),
        (["--score_db", "city.sqlite"], 2, "--score_db is for --score sql"),
        (["--score", "text", "--metric", "exact_match"], 2, "chosen by the first name in --score"),
        (["--score", "text", "--answer_pattern", "x"], 2, "--answer_pattern is for --score final-answer"),
        (["--score", "final-answer"], 2, "no kind of final answer is in all target answers"),
        (["--score", "json"], 1, "is no JSON"),
        (["--score", "sql", "--score_db", "none.sqlite"], 1, "--score_db none.sqlite: no such file"),
        (["--score", "mine.py:silver"], 1, "the file has no function 'silver'"),
        (["--score", "mine.py:gold,mine.py:gold"], 2, "the name is taken"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_training(place, tmp_path, words, code, said):
    found = invoke(*words)
    assert found.exit_code == code, found.output
    assert said in " ".join(found.output.split())
    assert not (tmp_path / "out").exists()


def test_a_reference_with_an_error_is_refused_before_training(place, tmp_path):
    for row in place:
        row["references"][1] = "SELECT noname FROM city"
    write(place)
    found = invoke("--score", "sql", "--score_db", "city.sqlite")
    assert found.exit_code == 1
    assert "fails: no such column: noname" in " ".join(found.output.split())
    assert not (tmp_path / "out").exists()


def test_held_out_rows_without_a_prompt_are_named(place):
    """One row without a prompt costs the answers of all. Red when: nobody is told which."""
    write([{"prompt": f"Say {n}:" if n % 2 else "", "completion": f" it is {n}"} for n in range(20)])
    lines = []
    study_of("--test_rows", "8", "--learning_rates", "1e-4", say=lines.append)
    (said,) = [line for line in lines if "no answers are generated" in line]
    assert re.search(r"[1-7] of 8 held-out rows ha(s|ve) no prompt \(rows? [0-9, ]+\)", said)
    found = invoke("--score", "contains", "--test_rows", "8", "--learning_rates", "1e-4")
    assert found.exit_code == 1
    assert re.search(r"--score: . of 8 held-out rows ha(s|ve) no prompt", " ".join(found.output.split()))


STUDY = """
model_name_or_path: {base}
dataset_name: rows.jsonl
max_length: 96
methods: [sft, ift]
seeds: 3
learning_rates: [1e-5, 3.0e-5]
score: text
test_rows: 4
"yes": false
max_new_tokens:
"""


def test_a_yaml_file_holds_the_flags_of_the_study_too(place, tmp_path):
    """As on the command line, which takes precedence; what is left is the training's, in the trials as well."""
    from ift.cli.compare import parse

    (tmp_path / "compare.yaml").write_text(STUDY.format(base=tiny_base_path()))
    args, words = parse("compare", ["--config", "compare.yaml", "--seeds", "2", "--output_dir", "out"])
    assert (args.methods, args.seeds, args.score, args.test_rows) == ("sft,ift", 2, "text", 4)
    assert args.learning_rates == (1e-5, 3e-5)
    assert (args.yes, args.max_new_tokens) == (None, None)
    assert words == ["--config", "compare.yaml"]
    (stage,) = UserData(words, ["sft", "ift"], {}, "text", None, 9).stages("ift", {}, "unused")
    assert stage.config.max_length == 96


def test_a_yaml_file_of_study_flags_alone_is_for_the_testbed(tmp_path, monkeypatch):
    from ift.cli.compare import parse

    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text("methods: sft,ift\nseeds: 4\n")
    args, words = parse("compare", ["--config", "study.yaml"])
    assert (args.methods, args.seeds, words) == ("sft,ift", 4, [])


@pytest.mark.parametrize(
    ("verb", "text", "said"),
    [
        ("compare", "seeds: many\n", "c.yaml, line 1: argument --seeds: invalid int value: 'many'"),
        ("ablate", "seeds: 3\nmethods: sft\n", "c.yaml, line 2: methods is no flag of ift ablate"),
        ("compare", "seeds: 1\n", "--seeds 1: an interval needs at least 2"),
        (
            "compare",
            "model_name_or_path: m\ndataset_name: d\nscore_dbb: 3\n",
            "unknown key 'score_dbb'; did you mean score_db?",
        ),
        ("compare", "test_rows: 3\n", "--test_rows is for your own data"),
    ],
)
def test_a_wrong_flag_of_the_study_in_the_file_is_named_with_its_line(
    tmp_path, monkeypatch, verb, text, said
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(text)
    found = CliRunner().invoke(app, [verb, "--config", "c.yaml", "--output_dir", "out"])
    assert found.exit_code == 2, found.output
    assert said in " ".join(found.output.split())


def study_of(*words, say=lambda line: None):
    from ift.cli.compare import parse

    model = ["--model_name_or_path", str(tiny_base_path()), "--dataset_name", "rows.jsonl", *WORDS]
    args, train_words = parse(
        "compare", [*model, "--methods", "sft", "--seeds", "2", "--output_dir", "out", *words]
    )
    assert isinstance(args, StudyArgs)
    return user_study(args, train_words, say)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--learning_rates", "1e-4,1e-3"], "settings are chosen by contains on the validation rows"),
        (["--learning_rates", "1e-4"],
         "methods are compared by contains; no settings are chosen, because each method has one candidate"),
        (["--learning_rates", "1e-4", "--methods", "sft,sft best of two rates"],
         "settings are chosen by contains on the validation rows"),
        (["--budget", "1h"],
         "if the time allows several settings per method, they are chosen by contains on the validation rows"),
    ],
)  # fmt: skip
def test_what_settings_are_chosen_by_is_said_where_some_are(place, flags, said):
    """Red when: one learning rate was given, and settings are said to be chosen."""
    lines = []
    study_of("--score", "contains", *flags, say=lines.append)
    assert [line for line in lines if "chosen" in line] == [said]
    (rows,) = [line for line in lines if " rows to train on, " in line]
    assert ("for validation, " in rows) == ("no settings are chosen" not in said)


def test_rules_of_the_models_folder_that_no_answer_follows_are_named(place, tmp_path):
    shutil.copytree(tiny_base_path(), tmp_path / "ruled")
    (tmp_path / "ruled" / "generation_config.json").write_text(
        '{"eos_token_id": 2, "repetition_penalty": 1.1}'
    )
    lines = []
    study_of("--score", "contains", "--model_name_or_path", str(tmp_path / "ruled"), say=lines.append)
    assert any(
        line.startswith("not used of generation_config.json: repetition_penalty 1.1;") for line in lines
    )


def test_without_a_search_all_rows_but_the_test_rows_are_trained(place):
    """Red when: rows are lost for training that nothing is chosen on."""
    lines = []
    study = study_of("--score", "contains", "--learning_rates", "1e-4", say=lines.append)
    assert (study.plan.validation_rows, study.plan.test_rows) == (0, 4)
    assert "16 rows to train on, 4 to test on; none for validation: there are no settings to choose" in lines
    split = Split.load(study.rows)
    assert (split.train_rows, len(split.validation), len(split.test)) == (16, 0, 4)
    again = study_of("--score", "contains", "--learning_rates", "1e-4", "--seeds", "3")
    assert again.plan.validation_rows == 0
    asked = study_of(
        "--score", "contains", "--learning_rates", "1e-4", "--validation_rows", "3", "--output_dir", "asked"
    )
    assert (asked.plan.validation_rows, Split.load(asked.rows).train_rows) == (3, 13)


def test_a_study_that_holds_out_validation_rows_without_a_search_resumes(place, monkeypatch):
    """Those of earlier versions did: a repeated command keeps their rows, and may add seeds."""
    words = ("--score", "contains", "--learning_rates", "1e-4")
    with monkeypatch.context() as patched:
        patched.setattr("ift.lab.compare.user_study._chooses", lambda plan: True)
        first = study_of(*words)
    assert first.plan.validation_rows == 2
    again = study_of(*words, "--seeds", "3")
    assert again.plan.user_data["sha256"] == first.plan.user_data["sha256"]
    assert again.plan.validation_rows == 2


def test_keys_of_the_evaluation_of_a_training_are_named_once_as_not_used(place, tmp_path):
    """Red when: the file of a training, as it is, stops the study with an error on a key that it has just ignored."""
    keys = ("eval_strategy: steps", "eval_steps: 2", "eval_generate: 4", "eval_score: text", "save_steps: 2",
            "load_best_model_at_end: true", "metric_for_best_model: eval_text")  # fmt: skip
    (tmp_path / "c.yaml").write_text("\n".join([*keys, "score: contains"]) + "\n")
    lines = []
    study = study_of("--config", "c.yaml", say=lines.append)
    (said,) = [line for line in lines if "not used" in line]
    assert said.startswith(
        "c.yaml: not used in a study: eval_strategy, eval_steps, eval_generate, eval_score, save_steps, "
        "load_best_model_at_end, metric_for_best_model. It"
    )
    assert "by what --score or `score` names" in said
    assert study.plan.metric == "contains"
    assert study.plan.user_data.get("file_settings") is None


def test_a_seed_of_the_order_of_the_rows_is_not_that_of_every_seed(place, tmp_path):
    """Red when: `data_seed` of the file of a training gives all seeds of a study the same order of the rows."""
    (tmp_path / "c.yaml").write_text("data_seed: 42\nscore: contains\n")
    lines = []
    study = study_of("--config", "c.yaml", say=lines.append)
    assert any(line.startswith("c.yaml: not used in a study: data_seed. ") for line in lines)
    (stage,) = UserData(**study.plan.user_data).stages("sft", {"seed": 1}, "unused")
    assert (stage.config.seed, stage.config.data_seed) == (1, None)
    with pytest.raises(
        UsageError, match="--data_seed is set by the study itself; each seed of --seeds draws"
    ):
        study_of("--data_seed", "1", "--score", "contains")


def fake_answers(monkeypatch, answer_of):
    """Answers in place of those that the tiny base would generate."""

    def answers(scorer, model, tokenizer, rows):
        sources = [json.loads(row["columns"]) for row in rows]
        return [
            {"row": row["row"], "prompt": "p", "target": source["references"][0], "answer": answer_of(source),
             "right": None, "stopped": True, "tokens": 3}
            for row, source in zip(rows, sources, strict=True)
        ]  # fmt: skip

    monkeypatch.setattr("ift.lab.compare.scoring.HeldOutScorer.answers", answers)


def test_a_study_is_scored_by_all_names_and_chosen_by_the_first(place, monkeypatch):
    lines = []
    names = (
        "--score",
        "sql,text,mine.py:gold",
        "--score_db",
        "city.sqlite",
        "--learning_rates",
        "1e-4",
        "--test_rows",
        "8",
    )
    study = study_of(*names, say=lines.append)
    assert "the target answers themselves score sql 1, text 1, gold.right 0, gold.n 2" in lines
    assert (
        "methods are compared by sql; no settings are chosen, because each method has one candidate" in lines
    )
    own = json.loads((study.folder / "plan.json").read_text())["own"]
    assert own["metric"] == "sql"
    assert {*own["scoring"]["sha256"]} == {"city.sqlite", "mine.py"}
    even = lambda text: int(text.rpartition("c")[2].rpartition(" ")[2]) % 2 == 0  # noqa: E731
    fake_answers(monkeypatch, lambda source: source["references"][0] if even(source["gold"]) else "SELECT x")
    for task in study.runs():
        file = task.result.with_suffix(".task.json")
        file.write_text(json.dumps(task.content))
        trial.main(str(file))
        file.unlink()
    record = load(study.folder / "runs" / "sft-seed0.json")
    right = sum(even(one.target) for one in record.samples) / len(record.samples)
    assert 0 < right < 1
    assert [*record.scores["test"]][:5] == ["n", "sql", "text", "gold.right", "gold.n"]
    assert {name: record.scores["test"][name] for name in ("sql", "text", "gold.right", "gold.n")} == {
        "sql": right, "text": right, "gold.right": 0, "gold.n": 2,
    }  # fmt: skip
    for one in record.samples:
        assert one.right == (one.scores["sql"] == 1) == even(one.target)
    written = [
        json.loads(line) for line in (study.folder / "answers" / "sft-seed0.jsonl").read_text().splitlines()
    ]
    assert [one["scores"] for one in written] == [one.scores for one in record.samples]
    result = report_study(study)
    assert result.metric == "sql"
    page = (study.folder / "report" / "report.md").read_text()
    assert (
        "| method | SQL result equal | minus sft, paired | rows that differ | by seed | n | text equal |"
        in page
    )
    assert record.row_scores["test"]["sql"] == [one["scores"]["sql"] for one in written]
    assert {*record.row_scores["test"]} == {*record.scores["test"]} - {"n"}
    for name, values in record.row_scores["test"].items():
        assert sum(values) / 8 == pytest.approx(record.scores["test"][name])


def test_another_database_is_another_study(place, tmp_path):
    names = ("--score", "sql", "--score_db", "city.sqlite")
    study_of(*names)
    study_of(*names)  # the same: it resumes
    with sqlite3.connect("city.sqlite") as connection:
        connection.execute("INSERT INTO city VALUES ('d', 100)")
    connection.close()
    with pytest.raises(RuntimeError, match=r"Another content of city\.sqlite"):
        study_of(*names)


def test_settings_are_chosen_by_the_first_score(place, monkeypatch):
    from ift.lab.compare.user_data import UserDataBackend

    pytest.importorskip("sacrebleu")
    (task,) = study_of("--score", "bleu,text").probe()
    backend = UserDataBackend(task.content)
    fake_answers(monkeypatch, lambda source: source["references"][0])
    monkeypatch.setattr(backend.scorer, "load", lambda folder: (None, None))
    monkeypatch.setattr(
        type(backend.scorer), "target_likelihood", lambda *_: {"target_log_likelihood_per_token": [-1.0]}
    )
    assert backend.choose("folder") == (pytest.approx(100), -1.0)


def test_without_score_nothing_of_it_is_in_the_plan(place):
    study = study_of()
    assert "scoring" not in json.loads((study.folder / "plan.json").read_text())["own"]
    assert {*study.plan.user_data["sha256"]} == {"train", "validation", "test"}
    assert isinstance(study, Study)

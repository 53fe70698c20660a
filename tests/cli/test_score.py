"""`ift score`: files of answers in the forms that verbs write them, and the values beside them."""

import json
import sqlite3

import pytest
from typer.testing import CliRunner

from ift.cli.main import app
from ift.generation.answer_files import write_answers
from ift.generation.answers import Turn
from ift.generation.prompts import read_prompts


@pytest.fixture
def invoke(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*words):
        done = CliRunner().invoke(app, ["score", *words])
        return done.exit_code, " ".join(done.output.split())

    return run


def write(name, rows):
    with open(name, "w") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def values(name="answers.scores.jsonl"):
    with open(name) as file:
        return [json.loads(line) for line in file]


def generated(path, rows, texts, name="answers.jsonl"):
    """What `ift generate` writes for these rows."""
    write("prompts.jsonl", rows)
    prompts = read_prompts(path / "prompts.jsonl")
    form = "alpaca-eval" if name.endswith("json") else "jsonl"
    write_answers(path / name, form, "m", prompts, [[Turn(text, True, 1)] for text in texts])


def test_answers_of_ift_generate(invoke, tmp_path):
    rows = [
        {"id": "a", "prompt": "one?", "completion": "One."},
        {"id": "b", "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "two"}]},
        {"id": "c", "prompt": "three?", "references": ["3", "three"], "completion": "no"},
    ]
    generated(tmp_path, rows, ["one", "2", "Three!"])
    code, said = invoke("answers.jsonl", "--score", "text,f1")
    assert code == 0, said
    assert "text equal 66.7 % 100.0 % token F1 66.7 % 100.0 %" in said.replace(
        "score answers right answers ", ""
    )
    assert "3 answers; the values of each: answers.scores.jsonl" in said
    assert values() == [
        {"id": "a", "scores": {"text": 1.0, "f1": 1.0}},
        {"id": "b", "scores": {"text": 0.0, "f1": 0.0}},
        {"id": "c", "scores": {"text": 1.0, "f1": 1.0}},
    ]


def test_rows_of_another_file_and_a_column_of_theirs(invoke, tmp_path):
    """Red when: the message about a row without a known column does not name its columns and the flag."""
    generated(tmp_path, [{"prompt": "a", "solution": "1"}, {"prompt": "b"}], ["1", "2"])
    code, said = invoke("answers.jsonl", "--score", "text")
    assert (code, "row 1: the right answer is None" in said) == (1, True)
    assert (
        "Columns of the row: prompt, solution; ift score takes another column with --reference NAME" in said
    )
    write("rows.jsonl", [{"gold": "1"}, {"gold": "3"}])
    assert invoke("answers.jsonl", "--score", "text", "--rows", "rows.jsonl", "--reference", "gold")[0] == 0
    assert [one["scores"]["text"] for one in values()] == [1, 0]
    write("rows.jsonl", [{"gold": "1"}])
    code, said = invoke("answers.jsonl", "--score", "text", "--rows", "rows.jsonl", "--reference", "gold")
    assert (code, "line 2: rows.jsonl has no row 2" in said) == (1, True)


def test_a_function_is_given_the_reference_as_target_and_only_scores_are_replaced(invoke, tmp_path):
    with open("mine.py", "w") as file:
        file.write("def same(prompt, answer, row): return answer.lower() == row['target'].lower()\n")
    generated(
        tmp_path,
        [{"prompt": "a", "reference": "One"}, {"prompt": "b", "reference": ["2", "two"]}],
        ["one", "2"],
    )
    for _ in range(2):  # its own file is written again
        assert invoke("answers.jsonl", "--score", "mine.py:same")[0] == 0
        assert [one["scores"]["same"] for one in values()] == [1, 1]
    generated(tmp_path, [{"prompt": "a", "gold": "One"}], ["one"])
    code, said = invoke("answers.jsonl", "--score", "mine.py:same")
    assert (code, "row 1: AttributeError" in said, "name its column (--reference" in said) == (1, True, True)
    assert invoke("answers.jsonl", "--score", "mine.py:same", "--reference", "gold")[0] == 0
    write("notes.jsonl", [{"id": "mine", "text": "x"}])
    code, said = invoke("answers.jsonl", "--score", "text", "--reference", "gold", "--output", "notes.jsonl")
    assert (code, "notes.jsonl: this file exists" in said) == (1, True)


def test_an_answer_is_never_taken_for_the_right_one(invoke, tmp_path):
    """A row of AlpacaEval's answers, instruction and output, is a row of Alpaca's training data too."""
    rows = [{"instruction": "say x", "dataset": "d", "reference": "x"}]
    generated(tmp_path, rows, ["y"], "answers.json")
    code, said = invoke("answers.json", "--score", "text")
    assert (code, "the right answer is None" in said) == (1, True)
    write("rows.jsonl", rows)
    assert invoke("answers.json", "--score", "text", "--rows", "rows.jsonl")[0] == 0
    assert values()[0]["scores"] == {"text": 0.0}


def test_answers_of_a_study_with_a_database(invoke):
    with sqlite3.connect("x.sqlite") as connection:
        connection.execute("CREATE TABLE t (a)")
    row = {"prompt": "p", "target": "SELECT count(*) FROM t", "right": None, "stopped": True, "tokens": 1}
    write("answers.jsonl", [{"row": 7, "answer": "SELECT 0", **row}, {"row": 9, "answer": "SELECT x", **row}])
    code, said = invoke(
        "answers.jsonl", "--score", "sql", "--score_db", "x.sqlite", "--output", "found.jsonl"
    )
    assert code == 0, said
    assert values("found.jsonl") == [{"id": "7", "scores": {"sql": 1.0}}, {"id": "9", "scores": {"sql": 0.0}}]


def test_final_answers(invoke):
    write("answers.jsonl", [{"prompt": "p", "output": "#### 1,000", "row": {"references": "so\n#### 1000"}}])
    assert invoke("answers.jsonl", "--score", "final-answer")[0] == 0
    assert values()[0]["scores"] == {"exact_match": 1.0}
    code, said = invoke("answers.jsonl", "--score", "text", "--answer_pattern", "####")
    assert (code, "--answer_pattern is for --score final-answer" in said) == (2, True)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"output": ["a", "b"], "reference": "x"}, "found several turns in output or answer"),
        (
            {"prompt": "a", "reference": "x"},
            "line 1: found None in output or answer (columns: prompt, reference)",
        ),
    ],
)
def test_lines_without_one_answer_are_refused(invoke, line, said):
    write("answers.jsonl", [line])
    code, found = invoke("answers.jsonl", "--score", "text")
    assert (code, said in found) == (1, True), found


def test_inputs_are_not_overwritten(invoke):
    write("answers.jsonl", [{"output": "a", "reference": "a"}])
    code, said = invoke("answers.jsonl", "--score", "text", "--output", "answers.jsonl")
    assert (code, "would replace an input" in said) == (1, True)

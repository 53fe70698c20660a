"""The score `judge`: what it costs is said and asked, nothing is paid for twice, and grades are in the records."""

import json

import pytest
from scripted_server import serving
from typer.testing import CliRunner

from ift.cli.main import app
from ift.lab.compare import run_study as running
from ift.lab.compare.plan import compare_plan
from ift.lab.compare.study import Study
from ift.lab.judge.errors import JudgeError
from ift.lab.report import load
from ift.lab.scores import Answer, score_answers, target_scores
from ift.lab.scores.judged import Grader, JudgeOptions, agree_to_cost, prompt_tokens
from ift.lab.testbed import tiny_base_path


def by_length(text, count):
    """Grades an answer by the letters it has; one that begins with `x` gets none."""
    answer = text.split("(to be graded)]\n")[1].split("\n[end")[0]
    return "I will not." if answer.startswith("x") else json.dumps({"reason": "", "score": len(answer)})


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with serving(by_length) as script:
        monkeypatch.setenv("IFT_JUDGE_BASE_URL", script.url)
        yield script


def test_grades_are_asked_once_and_an_answer_without_one_has_the_lowest(server, tmp_path):
    answers = [Answer(str(n), "p", text, "right", {}) for n, text in enumerate(["ab", "abcd", "x", "ab"])]
    grader = Grader(JudgeOptions("scripted", tmp_path / "judge"))
    assert grader.cost(answers) == (3, pytest.approx(3 * prompt_tokens(answers), abs=2))
    found = score_answers([grader.score()], answers)
    assert [row["judge"] for row in found.rows] == [2, 4, 1, 2]
    assert found.totals["judge"] == 9 / 4
    texts = [body["messages"][-1]["content"] for _, _, body in server.seen]
    assert all("[begin reference answer to the last turn]\nright" in text for text in texts)
    asked = len(server.seen)
    again = Grader(JudgeOptions("scripted", tmp_path / "judge"))
    assert again.cost(answers)[0] == 0
    score_answers([again.score()], answers)
    assert len(server.seen) == asked


def test_right_answers_are_not_paid_for(server, tmp_path):
    grader = Grader(JudgeOptions("scripted", tmp_path / "judge"))
    assert target_scores([grader.score()], [Answer("1", "p", "", "right", {})]) == {}
    assert server.seen == []


def test_the_cost_is_said_and_can_be_refused():
    said = []

    def refuse():
        raise JudgeError("not started")

    with pytest.raises(JudgeError, match="not started"):
        agree_to_cost("m", 1000, 200_000, (2.5, 10), said.append, refuse)
    assert said == [
        "judge: at most 1,000 requests to m, about 200,000 tokens in and 300,000 out, 3.50 at the given prices"
    ]
    agree_to_cost("m", 0, 0, None, said.append, refuse)  # nothing to pay for
    agree_to_cost("m", 1, 5, None, said.append, lambda: None)
    assert said[1].endswith("cost unknown (--prices)")


def test_files_of_answers_are_graded(server, tmp_path):
    rows = [{"prompt": "p", "completion": "c", "output": text} for text in ("abc", "abcde")]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["score", "answers.jsonl", "--score", "judge,text"]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 2
    assert "--score judge and --judge MODEL need each other" in found.output
    found = CliRunner().invoke(app, [*words, "--judge", "scripted"])
    assert found.exit_code == 1
    assert "there is no terminal to confirm the cost; add --yes" in found.output
    assert server.seen == []
    found = CliRunner().invoke(app, [*words, "--judge", "scripted", "--yes"])
    assert found.exit_code == 0, found.output
    assert "judge: at most 2 requests to scripted" in found.output
    assert "judge's grade 4 – text equal" in " ".join(found.output.split())


def rows_of(count):
    return [
        {"prompt": [{"role": "user", "content": f"What is {n}?"}],
         "completion": [{"role": "assistant", "content": f"It is {n}."}]}
        for n in range(count)
    ]  # fmt: skip


WORDS = [
    "compare", "--model_name_or_path", str(tiny_base_path()), "--dataset_name", "rows.jsonl", "--methods", "sft",
    "--seeds", "2", "--output_dir", "out", "--max_length", "96", "--max_steps", "1", "--score", "judge",
]  # fmt: skip


def test_a_study_says_what_its_judge_costs_before_it_trains(server, tmp_path, monkeypatch):
    """20 rows: 4 test rows by the base and two runs, and 2 validation rows by three trials."""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_of(20)))
    measured = dict.fromkeys(
        ("step_seconds", "steps", "start_seconds", "validation_row_seconds", "test_row_seconds"), 1.0
    )
    trained = []

    def perform(study, planned, done, started, timed=None):
        for task in planned:
            if not task.result.exists():
                trained.append(task.content["kind"])
                found = measured | {"peak_memory_bytes": 1, "weight_bytes": 1, "timed_seconds": 1}
                task.result.write_text(json.dumps(found))
                timed(task, 3.0)

    monkeypatch.setattr(Study, "perform", perform)
    found = CliRunner().invoke(app, [*WORDS, "--judge", "scripted", "--prices", "1,1"])
    assert found.exit_code == 1, found.output
    said = " ".join(found.output.split())
    assert f"judge: at most {3 * 4 + 3 * 2} requests to scripted, about " in said
    assert "at the given prices" in said
    assert "no terminal to confirm the cost" in said
    assert trained == ["probe"]
    assert server.seen == []
    own = json.loads((tmp_path / "out" / "plan.json").read_text())["own"]
    assert own["metric"] == "judge"
    assert own["scoring"]["judge"] == "scripted"


def test_finished_runs_are_not_counted_again(tmp_path):
    data = {
        "metric": "judge",
        "pattern": None,
        "scoring": {"names": ["judge"], "judge": "m", "prompt_tokens": 10},
    }
    plan = compare_plan("x", ["sft", "ift"], 2, 3, False, user_data=data, test_rows=100, validation_rows=10)
    study = Study(plan, tmp_path, "base", 1, [])
    study.open()
    said = []
    for task in study.searches(sequences=False)[:3]:
        task.result.write_text("{}")
    for name in ("base", "sft", "ift"):
        (tmp_path / "runs" / f"{name}-seed0.json").write_text("{}")
    running._agree_to_judge(study, None, said.append, lambda: None)
    assert f"at most {2 * 100 + 3 * 10} requests to m, about {10 * 230:,} tokens in" in said[0]


def test_a_run_s_record_has_the_grades(server, tmp_path, monkeypatch):
    from ift.cli.compare import parse
    from ift.lab.compare import trial
    from ift.lab.compare.user_study import user_study

    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_of(20)))
    args, words = parse("compare", [*WORDS[1:], "--judge", "scripted", "--learning_rates", "1e-4"])
    study = user_study(args, words, lambda line: None)
    answers = iter(["abcd", "abc", "ab", "x"])
    monkeypatch.setattr(
        "ift.lab.compare.scoring.HeldOutScorer.answers",
        lambda self, model, tokenizer, rows: [
            {"row": row["row"], "prompt": "p", "target": "t", "answer": next(answers), "right": None,
             "stopped": True, "tokens": 3} for row in rows
        ],
    )  # fmt: skip
    task = study.runs()[0]
    file = tmp_path / "task.json"
    file.write_text(json.dumps(task.content))
    trial.main(str(file))
    record = load(task.result)
    assert record.scores["test"]["judge"] == (4 + 3 + 2 + 1) / 4
    assert record.row_scores["test"]["judge"] == [4, 3, 2, 1]
    assert (study.folder / "judge" / "replies.sqlite").exists()


def test_without_an_endpoint_nothing_begins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("IFT_JUDGE_BASE_URL", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_of(20)))
    found = CliRunner().invoke(app, [*WORDS, "--judge", "m"])
    assert found.exit_code == 1
    assert "no endpoint: set IFT_JUDGE_BASE_URL" in found.output
    assert not (tmp_path / "out").exists()

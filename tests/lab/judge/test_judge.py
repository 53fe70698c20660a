"""`ift judge` from files to win rates and grades, against a judge whose verdicts are known."""

import json
import re

import pytest
from scripted_server import Script, serving
from typer.testing import CliRunner

from ift.cli.main import app
from ift.lab.report import load


def write(path, rows):
    lines = [json.dumps(row) for row in rows]
    path.write_text("[" + ",".join(lines) + "]" if path.suffix == ".json" else "\n".join(lines) + "\n")
    return path


def alpaca(path, outputs):
    return write(
        path, [{"instruction": f"Q{n}", "output": one, "generator": "m"} for n, one in enumerate(outputs)]
    )


def shown(text):
    """The two answers of a question, in the order in which they stand."""
    return re.findall(r"\[begin (?:answer|summary) [12]\]\n(.*?)\n\[end", text, re.DOTALL)


def by_points(text, count):
    """Answers are numbers: the larger one is better, equal ones tie."""
    first, second = (float(one) for one in shown(text))
    return json.dumps({"reason": "", "verdict": "1" if first > second else "2" if second > first else "tie"})


@pytest.fixture
def judge(monkeypatch, tmp_path):
    def run(script, *words, stdin=None):
        monkeypatch.setenv("IFT_JUDGE_BASE_URL", script.url)
        monkeypatch.setenv("IFT_JUDGE_API_KEY", "sk-secret")
        out = ("--output_dir", str(tmp_path / "out"), "--judge", "scripted")
        done = CliRunner().invoke(app, ["judge", *map(str, words), *out], input=stdin)
        return done.exit_code, done.output

    return run


def test_the_win_rate_whatever_the_order(judge, tmp_path):
    """3 > 1 and 5 > 2 are won, 1 < 2 and 0 < 9 lost, 4 = 4 tied: 2.5 of 5; the tie is one question in both orders."""
    first = alpaca(tmp_path / "ours.json", "35104")
    second = alpaca(tmp_path / "theirs.json", [*map(str, [1, 2, 2, 9, 4]), "only here"])
    with serving(by_points) as script:
        code, output = judge(script, first, second, "--yes", "--prices", "2.5,10")
        assert code == 0, output
        assert len(script.seen) == 9
        assert "win rate of ours against theirs: 50.0%" in output
        assert "5 pairs: 2 won, 1 tied, 2 lost; the same verdict in both orders 100%" in output.replace(
            "\n", " "
        )
        assert "1 prompts without an answer on the other side are left out" in output
        assert "9 requests to scripted" in output
        assert "900 tokens in and 90 out used by this run, 0.00 at the prices given" in output
        again = judge(script, first, second)  # without --yes: nothing is left to pay for
        assert again[0] == 0
        assert "0 requests" in again[1]
        assert len(script.seen) == 9
    record = load(tmp_path / "out" / "record.json")
    scores = record.scores["all"]
    assert (scores["n"], scores["win_rate"], scores["ties"], scores["missing"]) == (5, 0.5, 1, 0)
    assert (record.method, record.setting) == ("ours", "against theirs, judge scripted, prompts 1")
    for file in (tmp_path / "out").iterdir():
        assert b"sk-secret" not in file.read_bytes()
        assert script.url.encode() not in file.read_bytes()


def test_a_judge_that_likes_the_first_place_is_found_out(judge, tmp_path):
    """Every pair is one win each way: all ties, 50 %, and no verdict holds in both orders."""
    files = [alpaca(tmp_path / f"{name}.json", ["1", "2", "3"]) for name in "ab"]
    with serving(lambda text, count: '{"verdict": "1"}') as script:
        code, output = judge(script, *files, "--yes")
    assert code == 0, output
    text = output.replace("\n", " ")
    assert "a against b: 50.0%" in text
    assert (
        "0 won, 3 tied, 0 lost; the same verdict in both orders 0%, points for the answer shown first 100%"
        in text
    )


def test_a_pair_without_a_readable_verdict_is_left_out_and_told(judge, tmp_path):
    """The judge refuses wherever it sees the 7: one of three pairs; it is neither a tie nor a loss."""
    files = [alpaca(tmp_path / f"{name}.json", outputs) for name, outputs in (("a", "378"), ("b", "111"))]

    def refuse(text, count):
        return "I would rather not." if "7" in shown(text) else by_points(text, count)

    with serving(refuse) as script:
        code, output = judge(script, *files, "--yes")
    assert code == 0, output
    assert "a against b: 100.0%" in output
    assert "1 pairs have no readable verdict in some order and are left out" in output
    verdicts = [json.loads(line) for line in (tmp_path / "out/verdicts.jsonl").read_text().splitlines()]
    assert [one["points"] for one in verdicts] == [[1, 1], [None, None], [1, 1]]
    assert verdicts[1]["replies"] == ["I would rather not."] * 2


def test_a_stopped_run_goes_on(judge, tmp_path):
    files = [alpaca(tmp_path / f"{name}.json", outputs) for name, outputs in (("a", "345"), ("b", "111"))]
    with serving(
        lambda text, count: Script.status(400) if "Q2" in text else by_points(text, count)
    ) as script:
        code, output = judge(script, *files, "--yes")
        assert code == 1
        assert "refuses the request: HTTP 400" in output
        done = {body["messages"][1]["content"] for _, _, body in script.seen if "Q2" not in str(body)}
    with serving(by_points) as script:
        code, output = judge(script, *files, "--yes")
        assert code == 0, output
        assert len(script.seen) == 6 - len(done)
        assert "a against b: 100.0%" in output


def test_nothing_is_sent_before_the_cost_is_agreed_to(judge, tmp_path):
    files = [alpaca(tmp_path / f"{name}.json", "12") for name in "ab"]
    with serving(by_points) as script:
        code, output = judge(script, *files, "--prices", "1000000,0")
        assert code == 1
        assert "nobody is there to agree to that; say --yes" in output.replace("\n", " ")
        characters = int(re.search(r"about ([\d,]+) tokens in", output)[1].replace(",", ""))
        assert f"{characters:.2f} at the prices given" in output  # a million per million tokens
        assert script.seen == []


def test_summaries_against_the_reference_of_their_rows(judge, tmp_path):
    rows = [
        {"id": str(n), "model": "m", "messages": [{"role": "user", "content": f"Sum up: post {n}"}], "output": str(n),
         "row": {"prompt": f"Sum up: post {n}", "reference": "1"}}
        for n in range(3)
    ]  # fmt: skip
    with serving(by_points) as script:
        code, output = judge(
            script, write(tmp_path / "tldr.jsonl", rows), "--reference", "reference", "--summaries", "--yes"
        )
        assert "Two summaries of the same post" in script.seen[0][2]["messages"][1]["content"]
    assert code == 0, output
    assert "tldr against column reference: 50.0%" in output.replace("\n", " ")  # 0 < 1, 1 = 1, 2 > 1


def test_mt_bench_has_grades_by_category_and_turn(judge, tmp_path):
    """The grade is the length of the graded answer: math 1 and 2, writing 3 and 4; turn 1: 2.0, turn 2: 3.0."""
    questions = [
        {"question_id": 1, "category": "math", "turns": ["2+2?", "And more?"], "reference": ["4", "5"]},
        {"question_id": 2, "category": "writing", "turns": ["Write.", "Again."]},
    ]
    answers = [
        {"question_id": number, "model_id": "m", "choices": [{"index": 0, "turns": turns}]}
        for number, turns in ((1, ["a", "bb"]), (2, ["ccc", "dddd"]))
    ]

    def grade(text, count):
        graded = re.search(r"\(to be graded\)\]\n(.*?)\n\[end", text)[1]
        return json.dumps({"reason": "", "score": len(graded)})

    files = (
        write(tmp_path / "model.jsonl", answers),
        "--questions",
        write(tmp_path / "questions.jsonl", questions),
    )
    with serving(grade) as script:
        code, output = judge(script, *files, "--yes")
        asked = [body["messages"][1]["content"] for _, _, body in script.seen]
    assert code == 0, output
    scores = load(tmp_path / "out" / "record.json").scores
    assert {name: (one["n"], one["score"]) for name, one in scores.items()} == {
        "all": (4, 2.5), "turn 1": (2, 2.0), "turn 2": (2, 3.0), "math": (2, 1.5), "writing": (2, 3.5),
    }  # fmt: skip
    (second,) = [text for text in asked if "And more?" in text]
    assert "[begin assistant, turn 1]\na\n[end" in second  # its own first answer stands before
    assert "reference answer to the last turn]\n5\n" in second
    assert not any("reference answer to the last turn" in text for text in asked if "Write." in text)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("a.json", "missing.json"), 1, "cannot be read"),
        (("a.json", "c.json"), 1, "no prompt is in both files"),
        (("a.json", "--reference", "gold"), 1, "no row has that column"),
        (("a.json", "b.json", "--reference", "gold"), 1, "not both"),
        (("bench.jsonl",), 1, "question 1 is not known; give MT-Bench's question file with --questions"),
        (("rows.jsonl",), 1, "row 1: no answer in the columns text"),
        (("a.json", "--prices", "3"), 2, "--prices: found '3'"),
        (("a.json", "--threads", "0"), 2, "--threads: found 0"),
    ],
)
def test_mistakes_are_refused(judge, tmp_path, monkeypatch, words, code, message):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        alpaca(tmp_path / f"{name}.json", "12")
    write(tmp_path / "c.json", [{"instruction": "other", "output": "1"}])
    write(tmp_path / "bench.jsonl", [{"question_id": 1, "choices": [{"turns": ["a"]}]}])
    write(tmp_path / "rows.jsonl", [{"text": "a"}])
    with serving(by_points) as script:
        found, output = judge(script, *words, "--yes")
        assert script.seen == []
    assert found == code
    assert message in output.replace("\n", " ")

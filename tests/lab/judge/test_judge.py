"""`ift judge` from files to win rates and grades, against a judge whose verdicts are known."""

import functools
import json
import re

import pytest
from scripted_server import Script, serving
from typer.testing import CliRunner

from ift.cli.main import app
from ift.lab.progress import WorkProgress
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
        return done.exit_code, " ".join(done.output.split())  # lines are wrapped between words

    return run


def test_the_win_rate_whatever_the_order(judge, tmp_path):
    """3 > 1 and 5 > 2 are won, 1 < 2 and 0 < 9 lost, 4 = 4 tied: 2.5 of 5; the tie is one question in both orders."""
    first = alpaca(tmp_path / "ours.json", "35104")
    second = alpaca(tmp_path / "theirs.json", [*map(str, [1, 2, 2, 9, 4]), "only here"])
    with serving(by_points) as script:
        code, output = judge(script, first, second, "--yes", "--prices", "2.5,10")
        assert code == 0, output
        assert len(script.seen) == 9
        assert "win rate 50.0% [10.0%, 90.0%] of ours against theirs" in output
        assert "pairs 5: 2 won, 1 tied, 2 lost" in output
        assert "the same verdict in both orders for 100% of the pairs" in output
        assert "left out 1 prompt with an answer of one side only" in output
        assert "requests 9 to scripted" in output
        assert "tokens 900 in, 90 out used by this run, 0.00 at the given prices" in output
        again = judge(script, first, second)  # without --yes: nothing is left to pay for
        assert again[0] == 0
        assert "requests 0 to scripted" in again[1]
        assert "10 of 10 questions: judged before, or asked twice" in again[1]
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
    assert "win rate 50.0% [50.0%, 50.0%] of a against b" in output
    assert "3: 0 won, 3 tied, 0 lost" in output
    assert (
        "the same verdict in both orders for 0% of the pairs; the answer shown first got 100% of the points"
        in output
    )


def test_a_pair_without_a_readable_verdict_is_left_out_and_told(judge, tmp_path):
    """The judge refuses wherever it sees the 7: one of three pairs; it is neither a tie nor a loss."""
    files = [alpaca(tmp_path / f"{name}.json", outputs) for name, outputs in (("a", "378"), ("b", "111"))]

    def refuse(text, count):
        return "I would rather not." if "7" in shown(text) else by_points(text, count)

    with serving(refuse) as script:
        code, output = judge(script, *files, "--yes")
    assert code == 0, output
    assert "win rate 100.0% [100.0%, 100.0%] of a against b" in output
    assert "left out 1 pair without a verdict in both orders: 2 without a verdict in the text" in output
    verdicts = [json.loads(line) for line in (tmp_path / "out/verdicts.jsonl").read_text().splitlines()]
    assert [one["points"] for one in verdicts] == [[1, 1], [None, None], [1, 1]]
    assert verdicts[1]["replies"] == ["I would rather not."] * 2
    assert [one.get("problems") for one in verdicts] == [None, ["without a verdict in the text"] * 2, None]


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
        assert "win rate 100.0% [100.0%, 100.0%] of a against b" in output


def test_the_result_of_another_judgement_is_kept(judge, tmp_path):
    """Other answers, other answers in a file of the same name, and a record that cannot be read.

    Red when: a second comparison in the same folder replaces the verdicts of the first.
    """
    out = tmp_path / "out"
    a, b, c = (alpaca(tmp_path / f"{name}.json", outputs) for name, *outputs in ("a34", "b11", "c90"))
    (tmp_path / "other").mkdir()
    same_name = alpaca(tmp_path / "other/a.json", "77")

    def result(folder):
        return [(folder / file).read_bytes() for file in ("verdicts.jsonl", "record.json")]

    def earlier():
        return {folder.name: result(folder) for folder in (out / "earlier").glob("*")}

    with serving(by_points) as script:
        assert judge(script, a, b, "--yes")[0] == 0
        first = result(out)
        code, output = judge(script, a, c, "--yes")
        assert code == 0, output
        (name,) = earlier()
        assert re.fullmatch(r"a-against-b-judge-scripted-prompts-1-[0-9a-f]{8}", name)
        assert earlier()[name] == first
        assert (
            "earlier the result of another judgement (a against b, judge scripted, prompts 1) is now in"
            in output
        )
        asked = len(script.seen)
        code, output = judge(script, a, b)  # again, from the replies
        assert code == 0, output
        assert len(script.seen) == asked
        assert result(out)[0] == first[0]
        assert "is now in" not in judge(script, a, b)[1]
        assert judge(script, same_name, b, "--yes")[0] == 0
        assert len(earlier()) == 2  # the first and that against c
        assert earlier()[name][0] == first[0]
        (out / "record.json").write_text("{")
        code, output = judge(script, a, b)
        assert code == 0, output
        assert any(folder.startswith("unreadable-") for folder in earlier())


def test_nothing_is_sent_before_the_cost_is_agreed_to(judge, tmp_path):
    files = [alpaca(tmp_path / f"{name}.json", "12") for name in "ab"]
    with serving(by_points) as script:
        code, output = judge(script, *files, "--prices", "1000000,0")
        assert code == 1
        assert "there is no terminal to confirm the cost; add --yes to agree" in output
        characters = int(re.search(r"tokens about ([\d,]+) in", output)[1].replace(",", ""))
        assert f"{characters:.2f} at the given prices" in output  # a million per million tokens
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
    assert "win rate 50.0% [0.0%, 100.0%] of tldr against column reference" in output  # 0 < 1, 1 = 1, 2 > 1


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


def test_references_of_fastchat_replace_those_of_the_questions(judge, tmp_path):
    """Question 1 has them in both places, 2 in the question file alone, 3 nowhere."""
    questions = [
        {"question_id": 1, "turns": ["Q1", "R1"], "reference": ["old 1", "old 2"]},
        {"question_id": 2, "turns": ["Q2", "R2"], "reference": ["own 1"]},
        {"question_id": 3, "turns": ["Q3", "R3"]},
    ]
    answers = [{"question_id": n, "choices": [{"turns": ["a", "b"]}]} for n in (1, 2, 3)]
    references = [{"question_id": 1, "model_id": "gpt-4", "choices": [{"turns": ["new 1", "new 2"]}]}]
    with serving(lambda text, count: '{"score": 5}') as script:
        code, output = judge(
            script, write(tmp_path / "m.jsonl", answers), "--yes",
            "--questions", write(tmp_path / "question.jsonl", questions),
            "--reference-answers", write(tmp_path / "gpt-4.jsonl", references),
        )  # fmt: skip
        asked = [body["messages"][1]["content"] for _, _, body in script.seen]
    assert code == 0, output
    found = re.findall(r"\[begin reference answer to the last turn\]\n(.*)\n", "\n".join(asked))
    assert sorted(found) == ["new 1", "new 2", "own 1"]
    assert len(asked) == 6


def test_why_there_is_no_verdict_is_told(judge, tmp_path):
    """One of three pairs: cut in one order, refused in the other. With --limit 1 it is the only one."""
    files = [alpaca(tmp_path / f"{name}.json", outputs) for name, outputs in (("a", "738"), ("b", "111"))]

    def answer(text, count):
        if "7" not in shown(text):
            return by_points(text, count)
        if shown(text)[0] == "7":
            return {"choices": [{"message": {"content": None}, "finish_reason": "length"}]}
        return {"choices": [{"message": {"content": None, "refusal": "No."}, "finish_reason": "stop"}]}

    with serving(answer) as script:
        code, output = judge(script, *files, "--yes")
        assert code == 0, output
        reasons = "1 cut at --max_tokens (finish_reason length), 1 refused by the judge; raise --max_tokens"
        assert f"left out 1 pair without a verdict in both orders: {reasons}" in output
        assert "the endpoint did not count those of 2 responses" in output
        code, output = judge(script, *files, "--yes", "--limit", "1")
        assert code == 1
        assert f"there is no verdict: {reasons}. The replies are in" in output
        assert len(script.seen) == 6


def test_a_judge_with_its_own_temperature_is_told(judge, tmp_path):
    files = [alpaca(tmp_path / f"{name}.json", outputs) for name, outputs in (("a", "3"), ("b", "1"))]
    refusal = {"error": {"message": "'temperature' does not support 0 with this model"}}
    with serving(by_points, lambda body: refusal if "temperature" in body else None) as script:
        code, output = judge(script, *files, "--yes")
    assert code == 0, output
    assert "temperature the judge's default, because it does not accept 0" in output


def test_half_characters_are_judged_and_told(judge, tmp_path):
    files = [alpaca(tmp_path / "a.json", ["3\ud83d"]), alpaca(tmp_path / "b.json", ["1"])]
    with serving(
        lambda text, count: b'{"choices": [{"message": {"content": "{\\"verdict\\": 1} \\ud83d"}}]}'
    ) as script:
        code, output = judge(script, *files, "--yes")
        assert "3\ufffd" in script.seen[0][2]["messages"][1]["content"]
    assert code == 0, output
    assert "a.json: 1 row with half a character (a lone surrogate)" in output
    assert "\ufffd" in (tmp_path / "out/verdicts.jsonl").read_text(encoding="utf-8")


def test_progress_reaches_a_log(judge, tmp_path, monkeypatch):
    monkeypatch.setattr("ift.lab.judge.run.WorkProgress", functools.partial(WorkProgress, seconds=0))
    files = [alpaca(tmp_path / f"{name}.json", outputs) for name, outputs in (("a", "34"), ("b", "11"))]
    with serving(by_points) as script:
        _, output = judge(script, *files, "--yes")
        assert "1 of 4 done in 0:00:00 questions 2 of 4 done" in output
        _, output = judge(script, *files, "--yes")
        assert "done in" not in output  # nothing was asked


def test_ctrl_c_says_how_to_resume(judge, tmp_path, monkeypatch):
    def interrupt(*words):
        raise KeyboardInterrupt

    monkeypatch.setattr("ift.lab.judge.judging.Judge.judge", interrupt)
    files = [alpaca(tmp_path / f"{name}.json", "3") for name in "ab"]
    with serving(by_points) as script:
        code, output = judge(script, *files, "--yes")
    assert code == 130
    assert "ift judge: stopped. Repeat the command to resume." in output


def test_80_columns_are_enough(tmp_path, monkeypatch):
    """No flag or line of the help is cut; lines of a result end between words."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    done = CliRunner().invoke(app, ["judge", "--help"])
    assert "--requests_per_minute " in done.output
    assert "\u2026" not in done.output
    assert max(map(len, done.output.splitlines())) <= 80

    from ift.lab.judge.table import format_lines

    text = "word " * 40
    shown = format_lines([("label", text), ("path", "x" * 90), ("escape", "\x1b[2J")], 80).splitlines()
    assert max(map(len, shown[:-2])) <= 80
    assert " ".join(" ".join(shown[:-2]).split()) == f"label {text}".strip()
    assert shown[-1].endswith("[U+001B][2J")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("a.json", "missing.json"), 1, "cannot be read"),
        (("a.json", "c.json"), 1, "no prompt is in both files"),
        (("a.json", "--reference", "gold"), 1, "no row has a text in that column"),
        (("a.json", "b.json", "--reference", "gold"), 1, "not both"),
        (("bench.jsonl",), 1, "question 1 is not known; give MT-Bench's question file with --questions"),
        (("rows.jsonl",), 1, "row 1: no answer in the columns text"),
        (("a.json", "--prices", "3"), 2, "--prices: found '3'"),
        (("a.json", "--prices", "3,nan"), 2, "--prices: found '3,nan'"),
        (("a.json", "--threads", "0"), 2, "--threads: found 0"),
        (("a.json", "--requests-per-minute", "inf"), 2, "--requests_per_minute: found inf"),
        (("a.json", "--summaries"), 1, "--summaries is for comparisons"),
        (
            ("a.json", "--questions", "questions.jsonl"),
            1,
            "--questions is for MT-Bench's answer files, and there is",
        ),
        (("a.json", "b.json", "--reference_answers", "gold.jsonl"), 1, "--reference_answers is for grades"),
        (("a.json", "--reference_answers", "gold.jsonl"), 1, "has none of the questions that were answered"),
        (("out/verdicts.jsonl",), 1, "is an input and would be overwritten"),
        (("two.jsonl", "--reference", "gold"), 1, "prompt 1 has several turns"),
        (("objects.json", "b.json"), 1, "row 1, output: found {'text': 1}; give a text"),
    ],
)
def test_mistakes_are_refused(judge, tmp_path, monkeypatch, words, code, message):
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        alpaca(tmp_path / f"{name}.json", "12")
    write(tmp_path / "c.json", [{"instruction": "other", "output": "1"}])
    write(tmp_path / "bench.jsonl", [{"question_id": 1, "choices": [{"turns": ["a"]}]}])
    write(tmp_path / "rows.jsonl", [{"text": "a"}])
    write(tmp_path / "questions.jsonl", [{"question_id": 9, "turns": ["Q"]}])
    write(tmp_path / "gold.jsonl", [{"question_id": 9, "choices": [{"turns": ["a"]}]}])
    turns = {"messages": [{"role": "user", "content": "Q"}], "further": ["R"], "output": ["a", "b"]}
    write(tmp_path / "two.jsonl", [turns | {"row": {"gold": "a"}}])
    write(tmp_path / "objects.json", [{"instruction": "Q", "output": {"text": 1}}])
    with serving(by_points) as script:
        found, output = judge(script, *words, "--yes")
        assert script.seen == []
    assert found == code
    assert message in output

"""Files of answers as tools write them: read whole, remarked on, or refused by row before anything is sent."""

import json

import pytest

from ift.lab.judge.answers import CHOICES, EMPTY, SURROGATES, read_answers, read_by_question, read_references
from ift.lab.judge.errors import JudgeError

ASKED = [{"role": "user", "content": "Q"}]
FINE = {"instruction": "Q", "output": "A"}
PARTS = [{"type": "text", "text": "A "}, {"type": "text", "text": "B"}]
IMAGE = [{"type": "text", "text": "A"}, {"type": "image_url", "image_url": {"url": "x"}}]
QUESTIONS = {"81": {"question_id": 81, "turns": ["one", "two"], "category": "math"}}


@pytest.fixture
def read(tmp_path):
    def run(*rows, questions=None):
        path = tmp_path / "answers.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return read_answers(path, questions)

    return run


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"instruction": "Q", "output": {"answer": "A"}}, "output: found {'answer': 'A'}; give a text"),
        ({"instruction": "Q", "output": None}, "output: found None; give a text"),
        ({"instruction": "Q", "output": 7}, "output: found 7"),
        ({"instruction": "Q", "output": IMAGE}, "output: found"),
        ({"instruction": "Q", "output": []}, r"output: found \[\]"),
        ({"instruction": "Q", "output": ["A", "B"]}, "found 2 answers to 1 turn"),
        ({"instruction": ["Q", None], "output": "A"}, "instruction or input: found"),
        ({"messages": [], "output": "A"}, r"messages: found \[\]"),
        ({"messages": "Q", "output": "A"}, "messages: found 'Q'"),
        ({"messages": [{"role": "user", "content": None}], "output": "A"}, "messages: found None"),
        ({"messages": [{"role": "user", "content": IMAGE}], "output": "A"}, "messages: found"),
        ({"messages": ASKED, "further": ["more?"], "output": "A"}, "found 1 answer to 2 turns"),
        ({"question_id": 81, "choices": []}, "no answers in choices"),
        ({"question_id": 81, "choices": None}, "no answers in choices"),
        ({"question_id": 81, "choices": [{"index": 0}]}, "no answers in choices"),
        ({"question_id": 81, "choices": [{"turns": ["a", None]}]}, "turns: found None"),
        ({"question_id": 81, "choices": [{"turns": ["a"]}]}, "found 1 answer to 2 turns"),
        ({"question_id": 82, "choices": [{"turns": ["a"]}]}, "question 82 is not known"),
    ],
)
def test_what_cannot_be_judged_is_refused_by_row(read, row, message):
    with pytest.raises(JudgeError, match=f"answers.jsonl, row 2.*{message}"):
        read(FINE, row, questions=QUESTIONS)


def test_contents_in_parts_are_texts(read):
    answered = read(
        {"instruction": PARTS, "output": PARTS},
        {"messages": [{"role": "user", "content": PARTS}], "output": ""},
    ).answers
    assert [(one.turns, one.answers) for one in answered] == [(("A B",), ("A B",)), (("A B",), ("",))]


def test_tool_calls_before_the_answer_are_shown_to_the_judge(read):
    call = {"type": "function", "function": {"name": "add", "arguments": "{}"}}
    messages = [
        *ASKED,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "4"},
    ]
    (one,) = read({"messages": messages, "output": "A"}).answers
    assert one.turns == (f"user: Q\n\nassistant: {json.dumps([call])}\n\ntool: 4",)


def test_half_characters_and_further_choices_are_remarked_on(read):
    """An emoji that was cut by tokens; the whole one is kept."""
    choices = [{"turns": ["a", "b"]}, {"turns": ["c", "d"]}]
    found = read(
        {"instruction": "Q \ud83d", "output": "A \U0001f600 \ude00"}, FINE, {"question_id": 81, "choices": choices},
        questions=QUESTIONS,
    )  # fmt: skip
    assert found.answers[0].turns == ("Q \ufffd",)
    assert found.answers[0].answers == ("A \U0001f600 \ufffd",)
    assert found.answers[2].answers == ("a", "b")
    assert found.remarks == {SURROGATES: 1, CHOICES: 1}
    assert found.of_mt_bench == 1


def test_answers_to_an_empty_question_are_remarked_on(read):
    """They are judged, because the file has them. Red when: nobody is told."""
    found = read(
        FINE, {"instruction": " ", "output": "A"}, {"messages": ASKED, "further": [""], "output": ["A", "B"]}
    )
    assert len(found.answers) == 3
    assert found.remarks[EMPTY] == 2


def test_question_files_name_each_question_once(tmp_path):
    path = tmp_path / "question.jsonl"
    path.write_text('{"question_id": 1}\n{"question_id": 1}\n')
    with pytest.raises(JudgeError, match="row 2: question 1 is there twice"):
        read_by_question(path)
    path.write_text('{"id": 1}\n')
    with pytest.raises(JudgeError, match="row 1: no question_id"):
        read_by_question(path)


def test_references_are_those_of_fastchat(tmp_path):
    path = tmp_path / "gpt-4.jsonl"
    row = {
        "question_id": 101,
        "answer_id": "x",
        "model_id": "gpt-4",
        "choices": [{"index": 0, "turns": ["a", "b"]}],
    }
    path.write_text(json.dumps(row) + "\n")
    assert read_references(path) == {"101": ("a", "b")}
    path.write_text(json.dumps(row | {"choices": [{"index": 0, "turns": []}]}) + "\n")
    with pytest.raises(JudgeError, match="question 101: no answers in choices"):
        read_references(path)

"""A score of the user's own: what it is given, and messages that name the row."""

import pytest

from ift.lab.scores import Answer, ScoreError, load_scores, score_answers, target_scores

CODE = """
def words(prompt, answer, row):
    return len(answer.split()) - row["wanted"]

def parts(prompt, answer, row):
    row.clear()
    return {"prompt": prompt == "p", "length": len(answer)}

def same(prompt, answer, row):
    return answer == row["target"]

def picky(prompt, answer, row):
    return {"long": 1} if len(answer) > 3 else {"short": 1}

def raises(prompt, answer, row):
    return 1 / (len(answer) - 1)

def empty(prompt, answer, row):
    return answer.split()[0] == "x"

def nan(prompt, answer, row):
    return float("nan") if answer == "b" else 1

def text(prompt, answer, row):
    return "1"

def lower(prompt, answer, row):
    return answer.lower() == row["target"].lower()

not_a_function = 3
"""


@pytest.fixture
def score(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(CODE)
    return lambda name: load_scores([f"{file}:{name}"])


def rows(*texts):
    return [Answer(str(n), "p", text, "target", {"wanted": n}) for n, text in enumerate(texts, start=1)]


def test_a_function_gets_prompt_answer_and_row(score):
    found = score_answers([*score("words"), *score("parts")], rows("a b c", "d"))
    assert found.rows == [
        {"words": 2, "parts.prompt": 1, "parts.length": 5},
        {"words": -1, "parts.prompt": 1, "parts.length": 1},
    ]
    assert found.totals == {"words": 0.5, "parts.prompt": 1, "parts.length": 3}


def test_the_keys_for_an_empty_answer_and_for_the_right_one_must_be_the_same(score):
    said = r"row 1: found the keys short for an empty answer, and the keys long for the right one; return the same keys"
    with pytest.raises(ScoreError, match=said):
        target_scores(score("picky"), rows("a"))


def test_an_error_says_which_columns_there_are_and_that_there_is_no_right_answer(score):
    bare = Answer("7", "p", "a b", None, {"question": "q"})
    with pytest.raises(
        ScoreError, match=r"row 7: KeyError: .*; the row has the columns question, target; the row has no "
    ):
        score_answers(score("words"), [bare])
    with pytest.raises(
        ScoreError, match=r"AttributeError.*; the row has no right answer, so row\['target'\] is None"
    ):
        score_answers(score("lower"), [bare])


def test_a_function_sees_the_target_unless_a_column_has_its_name(score):
    own = Answer("3", "p", "mine", "target", {"target": "mine"})
    found = score_answers(score("same"), [*rows("target", "other"), own])
    assert [one["same"] for one in found.rows] == [1, 0, 1]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("raises", r"mine.py:raises: row 2: ZeroDivisionError: division by zero; the answer was 'b'"),
        ("nan", r"mine.py:nan: row 2: returned nan; return a finite number"),
        ("text", r"mine.py:text: row 1: returned '1'"),
        ("picky", r"picky: row 2: found the values picky.short, and picky.long for the first row"),
    ],
)
def test_what_goes_wrong_names_the_row(score, name, said):
    with pytest.raises(ScoreError, match=said):
        score_answers(score(name), rows("long answer", "b"))


def test_an_empty_answer_is_tried_before_there_are_answers(score):
    """A model gives some, and the trainings would be lost."""
    with pytest.raises(ScoreError, match="row 1: IndexError"):
        target_scores(score("empty"), rows(""))
    assert target_scores(score("words"), rows("")) == {"words": 0}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wrods", "the file has no function 'wrods'; did you mean words"),
        ("not_a_function", "the file has no function 'not_a_function'"),
    ],
)
def test_a_function_that_is_not_there(score, name, said):
    with pytest.raises(ScoreError, match=said):
        score(name)


def test_a_file_that_cannot_be_imported(tmp_path):
    with pytest.raises(ScoreError, match=r"nowhere.py: no such file"):
        load_scores([f"{tmp_path}/nowhere.py:x"])
    (tmp_path / "broken.py").write_text("import no_such_module_here")
    with pytest.raises(ScoreError, match="importing the file failed: ModuleNotFoundError"):
        load_scores([f"{tmp_path}/broken.py:x"])


def test_two_scores_of_one_name_are_refused(score, tmp_path):
    (tmp_path / "other.py").write_text("def words(prompt, answer, row): return 1")
    scores = [*score("words"), *load_scores([f"{tmp_path}/other.py:words"])]
    with pytest.raises(ScoreError, match="two scores are called words"):
        score_answers(scores, rows("a"))

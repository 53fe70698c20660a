"""Scores of two texts, by values worked by hand and by the libraries called directly."""

import pytest

from ift.lab.scores import Answer, ScoreError, load_scores, parse_names, score_answers, target_scores
from ift.lab.scores.texts import contains, normalised_text, same_json, same_text, token_f1
from ift.runs import extras
from ift.runs.argv import UsageError


def answer(text, *references, number=1, **row):
    return Answer(str(number), "prompt", text, references[0], {"references": [*references], **row})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  The   CAT.\n", "the cat"),
        ("“Ｆｕｌｌ width”!", "full width"),
        ("**Paris**", "paris"),
        ("-5", "-5"),
        (".5", ".5"),
        ("50 %", "50 %"),
        ("$5.", "$5"),
        ("don't.", "don't"),
        ("...", "..."),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
    ],
)
def test_texts_are_normalised(text, expected):
    assert normalised_text(text) == expected


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        ("It is Paris, in France", "paris", 1),
        ("It is Rome", "paris", 0),
        ("112", "12", 0),
        ("12,345", "12", 0),
        ("it is 12.", "12", 1),
        ("12.5", "12", 0),
        ("a.c", "abc", 0),
        ("x (a+b) y", "(a+b)", 1),
    ],
)
def test_contains(text, reference, expected):
    assert contains(text, reference) == expected


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        ('{"b": [1, 2.0], "a": null}', '{"a": null, "b": [1.0, 2]}', 1),
        ('```json\n{"a": 1}\n```', '{"a": 1}', 1),
        ('{"a": true}', '{"a": 1}', 0),
        ("[1, 2]", "[2, 1]", 0),
        ("0.1", "0.10", 1),
        ("1e400", "1e401", 0),
        ("NaN", "NaN", 0),
        ("not json", "1", 0),
        ("", "1", 0),
        ("[" * 200_000, "1", 0),
        ("9" * 300_000, "1", 0),
        ("1e" + "9" * 30, "1", 0),
        ('"' + "x" * 3_000_000 + '"', "1", 0),
    ],
)
def test_json_is_equal_as_values(text, reference, expected):
    assert same_json(text, reference) == expected


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        ("The cat sat.", "a cat sat down", 2 * (2 / 2 * 2 / 3) / (2 / 2 + 2 / 3)),
        ("cat cat", "cat", 2 / 3),
        ("dog", "cat", 0),
        ("the", "an", 1),
        ("", "cat", 0),
    ],
)
def test_f1_is_that_of_squad(text, reference, expected):
    assert token_f1(text, reference) == pytest.approx(expected)


def test_the_best_reference_counts_and_a_row_without_references_has_its_target():
    (score,) = load_scores(["text"])
    assert score.of_row(answer("two", "one", "two")) == 1
    assert score.of_row(Answer("1", "", "three", "three")) == 1
    assert score.of_row(Answer("1", "", "b", "a", {"reference": "b"})) == 1
    assert score.of_row(Answer("1", "", "c", "a", {"references": ["b"], "gold": "c"}, "gold")) == 1
    assert same_text("x", "y") == 0
    for wrong in ([], [None], "", [""], 3):
        with pytest.raises(ScoreError, match="row 7: the right answer is"):
            score.of_row(Answer("7", "", "c", "a", {"references": wrong}))
    with pytest.raises(ScoreError, match="in gold"):
        score.of_row(Answer("7", "", "c", "a", {}, "gold"))


ANSWERS = [
    ("the cat sat on the mat", ["the cat sat on a mat", "there is a cat on the mat"]),
    ("a dog", ["a small dog runs"]),
    ("", ["nothing to say here", "x", "y"]),
]


def test_bleu_and_chrf_are_sacrebleu_s():
    sacrebleu = pytest.importorskip("sacrebleu")
    answers = [answer(text, *references) for text, references in ANSWERS]
    found = score_answers(load_scores(["bleu", "chrf"]), answers)
    texts = [text for text, _ in ANSWERS]
    streams = [
        ["the cat sat on a mat", "a small dog runs", "nothing to say here"],
        ["there is a cat on the mat", None, "x"],
        [None, None, "y"],
    ]
    assert found.totals == {
        "bleu": sacrebleu.corpus_bleu(texts, streams).score,
        "chrf": sacrebleu.corpus_chrf(texts, streams).score,
    }
    for row, (text, references) in zip(found.rows, ANSWERS, strict=True):
        assert row["bleu"] == sacrebleu.sentence_bleu(text, references).score
        assert row["chrf"] == sacrebleu.sentence_chrf(text, references).score
    assert found.totals["bleu"] != pytest.approx(sum(row["bleu"] for row in found.rows) / 3)
    for name, of_corpus in (("bleu", sacrebleu.corpus_bleu), ("chrf", sacrebleu.corpus_chrf)):
        left_out = [of_corpus(texts[1:], [stream[1:] for stream in streams]).score]
        left_out += [of_corpus([texts[0], texts[2]], [[one[0], one[2]] for one in streams]).score]
        parts, total = found.parts[name], found.totals[name]
        assert sum(parts) / 3 == pytest.approx(total)
        assert parts[0] - parts[1] == pytest.approx(2 * (left_out[1] - left_out[0]))


def test_rouge_is_rouge_score_s_f_measure_of_the_best_reference():
    pytest.importorskip("rouge_score")
    found = score_answers(load_scores(["rouge"]), [answer(text, *refs) for text, refs in ANSWERS])
    # 5 of 6 words in order of 6; "a" and "dog" of 2 and 4; nothing
    expected = [5 / 6, 2 * 1 * 0.5 / 1.5, 0]
    assert [row["rouge"] for row in found.rows] == pytest.approx(expected)
    assert found.totals["rouge"] == pytest.approx(sum(expected) / 3)


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ImportError, match=r"sacrebleu is missing. Fix: pip install 'intuitive-fine-tuning\[scores\]'"
    ):
        load_scores(["bleu"])
    with pytest.raises(ImportError, match=r"rouge_score is missing.*\[scores\]"):
        load_scores(["rouge"])


@pytest.mark.parametrize(
    ("names", "database", "said"),
    [
        ("blue", None, "--score blue: unknown; did you mean bleu"),
        ("judges", None, "choose from final-answer, text"),
        ("", None, "no name"),
        ("text,text", None, "the name is taken"),
        ("f.py:stopped", None, "the name is taken"),
        ("f.py:empty", None, "the name is taken"),
        ("sql", None, "need each other"),
        ("text", "x.sqlite", "need each other"),
    ],
)
def test_wrong_names_are_usage_errors(names, database, said):
    with pytest.raises(UsageError, match=said):
        parse_names(names, database)


def test_final_answers_need_one_in_every_reference():
    (score,) = load_scores(["final-answer"], pattern="####")
    assert score.name == "exact_match"
    assert score.of_row(answer("so\n#### 1,000", "#### 1000")) == 1
    assert score.of_row(answer("1000", "#### 1000")) == 0
    with pytest.raises(ScoreError, match=r"row 3: the right answer '1000' has no final answer \(####\)"):
        target_scores([score], [answer("", "1000", number=3)])


def test_what_the_right_answers_score_is_found_before_there_are_answers():
    scores = load_scores(["json", "f1"])
    assert target_scores(scores, [answer("", "[1]"), answer("", "[2]")]) == {"json": 1, "f1": 1}
    with pytest.raises(ScoreError, match=r"json: row 2: the reference 'x' is no JSON"):
        target_scores(scores, [answer("", "[1]"), answer("", "[2]", "x", number=2)])

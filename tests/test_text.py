"""What is shown: the name that a mistyped one may stand for, and the text of tokens.

What `visible` writes out is in tests/lab/report.
"""

import ast
import re
from itertools import pairwise
from pathlib import Path

import pytest

import ift
from ift.text import BROKEN, PART, counted, did_you_mean, quoted, token_texts


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tempratures", "; did you mean temperature?"),
        ("top_q", "; did you mean top_p?"),
        ("zzz", ""),
        ("", ""),
    ],
)
def test_the_nearest_known_name_is_offered_and_none_where_none_is_near(name, said):
    assert did_you_mean(name, ["temper", "temperature", "top_p"]) == said


def test_a_name_is_near_from_a_ratio_of_six_tenths():
    """difflib's ratio is 2 x the matching characters / all characters: 6 / 10, and 6 / 11."""
    assert did_you_mean("abcxx", ["abcyy"]) == "; did you mean abcyy?"
    assert did_you_mean("abcxx", ["abcyyy"]) == ""


def test_the_names_may_be_keys_and_the_near_one_is_shown_as_asked():
    assert did_you_mean("seeds", {"seed": 1}, repr) == "; did you mean 'seed'?"
    assert did_you_mean("seeds", {"seed": 1}, "--{}".format) == "; did you mean --seed?"
    assert did_you_mean("zzz", {"seed": 1}, repr) == ""


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("warmup_ratio", "residual_warmup_ratio"),
        ("bf16", "fp16"),
        ("adam_beta3", "adam_beta1"),
        ("min_steps", "max_steps"),
    ],
)
def test_a_name_that_means_something_else_is_not_offered(name, other):
    assert did_you_mean(name, [other]) == ""


def test_a_foreign_message_is_quoted_without_its_full_stop():
    assert quoted(OSError("No such file.\nCheck the path. ")) == "No such file. Check the path"
    assert quoted(ValueError()) == "ValueError"


def test_no_foreign_message_is_followed_by_a_second_full_stop():
    """Where the text of an exception comes before words of ours, `quoted` takes its own full stop away."""
    doubled = re.compile(r"\{(?:str\()?(?:error|exception)\b[^{}]*\}(?:\. |\.\")")
    found = [
        f"{file.name}: {line.strip()}"
        for file in Path(ift.__file__).parent.rglob("*.py")
        for line in file.read_text(encoding="utf-8").splitlines()
        if doubled.search(line) and "strerror" not in line
    ]
    assert found == []
    assert doubled.search('f"cannot be loaded: {error}. Fix"')


@pytest.mark.parametrize(
    ("number", "words", "said"),
    [
        (1, ["row"], "1 row"),
        (0, ["row"], "0 rows"),
        (1234, ["row"], "1,234 rows"),
        (1, ["process", "processes"], "1 process"),
        (2, ["process", "processes"], "2 processes"),
    ],
)
def test_a_number_has_its_noun(number, words, said):
    assert counted(number, *words) == said


PLURAL = re.compile(
    r" (?:[a-z-]+ )?(?:rows|steps|seeds|prompts|answers|processes|tokens|questions|runs|tasks|trials|pairs|examples|"
    r"entries|turns|items|sequences|requests|cores|problems|machines)\b"
)
NEVER_ONE = {  # limits and lengths that are more than one, and counts that are looked at before
    "CHECKED_ROWS", "MOST_ROWS", "FEWEST_SEEDS", "FIRST_QUESTIONS", "BATCH", "twice", "trainings", "validation",
    "_steps(train)", "len(train)", "len(double)", "len(group)", "machines", "result.steps", "tokens", "length",
    "longest", "longest_row", "self._longest", "self.max_length", "trainer.args.max_length", "report.lengths[2]",
    "left", "study.plan.seeds", "smallest['seeds']",
}  # fmt: skip
NO_NUMBERS = {"name", "role", "whole", "answer", "pair", "baseline", "run.config.get(key)"}


def test_numbers_before_a_plural_are_counted():
    """Red when: a message says "1 rows". `counted` gives a number its noun."""
    found, known = set(), NEVER_ONE | NO_NUMBERS
    for file in sorted(Path(ift.__file__).parent.rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        assert "(es)" not in text
        for node in ast.walk(ast.parse(text)):
            parts = node.values if isinstance(node, ast.JoinedStr) else []
            for value, after in pairwise(parts):
                if isinstance(value, ast.FormattedValue) and isinstance(after, ast.Constant):
                    expression = ast.unparse(value.value)
                    is_known = expression in known or expression.startswith("counted(")
                    if PLURAL.match(after.value) and not is_known:
                        found.add(f"{file.name}:{value.lineno}: {expression}{after.value}")
    assert found == set()


def test_a_character_of_several_tokens_is_shown_once():
    """Red when: tokens are decoded one by one. The tiny base has a token for each byte of ö, € and the emoji."""
    from transformers import AutoTokenizer

    from ift.lab.testbed import tiny_base_path

    tokenizer = AutoTokenizer.from_pretrained(tiny_base_path())
    text = "Wann öffnet? 5 € \U0001f600\u202e"
    ids = tokenizer(text)["input_ids"]
    shown = token_texts(tokenizer, ids, ids)
    assert "".join(piece for piece, _ in shown) == text.replace("\u202e", "[U+202E]")
    assert {guess for _, guess in shown} == {""}
    first = next(place for place, token in enumerate(ids) if tokenizer.decode([token]) == BROKEN)
    guesses = list(ids)
    guesses[0], guesses[first], guesses[first + 1] = ids[-1], ids[0], ids[first + 1] + 1
    found = token_texts(tokenizer, ids, guesses)
    assert found[0] == ("W", PART)
    assert found[first : first + 2] == [("", "W"), ("ö", "÷")]  # the second byte of ö, plus one


def test_the_space_before_a_word_is_kept():
    """Of a tokenizer that decodes a first word without it."""

    class Words:
        def decode(self, tokens, **_):
            return " ".join(("a", "b", "c")[token] for token in tokens)

    assert token_texts(Words(), [0, 1, 2], [0, 2, 2]) == [("a", ""), (" b", " c"), (" c", "")]

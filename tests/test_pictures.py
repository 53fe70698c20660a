"""The pictures with text, docs/images/mdp.svg and data-way.svg: made by their script, true, and readable on a phone."""

import re
from itertools import combinations
from pathlib import Path

import pytest
from chromium import MARKS, Chromium

from ift.step import equations
from mdp_picture import DESCRIPTION, LAMBDA, METHODS, PARTS, mdp_picture

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
PICTURES = ("mdp.svg", "data-way.svg")


def test_the_committed_picture_is_the_script_s():
    assert (IMAGES / "mdp.svg").read_text(encoding="utf-8") == mdp_picture()


def test_functions_and_tests_of_the_picture_are_those_of_the_table_on_the_page():
    page = (ROOT / "docs" / "method.md").read_text()
    rows = re.findall(r"^\| (\d) \| \*\*([\w -]+)[^|]*\|.*$", page, re.MULTILINE)
    assert [int(count) for count, _ in rows] == [*range(1, len(PARTS) + 1)]
    for (count, _), (_, _, function, test) in zip(rows, PARTS, strict=True):
        (line,) = re.findall(rf"^\| {count} \| .*$", page, re.MULTILINE)
        assert f"`{function}`" in line
        if function.endswith(".py"):
            assert (ROOT / "src" / "ift" / "step" / function).exists()
        else:
            assert callable(getattr(equations, function))
        (found,) = (ROOT / "tests").rglob(test)
        assert f"`{found.relative_to(ROOT)}`" in line or count == "3"


def test_the_mixed_states_are_drawn_at_the_default_lambda():
    from ift import IFTConfig

    assert IFTConfig.residual_lambda == LAMBDA
    assert "a fifth of the way" in DESCRIPTION
    assert [name for name, *_ in METHODS] == re.findall(r"\b(SFT|DPO|PPO|IFT)\b", DESCRIPTION)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium = Chromium(tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.close()


PLACES = """[...document.querySelectorAll('text')].map(t => {
  const r = t.getBoundingClientRect(); return [t.textContent, r.left, r.top, r.right, r.bottom]; })"""


@pytest.mark.parametrize("name", PICTURES)
class TestInABrowser:
    pytestmark = MARKS

    def test_no_text_overlaps_another_or_leaves_the_picture(self, browser, name):
        """Lines of one box may touch: a line's own box is higher than its letters, so a quarter of it is allowed."""
        browser.window(400, 900)
        browser.open(IMAGES / name)
        texts = browser.run(PLACES)
        assert len(texts) > 20
        for words, left, _, right, _ in texts:
            assert left >= 4, words
            assert right <= 396, words
        for one, other in combinations(texts, 2):
            across = min(one[3], other[3]) - max(one[1], other[1])
            down = min(one[4], other[4]) - max(one[2], other[2])
            assert across <= 0 or down <= 4, (one, other)

    def test_letters_are_readable_on_a_phone(self, browser, name):
        """At 360 pixels, the width of a small phone, no letter is below 9 pixels."""
        browser.window(360, 900, mobile=True)
        browser.open(IMAGES / name)
        wide = browser.run("document.documentElement.viewBox.baseVal.width")
        sizes = browser.run(
            "[...document.querySelectorAll('text')].map(t => parseFloat(getComputedStyle(t).fontSize))"
        )
        assert wide <= 400
        assert min(sizes) * 360 / wide >= 9

"""The page of `ift show` in a Chromium: it fits desktop and phone, fetches and runs nothing, and is readable."""

import base64
import subprocess
from pathlib import Path

import pytest
from chromium import MARKS, SHOTS, Chromium

from ift.lab.show.page import html_page
from ift.lab.show.step import ShownRow, ShownToken
from ift.text import visible

HOSTILE = visible("<img src=x onerror='window.broken = 1'>\u202e\x1b[31m" + "long" * 60)
pytestmark = MARKS


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    words = [
        "How",
        "many",
        "people",
        "ride",
        "the",
        "bus",
        "now",
        ",",
        "if",
        "two",
        "groups",
        "get",
        "on",
        "and",
        "three",
        "get",
        "off",
        "?\n",
    ]
    prompt = [ShownToken(f"{word} ") for word in words]
    answer = [
        ShownToken(
            f"{word} ",
            True,
            0.3 * place,
            0.2 * place,
            "other" * (place % 3 == 0),
            0.1 * place,
            0.5 - place % 2,
        )
        for place, word in enumerate(words * 3)
    ]
    rows = [
        ShownRow(1, (*prompt, *answer), 1.0),
        ShownRow(2, (ShownToken(HOSTILE, True, 9, 9, HOSTILE, 1, 1),), 2.0),
    ]
    file = tmp_path_factory.mktemp("page") / "show.html"
    file.write_text(html_page(rows, HOSTILE, "lambda 0.2"), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium = Chromium(tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.close()


def shoot(browser, name):
    SHOTS.mkdir(exist_ok=True)
    size = browser.call("Page.getLayoutMetrics")["cssContentSize"]
    clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 6000), "scale": 1}
    shot = browser.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
    (SHOTS / name).write_bytes(base64.b64decode(shot))
    assert (SHOTS / name).stat().st_size > 5_000


@pytest.mark.parametrize("width", [1280, 390, 320])
def test_it_scrolls_down_only_and_each_token_has_its_weight_below(browser, page, width):
    browser.window(width, 800, mobile=width < 500)
    browser.open(page)
    assert browser.run("document.documentElement.scrollWidth") <= width
    order = browser.run(
        "[...document.querySelectorAll('.token')].every(t => { const [a, b, c] = [...t.children]"
        ".map(p => p.getBoundingClientRect()); return a.bottom <= b.top + 1 && b.bottom <= c.top + 1; })"
    )
    assert order
    shoot(browser, f"show-{width}.png")


def test_nothing_is_fetched_and_no_script_runs(browser, page):
    browser.window(1280, 900)
    browser.open(page)
    sent = [
        event["params"]["request"]["url"]
        for event in browser.events
        if event.get("method") == "Network.requestWillBeSent"
    ]
    assert sent == [page.resolve().as_uri()]
    assert browser.run("typeof window.broken") == "undefined"
    assert not [
        event
        for event in browser.events
        if event.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded")
    ]


CONTRAST = """[...document.querySelectorAll('.text')].map(e => {
  const parse = c => c.match(/[\\d.]+/g).map(Number), paper = parse(getComputedStyle(document.body).backgroundColor);
  const over = parse(getComputedStyle(e).backgroundColor), a = over.length > 3 ? over[3] : 1;
  const light = c => c.slice(0, 3).map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const back = light(paper.map((v, i) => v * (1 - a) + over[i] * a)), ink = light(parse(getComputedStyle(e).color));
  return (Math.max(back, ink) + .05) / (Math.min(back, ink) + .05);
})"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_shade_is_readable(browser, page, scheme):
    """Contrast of the text to its shade by WCAG 2: at least 4.5 to 1."""
    browser.window(1280, 900, scheme)
    browser.open(page)
    assert len(browser.run("[...new Set([...document.querySelectorAll('.text')].map(e => e.className))]")) > 5
    assert min(browser.run(CONTRAST)) >= 4.5
    shoot(browser, f"show-{scheme}.png")


def test_the_picture_of_the_documents_is_the_script_s(tmp_path):
    """Up to the fonts of this machine: at most a tenth of its points differ by more than a third of the range."""
    import sys

    import numpy as np
    from PIL import Image

    root = Path(__file__).parents[3]
    made = tmp_path / "show.png"
    subprocess.run([sys.executable, root / "docs" / "make_show_picture.py", made], check=True, timeout=200)
    drawn, kept = (Image.open(file).convert("L") for file in (made, root / "docs" / "images" / "show.png"))
    assert drawn.size == kept.size
    apart = np.abs(np.asarray(drawn, int) - np.asarray(kept, int))
    assert (apart > 85).mean() < 0.1

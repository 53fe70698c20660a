"""The page in a real Chromium: sorting, filters, hostile texts, no network, dark, narrow, keyboard; screenshots."""

import base64
import json

import pytest
from chromium import MARKS, SHOTS, Chromium
from small_records import HOSTILE, ablation, comparison, record, write
from typer.testing import CliRunner

from ift.cli.main import app
from ift.lab.report import save
from ift.text import visible

pytestmark = MARKS


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    hostile = record(
        "ift", 0, variant=HOSTILE, setting=HOSTILE, experiment="hostile", config={HOSTILE: HOSTILE}
    )
    runs = write([*comparison(), *ablation()], folder / "runs")
    save(hostile, folder / "runs" / "hostile.json")
    done = CliRunner().invoke(app, ["report", str(runs), "--output_dir", str(folder / "out")])
    assert done.exit_code == 0, done.output
    return folder / "out" / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium = Chromium(tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.close()


@pytest.fixture
def opened(browser, page):
    browser.window(1280, 900)
    browser.open(page)
    return browser


def choose(browser, control, value):
    browser.run(
        f"document.getElementById({json.dumps(control)}).value = {json.dumps(value)};"
        f"document.getElementById({json.dumps(control)}).dispatchEvent(new Event('input', {{bubbles: true}}))"
    )


def column(browser, index):
    """Texts of a column's cells in the rows shown."""
    rows = "[...document.querySelectorAll('#table tbody tr')].filter(row => !row.hidden)"
    return browser.run(f"{rows}.map(row => row.cells[{index}].textContent)")


def sorts(browser):
    return browser.run(
        "[...document.querySelectorAll('#table thead th')].map(h => h.getAttribute('aria-sort'))"
    )


def shoot(browser, name):
    SHOTS.mkdir(exist_ok=True)
    size = browser.call("Page.getLayoutMetrics")["cssContentSize"]
    clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 6000), "scale": 1}
    shot = browser.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
    (SHOTS / name).write_bytes(base64.b64decode(shot))
    assert (SHOTS / name).stat().st_size > 10_000


def test_a_click_on_a_head_sorts_and_says_so(opened):
    choose(opened, "by-comparison", "compare: chains, 800 rows, noise 0.3")
    choose(opened, "by-split", "test")
    click = "document.querySelectorAll('#table thead button')[2].click()"
    opened.run(click)
    assert sorts(opened)[2] == "descending"
    assert sorts(opened).count("none") == len(sorts(opened)) - 1
    down = [float(text.split()[0]) for text in column(opened, 2)]
    assert down == sorted(down, reverse=True)
    assert column(opened, 0)[-1] == "base"
    opened.run(click)
    assert sorts(opened)[2] == "ascending"
    assert column(opened, 0)[0] == "base"
    opened.run(
        "document.querySelectorAll('#table thead button')[3].click()"
    )  # the baseline has no difference
    assert column(opened, 3)[-1] == "–"
    assert "Sorted by minus sft, descending." in opened.run("document.getElementById('status').textContent")


def test_the_keyboard_sorts(opened):
    opened.run("document.querySelectorAll('#table thead button')[0].focus()")
    opened.key("Enter", 13, "\r")
    assert sorts(opened)[0] == "ascending"
    assert column(opened, 0)[0] == "base"
    opened.key("Tab", 9)
    assert opened.run("document.activeElement.closest('th').cellIndex") == 1
    opened.key(" ", 32, " ")
    assert sorts(opened)[:2] == ["none", "ascending"]
    assert opened.run("document.activeElement.matches(':focus-visible')")


def test_the_filters_narrow_table_figures_and_answers(opened):
    everything = len(column(opened, 0))
    choose(opened, "by-comparison", "compare: chains, 800 rows, noise 0.3")
    choose(opened, "by-split", "test")
    assert column(opened, 0) == ["base", "sft", "dpo", "ift", "sft+dpo", "sft+ift"]
    assert set(column(opened, 1)) == {"test"}
    assert len(column(opened, 0)) < everything
    shown = "[...document.querySelectorAll('figure')].filter(f => f.offsetParent).length"
    assert opened.run(shown) == 4
    choose(opened, "by-method", "SFT+")
    assert column(opened, 0) == ["sft+dpo", "sft+ift"]
    assert opened.run("document.querySelectorAll('article.answer').length") == 2
    choose(opened, "by-method", "no such method")
    assert column(opened, 0) == []
    assert "0 of" in opened.run("document.getElementById('status').textContent")
    choose(opened, "by-method", "")
    choose(opened, "by-comparison", "")
    choose(opened, "by-split", "")
    assert len(column(opened, 0)) == everything


def test_answers_stand_side_by_side_with_the_first_wrong_step_marked(opened):
    choose(opened, "by-comparison", "compare: chains, 800 rows, noise 0.3")
    choose(opened, "by-outcome", "differ")
    choose(opened, "by-seed", "1")
    assert opened.run("document.getElementById('place').textContent") == "1 of 2"
    heads = "[...document.querySelectorAll('article h3')].map(h => h.textContent)"
    assert opened.run(heads) == [f"{name} (seed 1)" for name in ("sft", "dpo", "ift", "sft+dpo", "sft+ift")]
    left = opened.run(
        "[...document.querySelectorAll('article')].slice(0, 2).map(a => a.getBoundingClientRect().left)"
    )
    assert left[1] > left[0] + 100
    marked = "[...document.querySelectorAll('article .first-wrong')].map(line => line.textContent)"
    assert opened.run(marked) == ["7 * 6 = 48  ← first wrong step"]
    choose(opened, "by-outcome", "wrong")
    choose(opened, "by-seed", "0")
    opened.run("document.getElementById('next').click()")
    assert opened.run(marked) == ["← a step is missing here", "7 * 6 = 48  ← first wrong step"]


def test_hostile_texts_are_shown_and_do_not_run(opened):
    choose(opened, "by-comparison", "")
    for _ in range(3):
        assert opened.run("typeof window.broken") == "undefined"
        shown = opened.run("document.getElementById('sample').textContent")
        if "<script>window.broken = 1</script>" in shown:
            assert "[U+202E]" in shown
        opened.run("document.getElementById('next').click()")
    prompt = "document.querySelector('.problem .text').textContent"
    choose(opened, "by-comparison", "compare: chains, 800 rows, noise 0.3")
    assert opened.run(prompt) == visible(HOSTILE)
    assert (
        opened.run("document.querySelectorAll('#sample script, #sample img, table script, table img').length")
        == 0
    )
    assert opened.run("document.scripts.length") == 2
    assert not any("\u202e" in text for text in column(opened, 0))
    assert opened.run("document.querySelector('details code').closest('a')") is None
    problems = [
        event
        for event in opened.events
        if event.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded")
    ]
    assert problems == []


def test_the_policy_stops_a_script_that_is_not_ours(opened):
    """The second wall: were a text ever read as HTML, its script would still not run."""
    opened.run(
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.broken = 9\">');"
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.broken = 8'}))"
    )
    opened.run("new Promise(done => setTimeout(done, 200))")
    assert opened.run("typeof window.broken") == "undefined"


def test_nothing_is_fetched(opened, page):
    requests = [event for event in opened.events if event.get("method") == "Network.requestWillBeSent"]
    sent = [event["params"]["request"]["url"] for event in requests]
    assert [url for url in sent if not url.startswith("data:")] == [
        url for url in sent if url.startswith("file:")
    ]
    assert len([url for url in sent if url.startswith("file:")]) == 1
    loaded = opened.run("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert loaded


def luminance(colour):
    channels = [int(part) / 255 for part in colour.removeprefix("rgb(").rstrip(")").split(", ")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_are_readable(browser, page, scheme):
    """Contrast of text to paper by WCAG 2: at least 7 to 1; for soft text 4.5 to 1."""
    browser.window(1280, 900, scheme)
    browser.open(page)
    assert browser.run("document.documentElement.scrollWidth") <= 1280
    paper = luminance(browser.run("getComputedStyle(document.body).backgroundColor"))
    assert (paper > 0.5) == (scheme == "light")
    for element, least in (("body", 7), ("header p", 4.5), (".verdict.wrong", 4.5)):
        ink = luminance(browser.run(f"getComputedStyle(document.querySelector('{element}')).color"))
        assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) >= least, element
    assert browser.run("document.images[0].currentSrc === document.images[0].src") == (scheme == "light")
    shoot(browser, f"report-{scheme}.png")


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_scrolls_down_only(browser, page, width):
    browser.window(width, 800, mobile=True)
    browser.open(page)
    choose(browser, "by-comparison", "compare: chains, 800 rows, noise 0.3")
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run("getComputedStyle(document.querySelector('.wide')).overflowX") == "auto"
    left = browser.run("[...document.querySelectorAll('article')].map(a => a.getBoundingClientRect().left)")
    assert len(set(left)) == 1  # one below the other
    shoot(browser, f"report-phone-{width}.png")

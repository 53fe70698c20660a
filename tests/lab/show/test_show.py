"""`ift show`: the figures of `ift_loss` beside the tokens they belong to, in the terminal and on the page."""

import json
import re

import pytest
import torch
from rich.cells import cell_len
from typer.testing import CliRunner

from ift.cli.main import app
from ift.lab.show.page import html_page
from ift.lab.show.step import ShownRow, ShownToken, prepare_first_rows, shown_rows
from ift.lab.show.terminal import lines, shade
from ift.lab.testbed import problems, tiny_base_path
from ift.models.loading import LoadOptions, load_network
from ift.runs.arguments import parse
from ift.step import ift_loss

HOSTILE = "<img src=x onerror='window.broken = 1'>\u202e\x1b[31m"
TOKENS = (
    ShownToken("Hi "),
    ShownToken("there", True, 2.0, 1.5, "you", 1.25, 0.5),
    ShownToken("世界\n", True, 0.01, 0.01, "", 0.75, -0.25),
)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    file.write_text("".join(json.dumps(problem.row) + "\n" for problem in problems("train", 4)))
    return file


def test_the_figures_are_those_of_the_step(rows):
    """Row 2, against a call of `ift_loss` on the same ids and labels; something is pushed up with the released code."""
    args = parse(
        [
            "--model_name_or_path",
            str(tiny_base_path()),
            "--dataset_name",
            str(rows),
            "--propagation_detach",
            "none",
        ]
    )
    prepared = prepare_first_rows(args, 2)
    _, row = shown_rows(args, prepared, 2)
    entry = prepared.sets["train"].dataset[1]
    batch = {name: torch.tensor([entry[name]]) for name in ("input_ids", "labels")}
    model = load_network(str(tiny_base_path()), LoadOptions(dtype="float32")).eval()
    wanted = ift_loss(model, batch, propagation_detach="none")
    trained = [one for one in row.tokens if one.trained]
    at = wanted.layout.trained[0]
    for name, column in (("loss", wanted.scores.losses), ("nll", wanted.scores.nll), ("weight", wanted.weights),
                         ("push", wanted.gradient * len(trained))):  # fmt: skip
        shown = torch.tensor([getattr(one, name) for one in trained])
        torch.testing.assert_close(shown, column[0][at].detach(), atol=1e-5, rtol=1e-4)
    assert row.loss == pytest.approx(float(wanted.loss.detach()), abs=1e-5)
    wrong = wanted.scores.lookahead_ids[0] != batch["input_ids"][0]
    assert [bool(one.guess) for one in row.tokens] == (wrong & at).tolist()
    assert [one.pushed_up for one in row.tokens] == (wanted.gradient[0] < 0).tolist()
    assert any(one.pushed_up for one in trained)
    assert "".join(one.text for one in row.tokens).startswith("<|user|>")


def test_nothing_is_pushed_up_by_the_default(rows):
    args = parse(["--model_name_or_path", str(tiny_base_path()), "--dataset_name", str(rows)])
    for row in shown_rows(args, prepare_first_rows(args, 3), 3):
        assert not any(one.pushed_up for one in row.tokens)


@pytest.mark.parametrize(("loss", "level"), [(0.0, 0), (0.6931, 4), (2.302, 8), (50.0, 9), (float("inf"), 9)])
def test_a_shade_is_the_probability_that_is_lacking(loss, level):
    """Half of it (loss ln 2) is in the middle of ten shades; a tenth left (ln 10) is at nine tenths."""
    assert shade(loss, 10) == level


@pytest.mark.parametrize("width", [10, 40])
def test_lines_of_the_terminal_fit_and_stand_below_each_other(width):
    found = [line.plain for line in lines(ShownRow(1, TOKENS, 0.5), width)]
    assert all(cell_len(line) <= width for line in found)
    assert "there" in "".join(found)
    if width == 40:
        above, middle, below, pushes = found
        assert middle.index("there") == above.index("you") == below.index("1.25") == pushes.index("0.50")
        assert cell_len(middle[: middle.index("世")]) == cell_len(below[: below.index("0.75")])
        assert "-0.25▲" in pushes
        assert "▲" not in below
    assert len(found) == (4 if width == 40 else 7)  # the second line of tokens has no guess above


def test_without_colour_brackets_say_what_is_trained_and_numbers_what_the_loss_is():
    above, middle, below, _, losses = [
        line.plain for line in lines(ShownRow(1, TOKENS, 0.5), 40, colour=False)
    ]
    assert middle.startswith("Hi ⟦there")
    assert middle.index("there") == above.index("you") == below.index("1.25") == losses.index("2.00")
    tokens = (*TOKENS[:2], ShownToken("!"), *TOKENS[1:2])
    (_, found, *_) = [line.plain for line in lines(ShownRow(1, tokens, 0.5), 40, colour=False)]
    assert found.replace(" ", "") == "Hi⟦there⟧!⟦there⟧"


def test_the_page_marks_shades_guesses_weights_and_pushes():
    page = html_page([ShownRow(1, TOKENS, 0.5)], "A <step>", "lambda 0.2")
    assert "<title>A &lt;step&gt;</title>" in page
    assert re.search(
        r'<span class="guess">you</span><span class="text s8">there</span><span class="weight">1.25<', page
    )
    assert re.search(r'class="token up".*?<span class="text s0">世界⏎</span><span class="weight">0.75▲', page)
    assert '<span class="plain">Hi </span>' in page
    assert "<script" not in page


def test_the_verb_prints_the_rows_and_writes_the_page(rows, tmp_path):
    page = str(tmp_path / "page.html")
    done = CliRunner().invoke(app, ["show", str(tiny_base_path()), str(rows), "-n", "2", "--output", page])
    assert done.exit_code == 0, done.output
    (tmp_path / "mine.html").write_text("mine")
    words = ["show", str(tiny_base_path()), str(rows), "--output", str(tmp_path / "mine.html")]
    assert CliRunner().invoke(app, words).exit_code == 1
    assert (tmp_path / "mine.html").read_text() == "mine"
    assert "row 2: " in done.output
    assert "page: " in done.output
    assert "⟦trained⟧; above: " in done.output  # the output of the runner is no terminal
    assert "⟦" in done.output.partition("row 2: ")[2].partition("⟦trained⟧")[0]
    assert (tmp_path / "page.html").read_text().count("<section>") == 2


def test_weights_of_the_users_own_are_shown(rows, tmp_path):
    """By hand: linear weights with mean 1 fall from 2n / (n + 1) to 2 / (n + 1). Red when: bellman's are shown."""
    file, page = tmp_path / "own.py", tmp_path / "page.html"
    file.write_text(
        "from ift.step import suffix_sums\n"
        "def linear(losses, layout):\n"
        "    trained = layout.trained.to(losses.dtype)\n"
        "    left = suffix_sums(trained, 1.0, layout.documents) * trained\n"
        "    return 2 * left / (layout.per_document(trained) + 1)\n"
    )
    words = ["--token_weights", f"{file}:linear"]
    args = parse(["--model_name_or_path", str(tiny_base_path()), "--dataset_name", str(rows), *words])
    (row,) = shown_rows(args, prepare_first_rows(args, 1), 1)
    weights = [one.weight for one in row.tokens if one.trained]
    n = len(weights)
    assert [weights[0], weights[-1]] == pytest.approx([2 * n / (n + 1), 2 / (n + 1)])
    done = CliRunner().invoke(app, ["show", str(tiny_base_path()), str(rows), "--output", str(page), *words])
    assert done.exit_code == 0, done.output
    assert f"weights of {file}:linear" in page.read_text()


def test_a_configuration_and_flags_of_ift_train_name_model_and_rows_too(rows, tmp_path):
    """Red when: the command of `ift check` and the file of a run do not work here."""
    config, model = tmp_path / "run.yaml", ["--model-name-or-path", str(tiny_base_path())]
    config.write_text(f"model_name_or_path: {tiny_base_path()}\ndataset_name: {rows}\n")
    pages = []
    for name, words in (("a", ["--config", str(config)]), ("b", [*model, "--dataset_name", str(rows)])):
        page = tmp_path / f"{name}.html"
        done = CliRunner().invoke(app, ["show", *words, "-n", "1", "--output", str(page)])
        assert done.exit_code == 0, done.output
        pages.append(page.read_text())
    assert pages[0] == pages[1]
    assert f"A step of {tiny_base_path()} on {rows}" in pages[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--learning_rate", "1"],
            "give MODEL and DATA first: ift show MODEL DATA -n 3; or name both in --config",
        ),
        (["m", "-n", "1"], "give MODEL and DATA first"),
        (["m", "d", "e"], "give MODEL and DATA first"),
        (["m", "d", "-n", "0"], "-n 0: give 1 or more"),
        (["m", "d", "--method", "dpo"], "--method dpo: a step can be shown for ift and sft"),
        (
            ["m", "d", "--method", "position-weights"],
            "--method position-weights: a step can be shown for ift and sft",
        ),
        (["m", "d", "--residual_lamda", "1"], "did you mean --residual_lambda?"),
    ],
)
def test_mistakes_of_usage(words, said):
    done = CliRunner().invoke(app, ["show", *words])
    assert done.exit_code == 2
    assert said in done.stderr
